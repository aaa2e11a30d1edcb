"""Analyses of the answers of all dims, against loops over examples and classes."""

import collections
import json

import numpy as np
import pytest

from mrl_jax.evals import analysis, spectrum, superclass

DIMS = (8, 16, 32, 64)
NAMES = ("ape", "bee", "cat", "dog", "elk")


@pytest.fixture(scope="module")
def answers():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200)
    predicted = np.where(rng.random((4, 200)) < 0.5, labels, rng.integers(0, 5, (4, 200)))
    return predicted, labels


def test_oracle_routes_to_the_first_dim_that_is_right(answers):
    predicted, labels = answers
    firsts = [next((g for g in range(4) if predicted[g, n] == labels[n]), None) for n in range(200)]
    found = analysis.oracle(predicted == labels, DIMS)
    counts = collections.Counter(firsts)
    np.testing.assert_allclose(found.first_correct_G, [counts[g] / 200 for g in range(4)])
    assert found.never == counts[None] / 200 > 0
    assert found.accuracy == pytest.approx(1 - found.never)
    assert found.expected_dim == np.mean([64 if g is None else DIMS[g] for g in firsts])


def test_majority_vote_with_ties_to_the_largest_dim(answers):
    predicted, _ = answers
    found = analysis.majority_vote(predicted)
    for n, column in enumerate(predicted.T):
        counts = collections.Counter(column.tolist())
        most = max(counts.values())
        assert found[n] == next(a for a in reversed(column.tolist()) if counts[a] == most)


def test_disagreement_and_who_alone_is_right(answers):
    predicted, labels = answers
    disagree, alone = analysis.disagreement(predicted), analysis.only_right(predicted == labels)
    for i in range(4):
        for j in range(4):
            pairs = list(zip(predicted[i], predicted[j], labels))
            assert disagree[i, j] == pytest.approx(np.mean([a != b for a, b, _ in pairs]))
            assert alone[i, j] == pytest.approx(np.mean([a == y != b for a, b, y in pairs]))


def test_class_accuracy_leaves_out_classes_without_examples(answers):
    predicted, labels = answers
    found = analysis.class_accuracy(predicted == labels, labels, 6)
    assert np.isnan(found[:, 5]).all()
    for c in range(5):
        np.testing.assert_allclose(found[:, c], (predicted[:, labels == c] == c).mean(axis=1))


@pytest.mark.parametrize(
    ("curve", "tolerance", "expected"),
    [
        ((0.1, 0.2, 0.2, 0.4), 0.0, "rising"),
        ((0.1, 0.3, 0.3, 0.2), 0.0, "rise then dip"),
        ((0.1, 0.3, 0.2, 0.3), 0.0, "other"),
        ((0.4, 0.3, 0.3, 0.5), 0.0, "dip then rise"),
        ((0.4, 0.5, 0.3, 0.5), 0.0, "other"),
        ((0.4, 0.3, 0.3, 0.1), 0.0, "falling"),
        ((0.4, 0.4, 0.4, 0.4), 0.0, "flat"),
        ((0.1, 0.3, 0.28, 0.4), 0.02, "rising"),
        ((0.1, 0.11, 0.1, 0.11), 0.02, "flat"),
        ((0.1, 0.3, 0.27, 0.4), 0.02, "other"),
    ],
)
def test_trends_of_a_class(curve, tolerance, expected):
    accuracy = np.stack([curve, [np.nan] * 4], axis=1)
    found = analysis.trends(accuracy, tolerance)
    assert analysis.TRENDS[found[0]] == expected
    assert found[1] == -1


def test_every_curve_has_one_trend():
    """Against the words themselves: the signs of the steps, without repetition."""
    rng = np.random.default_rng(1)
    accuracy = rng.integers(0, 4, (5, 500)) / 10
    named = {(): "flat", (1,): "rising", (-1,): "falling", (1, -1): "rise then dip", (-1, 1): "dip then rise"}
    for c, place in enumerate(analysis.trends(accuracy)):
        signs = [int(s) for s in np.sign(np.diff(accuracy[:, c])) if s]
        runs = tuple(s for s, before in zip(signs, [0, *signs]) if s != before)
        assert analysis.TRENDS[place] == named.get(runs, "other")


def test_gap_to_the_line_between_trained_dims():
    gaps = analysis.gap_to_line((4, 8, 16, 32, 64), np.array([0.1, 0.2, 0.45, 0.4, 0.5]), (8, 32))
    assert np.isnan(gaps[[0, 4]]).all()
    np.testing.assert_allclose(gaps[1:4], [0, 0.15, 0], atol=1e-12)


def test_spectrum_equals_its_definitions_on_the_features():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 8)) @ rng.normal(size=(8, 8))
    z -= z.mean(axis=0)
    found = spectrum.measure(z.T @ z, (1, 3, 8))
    for g, m in enumerate((1, 3, 8)):
        x = z[:, :m]
        share = np.linalg.svd(x, compute_uv=False) ** 2 / np.sum(x**2)
        assert found.effective_rank[g] == pytest.approx(np.exp(-np.sum(share * np.log(share))))
        assert found.participation[g] == pytest.approx(1 / np.sum(share**2))
        assert found.own_variance[g] == pytest.approx(np.sum(x**2) / np.sum(z**2))
        residual = z - x @ np.linalg.lstsq(x, z, rcond=None)[0]
        assert found.explained[g] == pytest.approx(1 - np.sum(residual**2) / np.sum(z**2), abs=1e-6)
        ours, whole = x @ x.T, z @ z.T
        cka = np.sum(ours * whole) / np.linalg.norm(ours) / np.linalg.norm(whole)
        assert found.cka[g] == pytest.approx(cka)
    assert found.explained[-1] == pytest.approx(1)
    assert found.cka[-1] == pytest.approx(1)


def test_constant_features_do_not_break_the_spectrum():
    covariance = np.diag([1.0, 0.0, 2.0])
    found = spectrum.measure(covariance, (1, 2, 3))
    np.testing.assert_allclose(found.effective_rank[:2], 1)
    np.testing.assert_allclose(found.explained, [1 / 3, 1 / 3, 1], atol=1e-6)
    with pytest.raises(ValueError, match="no variance"):
        spectrum.measure(np.zeros((3, 3)), (1,))
    with pytest.raises(ValueError, match=r"\[4\] are not in 1..3"):
        spectrum.measure(covariance, (2, 4))


def test_superclass_accuracy_with_rejects(answers, tmp_path):
    predicted, labels = answers
    path = tmp_path / "h.csv"
    path.write_text("ape,mammal\nbee, insect\ncat,mammal\n3,mammal\n")
    hierarchy = superclass.read(path, 5, NAMES)
    assert hierarchy.names == ("insect", "mammal", superclass.REJECTS)
    of = {0: "mammal", 1: "insect", 2: "mammal", 3: "mammal", 4: superclass.REJECTS}
    found = superclass.accuracy(predicted, labels, hierarchy)
    for s, name in enumerate(hierarchy.names):
        rows = [n for n in range(200) if of[labels[n]] == name]
        for g in range(4):
            assert found[g, s] == pytest.approx(np.mean([of[predicted[g, n]] == name for n in rows]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("h.json", '{"ape": "mammal", "bea": "insect"}', "did you mean 'bee'"),
        ("h.json", '{"0": "mammal", "7": "insect"}', "'7' is none of the 5 classes"),
        ("h.json", "[1]", "neither a JSON object"),
        ("h.json", "{}", "no class a superclass"),
        ("h.csv", "ape,mammal,big", "3 cells"),
        ("h.csv", "ape,mammal\nape,insect", "twice"),
        ("h.json", '{"ape": "mammal", "bee": "insect", "0": "insect"}', "'ape' and '0' are one class"),
        ("h.json", '{"ape": "mammal", "bee": "(none)"}', "'\\(none\\)' is the superclass of classes left out"),
        ("h.json", json.dumps(dict.fromkeys(NAMES, "thing")), "at least two"),
    ],
)
def test_bad_hierarchies_are_one_clear_error(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        superclass.read(tmp_path / name, 5, NAMES)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        superclass.read(tmp_path / "none.json", 5, NAMES)


def test_the_largest_disjoint_superclasses():
    ancestors = {
        "ape": {"entity", "thing", "animal", "mammal"},
        "cat": {"entity", "thing", "animal", "mammal"},
        "dog": {"entity", "thing", "animal", "mammal"},
        "bee": {"entity", "thing", "animal", "insect"},
        "ant": {"entity", "thing", "animal", "insect"},
        "mug": {"entity", "thing", "vessel"},
    }
    assert superclass.largest_disjoint(ancestors, 2) == {
        **dict.fromkeys(("ape", "cat", "dog"), "mammal"),
        **dict.fromkeys(("bee", "ant"), "insect"),
    }
    assert superclass.largest_disjoint(ancestors, 3)["mug"] == "vessel"
    with pytest.raises(ValueError, match="at most 3 disjoint"):
        superclass.largest_disjoint(ancestors, 4)


def test_wordnet_needs_its_names_and_its_data(monkeypatch):
    with pytest.raises(ValueError, match="not 'ape'"):
        superclass.from_wordnet(NAMES, 2)
    with pytest.raises(ValueError, match="such as n01440764"):
        superclass.from_wordnet(None, 2)
    monkeypatch.setitem(__import__("sys").modules, "nltk.corpus", None)
    with pytest.raises(ImportError, match="pip install 'mrl_jax"):
        superclass.from_wordnet(("n01440764", "n01443537"), 2)

import numpy as np
import pytest

from mrl_jax.evals import EVALUATORS
from mrl_jax.evals.classification import ranks
from mrl_jax.evals.features import FeatureStore, dims_of
from mrl_jax.nesting import Nesting

NESTING = Nesting((2, 4))


def store(z, label, counter=None, mask=None):
    """A model whose embedding is its input and whose head is the identity."""

    def embed(variables, batch):
        if counter is not None:
            counter.append(1)
        return batch["image"], {"head/kernel": np.eye(4, dtype=np.float32)}

    def batches(split):
        real = np.ones(len(z), bool) if mask is None else mask
        for i in range(0, len(z), 3):
            yield {"image": z[i : i + 3], "label": label[i : i + 3], "mask": real[i : i + 3]}

    def logits(z, head, nesting, dim, mean):
        return z[:, :dim] @ head["head/kernel"][:dim]

    return FeatureStore(embed, None, batches, lambda batch: batch, logits, NESTING)


@pytest.fixture
def data():
    label = np.array([0, 1, 2, 3, 0, 1, 2], np.int32)
    return np.eye(4, dtype=np.float32)[label], label


def test_identities_reach_the_evaluators_and_not_the_model():
    rows = {"z": np.eye(4, dtype=np.float32), "label": np.arange(4), "mask": np.array([True, True, True, False])}
    known = {"caption": np.array([5, 6, 7, 0]), "picture": np.array([1, 1, 2, 0])}

    def embed(variables, batch):
        assert batch.keys() == {"z"}
        return batch["z"], {"pair/z": batch["z"]}

    found = FeatureStore(embed, None, lambda split: iter([rows | known]), lambda batch: batch, None, NESTING)("test")
    np.testing.assert_array_equal(found.caption_N, [5, 6, 7])
    np.testing.assert_array_equal(found.picture_N, [1, 1, 2])


def test_features_are_extracted_once_and_shared(data):
    counter = []
    shared = store(*data, counter)
    for name in ("classification", "knn", "linear_probe"):
        dict(EVALUATORS[name]().run(shared))
    assert len(counter) == 2 * 3, "test and train, three batches each"


@pytest.mark.parametrize(
    ("name", "message"),
    [("masked_lm", "no gaps"), ("pair_retrieval", "no pairs"), ("zero_shot", "needs names of classes")],
)
def test_data_that_lack_what_an_evaluator_needs_are_named(data, name, message):
    with pytest.raises(ValueError, match=message):
        dict(EVALUATORS[name]().run(store(*data)))


def test_a_split_without_gaps_has_no_masked_piece_right():
    rows = {"targets": np.full((2, 3), -1, np.int32), "mask": np.ones(2, bool)}
    z = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)

    def embed(variables, batch):
        out = {"masked/z": z, "head/kernel": np.eye(4, dtype=np.float32), "head/bias": np.zeros(4, np.float32)}
        return z[:, 0], out

    given = FeatureStore(embed, None, lambda split: iter([rows]), lambda batch: batch, None, NESTING)
    assert set(dict(EVALUATORS["masked_lm"]().run(given)).values()) == {0.0}


def test_padding_is_left_out(data):
    z, label = data
    features = store(z, label, mask=np.arange(7) < 5)("test")
    np.testing.assert_array_equal(features.label_N, label[:5])
    assert features.z_NxD.shape == (5, 4)


def test_classification_by_dim(data):
    values = dict(EVALUATORS["classification"]().run(store(*data)))
    assert set(values) == {f"top{k}@{m}" for k in (1, 5) for m in (2, 3, 4)}
    assert values["top1@4"] == values["top5@2"] == 1.0
    # Classes 2 and 3 have no feature within dim 2: all logits are 0, and class 0 comes first.
    assert values["top1@2"] == pytest.approx(4 / 7)


def test_knn_on_its_own_gallery_is_perfect(data):
    assert dict(EVALUATORS["knn"](gallery="test").run(store(*data)))["top1@4"] == 1.0


def test_linear_probe_by_dim(data):
    z, label = (np.tile(x, (20, 1) if x.ndim == 2 else 20) for x in data)
    values = dict(EVALUATORS["linear_probe"]().run(store(z, label)))
    assert set(values) == {f"top{k}@{m}" for k in (1, 5) for m in (2, 3, 4)}
    assert values["top1@4"] == values["top5@2"] == 1.0
    assert values["top1@2"] == pytest.approx(6 / 7), "classes 2 and 3 look alike, and 3 is rarer"


def test_more_neighbours_than_gallery(data):
    with pytest.raises(ValueError, match="k=8 is more than the 7"):
        dict(EVALUATORS["knn"](k=8).run(store(*data)))


def test_a_diverged_model_is_reported(data):
    z, label = data
    with pytest.raises(ValueError, match="not finite"):
        store(z * np.nan, label)("test")


def test_ranks_count_ties_by_class_order():
    logits = np.array([[1.0, 3.0, 3.0, 0.0]], np.float32)
    z = np.zeros((1, 1), np.float32)
    assert [ranks(z, np.array([c]), lambda z: logits)[0] for c in range(4)] == [2, 0, 1, 3]


def test_default_dims_include_those_between():
    assert dims_of(Nesting((8, 16, 32)), ()) == (8, 12, 16, 24, 32)
    assert dims_of(Nesting((8, 16)), (16, 3)) == (3, 16)
    with pytest.raises(ValueError, match=r"\[17\] are not in 1\.\.16"):
        dims_of(Nesting((8, 16)), (17,))


def test_of_several_labels_the_one_ranked_first_counts():
    rng = np.random.default_rng(0)
    z = np.round(rng.normal(size=(200, 6)), 1).astype(np.float32)  # rounded, so that ties occur
    labels = np.stack([rng.permutation(6)[:3] for _ in z])
    labels[::2, 1:] = -1
    found = ranks(z, labels, lambda z: z)
    one_by_one = np.stack([ranks(z, np.maximum(column, 0), lambda z: z) for column in labels.T], axis=1)
    np.testing.assert_array_equal(found, np.where(labels >= 0, one_by_one, 6).min(axis=1))
    order = np.argsort(-z, axis=1, kind="stable")
    hits = [bool(set(order[i, :2]) & set(labels[i][labels[i] >= 0])) for i in range(len(z))]
    np.testing.assert_array_equal(found < 2, hits)


def test_several_labels_by_every_evaluator(data):
    z, label = data
    several = np.stack([np.full_like(label, -1), (label + 1) % 4, label], axis=1)
    shared = store(z, several)
    assert dict(EVALUATORS["classification"]().run(shared))["top1@4"] == 1.0
    assert dict(EVALUATORS["knn"](gallery="test").run(shared))["top1@4"] == 1.0
    with pytest.raises(ValueError, match=r"evals.knn.k=3: .*several labels.*set it to 1"):
        dict(EVALUATORS["knn"](gallery="test", k=3).run(shared))

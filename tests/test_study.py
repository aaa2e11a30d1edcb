"""The study command: every kind on a run and on bare files, what it leaves behind, and what it refuses."""

import dataclasses
import json
import types

import command
import numpy as np
import pytest
import scipy.special
from test_embed import save_checkpoint

from mrl_jax import config as configs
from mrl_jax import feature_pairs, parts, report, results, study, trained
from mrl_jax.data import sources
from mrl_jax.evals import EVALUATORS, answers, retrieval, superclass
from mrl_jax.evals.linear_heads import Heads
from mrl_jax.features_dir import open_features
from mrl_jax.models import heads
from mrl_jax.policy import Policy
from mrl_jax.studies import KINDS
from mrl_jax.studies.subject import Subject, subject_dims

SMALL = {
    "fewshot": {"shots": (1, 2), "ways": 3, "trials": 4, "classifiers": ["nearest_mean", "ridge"]},
    "longtail": {"imbalance": 3.0, "groups": (3, 5)},
    "adaptive": {"splits": 3},
    "gradcam": {"rows": (3, 0)},
    "indexes": {"kinds": ("flat", "hnsw"), "ks": (5,)},
    "quantization": {"ks": (5, 10), "shortlist": 12},
    "retrieval": {"ks": (5, 10), "shortlist": 8, "shortlists": (6, 12)},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    save_checkpoint(path)
    pair = feature_pairs.of_run(path, 3, None)
    (path / "h.json").write_text(json.dumps({str(c): "abc"[c % 3] for c in range(6)}))
    return path, pair


def subject(run, out, dims=(), **options):
    path, pair = run
    return Subject(pair, subject_dims(pair, dims), 0, "ridge", path, 3, out, **options)


def bare(tmp_path, rows=120, full=16, classes=4):
    rng = np.random.default_rng(0)
    names = []
    means = rng.normal(size=(classes, full))
    for name in ("train", "test"):
        labels = np.arange(rows) % classes
        z = (means[labels] + rng.normal(size=(rows, full))).astype(np.float32)
        np.save(tmp_path / f"{name}.npy", z)
        np.save(tmp_path / f"{name}_labels.npy", labels)
        names += [f"--{name}={tmp_path}/{name}.npy", f"--{name}_labels={tmp_path}/{name}_labels.npy"]
    return names


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_leaves_a_table_a_json_and_pictures(run, kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["study", kind, "--workdir=<b>x</b>"])
    options = dict(SMALL.get(kind, {}))
    if kind == "superclass":
        options["hierarchy"] = str(run[0] / "h.json")
    if kind == "robustness":
        options["shifted"] = [f"again={run[0] / 'features' / '3' / 'test'}"]
    if kind == "policy":
        options["policy"] = str(tmp_path / "p.json")
        Policy((4, 12), (0.2,), "margin").save(options["policy"])
    study.study(kind, subject(run, tmp_path, (4, 12, 32)), options)
    shown = capsys.readouterr().out
    found = results.read(tmp_path)[kind]
    assert "~     12" in shown
    assert "Not trained, evaluated all the same" in shown
    assert f"results/{kind}.json" in shown
    assert f'<h2 id="{kind}">' in (tmp_path / "report.html").read_text(), "without a config beside it"
    assert found["step"] == 3
    assert 12 in found["untrained_dims"]
    assert all(np.isfinite(v) for v in found["values"].values())
    assert found["details"]["test"]["checkpoint"]["step"] == 3
    drawn = sorted((tmp_path / "plots").glob("*")) if (tmp_path / "plots").exists() else []
    assert len(drawn) >= (0 if kind in ("oracle", "policy") else 1)
    assert all(p.suffix == ".png" and p.stat().st_size > 1000 for p in drawn)
    page = report.write(tmp_path, configs.to_json(trained.config_of(run[0], 3))).read_text()
    assert page.count("data:image/png") == len(drawn)
    assert "More plots" not in page, "a picture stands with the command that drew it"
    assert "mrl_jax.study" in page
    assert "<b>x</b>" not in page


def test_results_under_another_name_leave_those_of_the_study(run, tmp_path, capsys):
    for name in (None, "retrieval_other"):
        study.study("retrieval", subject(run, tmp_path), dict(SMALL["retrieval"]), name)
    found = results.read(tmp_path)
    assert found["retrieval_other"]["values"] == found["retrieval"]["values"]
    assert found["retrieval_other"]["details"] == found["retrieval"]["details"]
    times = found["retrieval"]["measured"]["values"]
    assert times.keys() == {f"ms_per_query@{m}" for m in subject(run, tmp_path).dims}
    assert all(ms > 0 for ms in times.values())
    assert not any("ms" in name for name in found["retrieval"]["values"]), "what the clock says is no value"
    shown = capsys.readouterr().out
    assert f"{times['ms_per_query@4']:.4f}" in shown
    assert "exact search of 40 rows for 5 neighbours of 40 queries at once" in shown
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"retrieval.png", "retrieval_other_retrieval.png"}
    page = report.write(tmp_path, None).read_text()
    assert "More plots" not in page
    assert page.count("measured ms_per_query") == 2
    for name in ("knn", "oracle", "a/b", ""):
        with pytest.raises(ValueError, match="must be letters"):
            results.check_name(name, (*EVALUATORS, *KINDS))


def test_the_heads_answer_as_the_evaluation_does(run, tmp_path):
    path, _ = run
    about = subject(run, tmp_path, (4, 6, 8, 20, 32))
    config = trained.config_of(path, 3, ("4", "6", "8", "20", "32"))
    assembled = trained.assemble(path, 3, config)
    store = parts.feature_store(assembled, parts.make_embed(assembled), trained.variables(path, 3, assembled))
    expected = dict(EVALUATORS["classification"](dims=about.dims).run(store))
    for m, accuracy in zip(about.dims, about.correct.mean(axis=1)):
        assert accuracy == pytest.approx(expected[f"top1@{m}"])


def test_flips_add_the_logits_of_an_image_and_of_its_mirror_image(run, tmp_path):
    path, plain = run
    pair = feature_pairs.of_run(path, 3, None, mirror=True)
    about = Subject(pair, (4, 8, 12, 32), 0, "ridge", path, 3, tmp_path)
    assembled = trained.assemble(path, 3, trained.config_of(path, 3))
    records = sources.load(assembled.config.data.name, "test", data_dir=assembled.config.data.dir).records
    images = np.stack([records[i]["image"] for i in range(len(records))])
    apply, variables = assembled.model.apply, trained.variables(path, 3, assembled)
    views = [np.asarray(apply(variables, {"image": x}, train=False)[0]) for x in (images, images[:, :, ::-1])]
    assert np.abs(views[0] - views[1]).max() > 1e-3
    head = {name: np.asarray(x) for name, x in trained.head(path, 3).items()}
    for g, m in enumerate(about.dims):
        summed = sum(heads.logits(z, head, pair.nesting, m, z.mean(axis=0)) for z in views)
        expected = scipy.special.softmax(np.asarray(summed), axis=1)
        found = answers.decide(pair.test.z, Heads(*([x[g]] for x in about.heads)))
        np.testing.assert_array_equal(found.predicted_GxN[0], expected.argmax(axis=1))
        np.testing.assert_allclose(found.confidence_GxN[0], expected.max(axis=1), rtol=1e-4)
    study.study("adaptive", about, {"splits": 2}, "adaptive_flips")
    assert results.read(tmp_path)["adaptive_flips"]["views"] == 2
    learned = str(tmp_path / "policies" / "max_softmax-3_flips.json")
    with pytest.raises(ValueError, match="was learned of 2 views of each image, these features are of 1"):
        KINDS["policy"](Subject(plain, plain.nesting.dims, 0, "ridge", path, 3, tmp_path), policy=learned)


def test_a_policy_is_saved_beside_the_results_and_tells_what_it_was_learned_on(run, tmp_path):
    about = subject(run, tmp_path)
    found = KINDS["adaptive"](about, splits=2, learn_rows=10, confidence="margin")
    policy = Policy.load(tmp_path / "policies" / "margin-3.json")
    assert policy.dims == (4, 8, 32)
    assert policy.calibrated_on["rows"] == 10
    assert policy.calibrated_on["data"]["checkpoint"]["step"] == 3
    again = KINDS["policy"](about, policy=found.details["policy"])
    shares = [v for k, v in again.values.items() if k.startswith("answered_here")]
    assert sum(shares) == pytest.approx(1)
    changed = {**policy.calibrated_on["data"], "checkpoint": {"step": 9, "manifest_sha256": "0" * 64}}
    Policy(policy.dims, policy.thresholds, "margin", {"data": changed}).save(tmp_path / "other.json")
    with pytest.raises(ValueError, match="learned with step 9"):
        KINDS["policy"](about, policy=str(tmp_path / "other.json"))


def test_features_of_anyone_are_answered_by_a_probe(tmp_path, capsys):
    bare(tmp_path)
    pair = feature_pairs.pair(
        *(open_features(tmp_path / f"{n}.npy", tmp_path / f"{n}_labels.npy") for n in ("train", "test"))
    )
    for probe in ("ridge", "logistic"):
        about = Subject(pair, subject_dims(pair, ()), 0, probe, None, None, tmp_path / probe)
        study.study("oracle", about, {})
        found = results.read(tmp_path / probe)["oracle"]
        assert probe in found["details"]["answered_by"]
        assert found["values"]["top1@16"] > 0.7
    assert "is not known" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_itself(tmp_path):
    names = bare(tmp_path)
    shown = command.finish(command.start("mrl_jax.study", "spectrum", *names, f"--out={tmp_path}/out", "--dims=4,16"))
    assert "effective rank" in shown
    assert (tmp_path / "out" / "plots" / "spectrum.png").exists()
    shown = command.finish(command.start("mrl_jax.study", "oracel", *names, f"--out={tmp_path}/out2"), expect=1)
    assert "error: KIND='oracel' is not one of" in shown
    assert "did you mean 'oracle'" in shown
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("oracle", {"shots": ["1"]}, "--shots=.* is not an option of 'oracle' but of fewshot"),
        ("superclass", {}, "--hierarchy is needed"),
        ("superclass", {"hierarchy": "none.json"}, "--hierarchy=none.json does not exist"),
        ("adaptive", {"confidence": "max_softmx"}, "did you mean 'max_softmax'"),
        ("fewshot", {"classifiers": ["ridge", "nearest"]}, "did you mean 'nearest_mean'"),
        ("fewshot", {"shots": ["1", "x"]}, "--shots=1,x: give whole numbers"),
        ("gradcam", {"target": "labels"}, "did you mean 'label'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(kind, given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        study.options_of(kind, given)


def flags(**given):
    names = ("workdir", "step", "data_dir", "train", "train_labels", "test", "test_labels", "flips")
    return types.SimpleNamespace(**dict.fromkeys(names) | {k: v and str(v) for k, v in given.items()})


def test_bad_features_are_one_clear_error(run, tmp_path):
    bare(tmp_path)
    good = {n: tmp_path / f"{n}.npy" for n in ("train", "train_labels", "test", "test_labels")}
    z, y = np.load(good["test"]), np.load(good["test_labels"])
    assert study.open_pair(flags(**good))[1] is None

    def saved(name, value):
        np.save(tmp_path / name, value)
        return tmp_path / name

    broken = z.copy()
    broken[7, 5] = np.nan
    cases = [
        ({"test": saved("nan.npy", broken)}, "--test: feature 5 of row 7 is nan"),
        ({"test": saved("narrow.npy", z[:, :8])}, "--train has 16 features, --test 8"),
        ({"test_labels": saved("short.npy", y[:-1])}, r"labels have shape \(119,\) for 120 rows"),
        ({"test_labels": saved("float.npy", y.astype(np.float16))}, "must be integers"),
        ({"test": tmp_path / "none.npy"}, "does not exist"),
        ({"test": None}, "give --workdir=RUN, or --train"),
        ({"workdir": run[0], "flips": True}, "--flips is of features embedded here"),
        ({"step": 3}, "--step and --data_dir are of a run"),
        ({"workdir": run[0]}, "--train has 16 features, step 3 of .* gives 32"),
    ]
    for change, message in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            study.open_pair(flags(**good | change))
    with pytest.raises(ValueError, match=r"\[64\] are not in 1..32"):
        subject_dims(run[1], (4, 64))
    with pytest.raises(ValueError, match=r"--rows: \[40\] are not in 0..39"):
        KINDS["gradcam"](subject(run, tmp_path), rows=(40,))


def test_depths_and_shortlists_that_cannot_be_are_refused_before_any_search(run, tmp_path, monkeypatch):
    monkeypatch.setattr("mrl_jax.evals.exact.search", None)
    small, own = SMALL["retrieval"], subject(run, tmp_path)
    cases = [
        ({"shortlist": 0}, "--shortlist=0 must be at least 5, the first of --ks"),
        ({"shortlists": (6, 9999)}, r"--shortlists=6,9999: \[9999\] are not in 5\.\.40, from the first of --ks"),
        ({"shortlists": (4,)}, r"--shortlists=4: \[4\] are not in 5\.\.40"),
        ({"ks": (5, 41)}, r"--ks=5,41: give depths in 1\.\.40"),
        ({"ks": (0,)}, "--ks=0: give depths"),
        ({"ks": ()}, "--ks=: give depths"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            KINDS["retrieval"](own, **small | change)


def test_codes_that_are_all_rescored_find_what_floats_find(run, tmp_path):
    own = subject(run, tmp_path)
    rows, full = len(own.pair.train.z), own.dims[-1]
    found = KINDS["quantization"](own, ks=(5,), shortlist=rows)
    exact = found.values[f"map@5_float32@{full}"]
    for name in ("float32", "int8", "binary"):
        assert found.values[f"map@5_{name}_rescored@{own.dims[0]}"] == pytest.approx(exact)
    alone = [found.values[f"map@5_{name}@{own.dims[0]}"] for name in ("float32", "int8", "binary")]
    assert len(set(alone)) > 1
    assert found.details["bytes_per_row"][f"int8@{full}"] == full
    assert found.details["bytes_per_row"][f"binary@{full}"] == full // 8
    with pytest.raises(ValueError, match=f"--ks={rows + 1}: give depths"):
        KINDS["quantization"](own, ks=(rows + 1,))


def test_labels_beyond_the_classes_are_refused(run, tmp_path):
    path, pair = run
    wrong = pair._replace(test=pair.test._replace(labels=np.asarray(pair.test.labels) + 3))
    about = Subject(wrong, (4, 8), 0, "ridge", path, 3, tmp_path)
    with pytest.raises(ValueError, match="beyond the 6 classes of the checkpoint's heads"):
        KINDS["oracle"](about)
    with pytest.raises(ValueError, match="beyond the 6 classes of training"):
        KINDS["oracle"](Subject(wrong, (4, 8), 0, "ridge", None, None, tmp_path))
    several = pair._replace(test=pair.test._replace(labels=np.asarray(pair.test.labels)[:, None]))
    with pytest.raises(ValueError, match="several classes per row"):
        KINDS["fewshot"](Subject(several, (4, 8), 0, "ridge", None, None, tmp_path))


def test_heads_do_not_answer_for_features_of_another_checkpoint(run):
    path, pair = run
    assert feature_pairs.of_checkpoint(pair, path, 3).nesting == pair.nesting
    identity = {**pair.test.info.identity, "checkpoint": {"step": 3, "manifest_sha256": "0" * 64}}
    other = pair.test._replace(info=dataclasses.replace(pair.test.info, identity=identity))
    with pytest.raises(ValueError, match=r"--test holds features of step 3 .*its heads cannot answer for them"):
        feature_pairs.of_checkpoint(pair._replace(test=other), path, 3)


def test_a_changed_set_of_another_checkpoint_is_refused_beside_bare_training_rows(run, tmp_path, monkeypatch):
    path, pair = run
    identity = {**pair.test.info.identity, "checkpoint": {"step": 3, "manifest_sha256": "0" * 64}}
    other = pair.test._replace(info=dataclasses.replace(pair.test.info, identity=identity))
    bare = pair._replace(train=pair.train._replace(info=dataclasses.replace(pair.train.info, identity={})))
    monkeypatch.setattr("mrl_jax.features_dir.open_features", lambda path, verify: other)
    with pytest.raises(ValueError, match=r"--shifted=a holds features of step 3 .*its heads cannot answer for them"):
        KINDS["robustness"](subject((path, bare), tmp_path), shifted=["a=x"])


def test_retrieval_numbers_are_those_of_a_ranking_by_hand(run, tmp_path):
    own = subject(run, tmp_path)
    found = KINDS["retrieval"](own, **SMALL["retrieval"])
    train, test, *_ = run[1]
    dim = own.dims[0]
    unit = [x.z[:, :dim] / np.linalg.norm(x.z[:, :dim], axis=1, keepdims=True) for x in (test, train)]
    order = np.argsort(-(unit[0] @ unit[1].T), axis=1, kind="stable")[:, :5]
    hits = train.labels[order] == test.labels[:, None]
    expected = np.mean((np.cumsum(hits, axis=1) / np.arange(1, 6) * hits).sum(axis=1) / 5)
    assert found.values[f"map_paper@5@{dim}"] == pytest.approx(expected, abs=0.01)
    full = own.dims[-1]
    assert found.details["adaptive"][f"mflops/{dim}-{full}"] == (len(train.z) * dim + 8 * full) / 1e6
    assert {key.partition(":")[2] for key in found.details["shortlists"]} == {"6", "12"}


@pytest.mark.parametrize("name", ["svd", "pca", "random_features", "random_projection"])
def test_retrieval_of_projected_features_is_that_of_maps_of_the_training_rows(run, tmp_path, name):
    path, pair = run
    noise = np.random.default_rng(1).normal(np.arange(32) / 8, 1.5, (40, 32))  # far from zero, so that centring tells
    train, test = (x._replace(z=x.z + rows) for x, rows in ((pair.train, noise), (pair.test, noise[::-1])))
    own = subject((path, pair._replace(train=train, test=test)), tmp_path, (4, 32))
    mean = train.z.mean(axis=0, dtype=float) if name == "pca" else np.zeros(32)
    rng = np.random.default_rng(own.seed)
    matrix = {
        "svd": lambda: np.linalg.svd(train.z.astype(float))[2].T,
        "pca": lambda: np.linalg.svd(train.z - mean)[2].T,
        "random_features": lambda: np.eye(32)[:, rng.permutation(32)],
        "random_projection": lambda: rng.normal(size=(32, 32)),
    }[name]()
    found = KINDS["retrieval"](own, **SMALL["retrieval"], projection=name)
    for dim in own.dims:
        unit = [(x.z - mean) @ matrix[:, :dim] for x in (test, train)]
        unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in unit]
        labels = train.labels[np.argsort(-(unit[0] @ unit[1].T), axis=1, kind="stable")[:, :5]]
        expected = retrieval.metrics(labels, test.labels, 5)["map_paper"]
        assert found.values[f"map_paper@5@{dim}"] == pytest.approx(expected, abs=0.01)
    plain = KINDS["retrieval"](own, **SMALL["retrieval"])
    assert found.values != plain.values
    assert (found.details["projection"], "projection" in plain.details) == (name, False)


def test_classes_of_brought_features_are_named_by_a_file(tmp_path):
    bare(tmp_path)
    sides = [open_features(tmp_path / f"{n}.npy", tmp_path / f"{n}_labels.npy") for n in ("train", "test")]
    about = Subject(feature_pairs.pair(*sides), (4, 16), 0, "ridge", None, None, tmp_path)
    (tmp_path / "h.json").write_text(json.dumps({"ape": "animal", "bee": "animal", "mug": "thing", "pen": "thing"}))
    (tmp_path / "names.txt").write_text("ape\nmug\nbee\npen\n")
    (tmp_path / "names.json").write_text('["ape", "mug", "bee", "pen"]')
    (tmp_path / "numbers.json").write_text('{"0": "animal", "2": "animal", "1": "thing", "3": "thing"}')
    expected = KINDS["superclass"](about, hierarchy=str(tmp_path / "numbers.json")).values
    for names in ("names.txt", "names.json"):
        given = {"hierarchy": str(tmp_path / "h.json"), "label_names": str(tmp_path / names)}
        assert KINDS["superclass"](about, **study.options_of("superclass", given)).values == expected
    with pytest.raises(ValueError, match="class 'ape' is none of the 4 classes"):
        KINDS["superclass"](about, hierarchy=given["hierarchy"])
    with pytest.raises(ValueError, match="not 'ape': name them so by --label_names=FILE"):
        KINDS["superclass"](about, hierarchy="wordnet", label_names=given["label_names"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("n.txt", "ape\nmug\nbee\n", "has 3 names, and the features have 4 classes: give one name for each"),
        ("n.txt", "ape\n\nbee\npen", "none of them empty"),
        ("n.json", '{"ape": 0}', "a JSON list of names"),
        ("n.json", "ape", "is not JSON"),
        ("n.json", "[0, 1, 2, 3]", "a JSON list of names"),
    ],
)
def test_names_that_do_not_fit_are_one_clear_error(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"--label_names=.*{name}.*{message}"):
        superclass.read_names(tmp_path / name, 4)
    for missing in ("none.txt", "wordnet"):
        with pytest.raises(FileNotFoundError, match=f"--label_names={missing} does not exist"):
            study.options_of("superclass", {"hierarchy": "wordnet", "label_names": missing})


def test_what_results_are_called_by_default():
    own = study.options_of("retrieval", {"projection": "pca"})
    assert study.default_name("retrieval", own, False) == "retrieval_pca"
    assert study.default_name("retrieval", own, True) == "retrieval_pca_flips"
    assert study.default_name("oracle", {}, True) == "oracle_flips"
    assert study.default_name("retrieval", {}, False) is None
    with pytest.raises(ValueError, match=r"--projection='pac' is not one of .*did you mean 'pca'"):
        study.options_of("retrieval", {"projection": "pac"})
    with pytest.raises(ValueError, match="--projection='learned_apart' is not one of"):
        study.options_of("retrieval", {"projection": "learned_apart"})


def test_the_probe_command_takes_dims_and_says_what_is_none(tmp_path):
    bare(tmp_path)
    sides = [f"--{name}={tmp_path}/{name}.npy,{tmp_path}/{name}_labels.npy" for name in ("train", "test")]
    arguments = ("mrl_jax.probe", *sides, f"--out={tmp_path}/out", "--methods=knn")
    command.finish(command.start(*arguments, "--dims=4,16"))
    found = json.loads((tmp_path / "out" / "results" / "probe.json").read_text())
    assert '<h2 id="probe">' in (tmp_path / "out" / "report.html").read_text()
    assert {results.split_name(name)[1] for name in found["values"]} == {4, 16}
    assert "error: --dims=x: give whole numbers" in command.finish(command.start(*arguments, "--dims=x"), expect=1)


def test_indexes_tell_what_exact_search_finds_and_what_they_miss(tmp_path):
    bare(tmp_path, rows=400)
    pair = feature_pairs.pair(
        *(open_features(tmp_path / f"{n}.npy", tmp_path / f"{n}_labels.npy") for n in ("train", "test"))
    )
    about = Subject(pair, (4, 16), 0, "ridge", None, None, tmp_path / "out")
    exact = KINDS["retrieval"](about, ks=(5,), shortlist=5).values
    found = KINDS["indexes"](about, kinds=("flat", "ivf", "binary"), efforts=(1, 16), ks=(5,))
    costs, values = found.details, found.values
    for dim in (4, 16):
        assert values[f"ann_recall@5_flat@{dim}"] == 1
        assert values[f"map@5_flat@{dim}"] == pytest.approx(exact[f"map@5@{dim}"])
        assert values[f"ann_recall@5_ivf:1@{dim}"] < values[f"ann_recall@5_ivf:16@{dim}"] <= 1
        assert costs["operations"][f"flat@{dim}"] == 400 * dim > costs["operations"][f"ivf:1@{dim}"]
        assert costs["bytes"][f"flat@{dim}"] == pytest.approx(400 * 4 * dim, abs=100)
    assert values["ann_recall@5_binary@4"] < values["ann_recall@5_binary@16"] < 1
    assert len(costs["ms_per_query"]) == len(found.text) - 1 == 8
    for options, message in (
        ({"kinds": ("flat",), "efforts": (4,)}, "none of --kinds=flat has any"),
        ({"kinds": ("hsnw",)}, "--kinds='hsnw' is not one of"),
        ({"kinds": ("pq",)}, "--kinds=pq fits none of the dims"),
        ({"ks": (5, 10)}, "give one number"),
    ):
        with pytest.raises(ValueError, match=message):
            KINDS["indexes"](about, **options)

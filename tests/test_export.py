"""A sub-model alone: what it holds, what it computes, what it costs."""

import json
import re

import jax
import numpy as np
import pytest
import tiny
from command import finish, start
from jax.extend import backend
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jaxlib._jax import DeviceList

from mrl_jax import (
    checkpoints,
    costs,
    evaluate,
    export,
    extract,
    features_dir,
    indexes,
    matched_sets,
    narrow,
    parts,
    results,
    search,
    train,
    trained,
    trees,
    weights,
)
from mrl_jax import config as defaults

MODEL = defaults.vit("mu/8") | {"widths": (0.5, 1.0), "private_norm": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of two widths, one checkpoint, and results of it."""
    path = tmp_path_factory.mktemp("export") / "run"
    config = tiny.config(model=MODEL, total_steps=2, checkpoint__every=2, head="mrl_e")
    with config.unlocked():
        config.evals = {"knn": config.evals.knn}
    assert train.train(config, path)
    return path


def test_the_folder_of_a_run_names_its_widths(run):
    assert checkpoints.read_run(run / "checkpoints", 2)["widths"] == [0.5, 1.0]
    values = json.loads((run / "results" / "knn.json").read_text())["values"]
    assert {"top1@8", "w0.5/top1@8"} < set(values)


@pytest.fixture(scope="module")
def exported(run):
    out = run.parent / "phone"
    return out, export.export(run, 2, 0.5, 8, out, rows=2)


def test_what_is_exported_computes_what_the_whole_model_does(run, exported):
    out, _ = exported
    assert {p.name for p in out.iterdir()} == {
        "checkpoints",
        "config.json",
        "costs.json",
        "model.jax_export",
        "model.safetensors",
        "model.stablehlo",
    }
    whole = trained.assemble(run, 2, trained.config_of(run, 2))
    variables = trained.variables(run, 2, whole)
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    z, _ = jax.jit(lambda v: whole.model.apply(v, {"image": images}, train=False, width=0.5))(variables)
    # The folder as that of a run, the file of weights, and the compiled function.
    alone = trained.assemble(out, 2, trained.config_of(out, 2))
    own = trained.variables(out, 2, alone)
    assert alone.model.widths == (1.0,)
    z_alone, _ = jax.jit(lambda v: alone.model.apply(v, {"image": images}, train=False))(own)
    np.testing.assert_allclose(z_alone, z[:, :8], atol=1e-5)
    loaded, about = weights.load(out / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], jax.device_get(own["params"]))
    assert (about["model"]["width"], about["head"], about["nesting"]["dims"]) == (0.5, "ff", [8])
    call = jax.export.deserialize((out / "model.jax_export").read_bytes()).call
    found = call(images)
    np.testing.assert_allclose(found["embedding"], z[:, :8], atol=1e-5)
    head = variables["params"]["head"]
    logits = np.asarray(z[:, :8]) @ np.asarray(head["kernel"])[:8] + np.asarray(head["bias"])[None]
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(call(images[:1])["embedding"], z[:1, :8], atol=1e-5)


def test_the_table_has_every_width_and_dim_with_what_the_run_measured(run, exported):
    out, shown = exported
    record = json.loads((out / "costs.json").read_text())
    rows = {row["setting"]: row for row in record["costs"]}
    assert list(rows) == [f"w{w}/d{m}" for w in ("0.5", "1") for m in (4, 8, 32)]
    assert "* w0.5/d8" in shown
    assert rows["w0.5/d8"]["mflops"] < 0.7 * rows["w1/d8"]["mflops"]
    own, _ = weights.load(out / "model.safetensors")
    assert rows["w0.5/d8"]["parameters"] == sum(np.size(v) for v in trees.flatten(own["params"]).values())
    assert all(row["ms"] > 0 for row in rows.values())
    values = json.loads((run / "results" / "knn.json").read_text())["values"]
    assert rows["w0.5/d8"]["accuracy"] == {"knn top1": values["w0.5/top1@8"]}
    assert costs.accuracies(run, 1) == {}
    shifted = {"step": 2, "evaluator": "shifted", "values": {"tfds:v2/half_top1@8": 0.5}}
    (run / "results" / "shifted.json").write_text(json.dumps(shifted))
    assert costs.accuracies(run, 2)["1", 8]["shifted tfds:v2/half_top1"] == 0.5, "a name with a stroke is no width"
    (run / "results" / "shifted.json").unlink()


def test_the_latency_is_of_the_width_and_of_the_dims_own_head(run, monkeypatch):
    whole = trained.assemble(run, 2, trained.config_of(run, 2))
    latency, shapes = costs._latency, []

    def counted(fn, *arguments):
        _, out = latency(fn, *arguments)
        shapes.append([np.shape(x) for x in jax.tree.leaves(out) if np.ndim(x) > 1])
        return float(2 ** (len(shapes) - 1)), out

    monkeypatch.setattr(costs, "_latency", counted)
    found = costs.measure(whole, trained.variables(run, 2, whole), 2, {})
    assert len(shapes) == 2 * (1 + 3)
    assert [cost.ms for cost in found] == [1 + 2, 1 + 4, 1 + 8, 16 + 32, 16 + 64, 16 + 128]
    for cost, out in zip(found, shapes[1:4] + shapes[5:]):
        assert (2, cost.dim) in out


def embed(path, out, width=1.0):
    """Features of the test split."""
    config = trained.over(trained.config_of(path, 2), None, "test", None, None)
    extract.extract(path, 2, config, out, width=width)
    return features_dir.open_features(out)


def test_an_export_searches_as_the_sub_model_that_it_is(run, exported, tmp_path):
    whole, narrow = embed(run, tmp_path / "whole"), embed(run, tmp_path / "narrow", width=0.5)
    phone = embed(exported[0], tmp_path / "phone")
    assert features_dir.model_of(phone.info.identity) == features_dir.model_of(narrow.info.identity)
    assert "queries: step 2 of the checkpoint" in search.check_models(whole, phone, across=False)
    gallery, queries = search.common_prefix(whole, phone)
    assert (gallery.z.shape, queries.z.shape) == ((48, 8), (48, 8))
    np.testing.assert_allclose(queries.z, narrow.z[:, :8], atol=1e-5)
    # One name is one model: the export's queries and the gallery of its width.
    sides = {"m": str(tmp_path / "phone")}, {"m": str(tmp_path / "narrow")}
    assert matched_sets.open_sets(*sides).dims == (4, 8, 32)
    with pytest.raises(ValueError, match=r"'m' has queries of .* at width 0\.5 and a gallery of .* at width 1"):
        matched_sets.open_sets(sides[0], {"m": str(tmp_path / "whole")})


def test_an_export_of_an_export_is_of_the_first_checkpoint_but_trained_on_it_is_another(run, exported, tmp_path):
    export.export(exported[0], 2, 1.0, 4, tmp_path / "small", rows=1)
    whole, identity = trained.identity(run, 2), trained.identity(tmp_path / "small", 2)
    assert identity == whole | {"width": 0.5, "dims": [4, 8, 32]} == trained.identity(exported[0], 2)
    later = tmp_path / "small" / "checkpoints" / "3"
    later.mkdir()
    (later / checkpoints.MANIFEST).write_bytes((later.parent / "2" / checkpoints.MANIFEST).read_bytes())
    assert trained.identity(tmp_path / "small", 3)["manifest_sha256"] != whole["manifest_sha256"]


def test_other_runtimes_get_a_function_of_images_alone(exported):
    out, _ = exported
    code = (out / "model.stablehlo").read_bytes()
    module = str(stablehlo.deserialize_portable_artifact(ir.Context(), code))
    (main,) = re.findall(r"func\.func public @main\((.*?)\) ->", module)
    assert main == "%arg0: tensor<2x16x16x1xui8>"
    assert not re.findall(r"custom_call|\?x", module)
    # Compiled as it stands, without what JAX knows of it.
    devices = DeviceList(tuple(jax.devices("cpu")[:1]))
    program = backend.get_backend("cpu").compile_and_load(code, devices)
    images = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
    embedding, logits = program.execute([jax.device_put(images, jax.devices("cpu")[0])])
    expected = jax.export.deserialize((out / "model.jax_export").read_bytes()).call(images)
    np.testing.assert_allclose(embedding, expected["embedding"], atol=1e-5)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("width", "dim", "message"),
    [
        (0.3, 8, r"--width=0\.3 was not trained: this run has the widths \[0\.5, 1\.0\]"),
        (0.5, 64, r"--dim=64 is not in"),
    ],
)
def test_what_was_not_trained_is_refused(run, width, dim, message):
    with pytest.raises(ValueError, match=message):
        export.export(run, 2, width, dim, run.parent / "none", rows=1)
    assert not (run.parent / "none").exists()


def test_independent_heads_have_none_of_an_untrained_dim(normed):
    with pytest.raises(ValueError, match=r"--dim=6 was not trained, and head='mrl' .* take one of \[4, 8\]"):
        export.export(normed, 2, 0.5, 6, normed.parent / "none", rows=1)
    assert not (normed.parent / "none").exists()


def test_a_network_without_a_head_is_refused(tmp_path):
    student = {**defaults.resnet("10"), "stem": "small", "base_width": 4}
    config = tiny.config(model=defaults.taught(student, student), head="none")
    saver = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=2, keep_period=0)
    saver.save(2, {"params": {"student": np.zeros(3)}}, {"config": defaults.to_json(config), "num_classes": 6})
    saver.close()
    with pytest.raises(ValueError, match="'taught' with head='none' has no width and head to cut out"):
        export.export(tmp_path, 2, 1.0, 0, tmp_path / "out", rows=1)


def test_a_folder_that_exists_is_left_alone(run):
    with pytest.raises(FileExistsError, match="exists and is left as it is"):
        export.export(run, 2, 0.5, 8, run, rows=1)


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    """The folder of an untrained network of two widths with BatchNorm, evaluated as it is and then recalibrated."""
    path = tmp_path_factory.mktemp("export") / "normed"
    model = {**defaults.resnet("10"), "stem": "small", "base_width": 4, "widths": (0.5, 1.0), "projection": 8}
    config = tiny.config(model=model, nesting__dims=(4, 8), evals={"knn": tiny.config().evals.knn})
    whole = parts.assemble(config)
    saver = checkpoints.Checkpoints(path / "checkpoints", keep=2, keep_period=0)
    with jax.set_mesh(whole.mesh):
        saver.save(2, parts.init_state(whole), {"config": defaults.to_json(config), "num_classes": 6})
    saver.close()
    for batches in (0, 2):
        evaluate.evaluate(path, trained.config_of(path, 2), 2, ["knn"], recalibrated=batches)
    return path


def test_results_of_recalibrated_statistics_lie_beside_those_of_the_checkpoint(normed):
    found = results.read(normed)
    assert set(found) == {"knn", "knn_recalibrated"}
    plain, own = found["knn"], found["knn_recalibrated"]
    assert plain["values"] != own["values"]
    assert ("recalibrated" in plain, own["recalibrated"]) == (False, 2)
    assert {p.stem for p in (normed / "plots").iterdir()} == {"accuracy", "accuracy_recalibrated"}
    assert '<h2 id="knn_recalibrated">' in (normed / "report.html").read_text()
    for batches, name in ((0, "knn"), (2, "knn_recalibrated")):
        of_width = costs.accuracies(normed, 2, batches)["0.5", 4]
        assert of_width == {f"{name} top1": found[name]["values"]["w0.5/top1@4"]}
    assert costs.accuracies(normed, 2, 3) == {}


def test_a_recalibrated_export_is_the_recalibrated_model(normed):
    out = normed.parent / "recalibrated"
    assert "knn_recalibrated top1" in export.export(normed, 2, 0.5, 4, out, rows=2, recalibrate=2)
    run = trained.assemble(normed, 2, trained.config_of(normed, 2))
    plain = trained.variables(normed, 2, run)
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    wanted, other = (
        jax.jit(lambda v: narrow.outputs(run, v, images, 0.5, 4))(variables)
        for variables in (trained.recalibrated(run, plain, 2), plain)
    )
    found = jax.export.deserialize((out / "model.jax_export").read_bytes()).call(images)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, atol=1e-4)
    assert np.abs(np.asarray(found["embedding"]) - np.asarray(other["embedding"])).max() > 0.1
    # Nothing is lost: the whole state is there, and it says of which statistics it is.
    alone = trained.assemble(out, 2, trained.config_of(out, 2))
    loaded, about = weights.load(out / "model.safetensors")
    own = jax.device_get(trained.variables(out, 2, alone))
    assert trees.flatten(loaded).keys() == trees.flatten(own).keys()
    jax.tree.map(np.testing.assert_array_equal, loaded["batch_stats"], own["batch_stats"])
    origin = checkpoints.read_run(out / "checkpoints", 2)["init"]
    assert origin["recalibrated"] == about["source"]["recalibrated"] == 2


@pytest.mark.parametrize(
    ("batches", "message"), [(-1, "--recalibrate=-1 must be a number"), (2, "--recalibrate=2 is for BatchNorm")]
)
def test_nothing_to_recalibrate_is_refused(run, batches, message):
    with pytest.raises(ValueError, match=message):
        export.export(run, 2, 0.5, 8, run.parent / "none", rows=1, recalibrate=batches)


@pytest.mark.slow
def test_the_commands(run):
    out = run.parent / "server"
    arguments = (f"--workdir={run}", "--width=1", "--dim=4")
    assert "* w1/d4" in finish(start("mrl_jax.export", *arguments, f"--out={out}"))
    finish(start("mrl_jax.embed", f"--workdir={out}", f"--out={run.parent}/f", "--split=test"))
    finish(start("mrl_jax.embed", f"--workdir={run}", f"--out={run.parent}/g", "--split=test", "--width=0.5"))
    narrow = np.load(run.parent / "g" / "test" / "features.npy")
    assert narrow.shape == (48, 32)
    assert np.load(run.parent / "f" / "test" / "features.npy").shape == (48, 4)
    assert json.loads((run.parent / "g" / "test" / "manifest.json").read_text())["identity"]["width"] == 0.5
    if indexes.available():
        sides = f"--gallery={run.parent}/g/test", f"--query={run.parent}/f/test"
        shown = finish(start("mrl_jax.search", *sides, f"--index={run.parent}/i", "--kinds=flat", "--show=1"))
        assert "--gallery has 32 features, --query 4: the first 4 of both are compared." in shown
    refused = finish(start("mrl_jax.embed", f"--workdir={run}", f"--out={run.parent}/h", "--width=0.25"), expect=1)
    assert "error: --width=0.25 was not trained" in refused

"""Features of a checkpoint over a dataset: the right rows, whatever happens on the way, on any number of devices."""

import itertools
import random
import signal

import command
import jax
import numpy as np
import pytest
import raw
import tiny

from mrl_jax import (
    checkpoints,
    extract,
    feature_pairs,
    features_dir,
    flips,
    inputs,
    parts,
    probe,
    recalibrate,
    results,
    search,
    step,
    trained,
)
from mrl_jax import config as configs
from mrl_jax.data import pipeline, sources
from mrl_jax.features_dir import JOURNAL, open_features

EXAMPLES = 40


def save_checkpoint(path, **overrides):
    """A run's folder with the untrained model of `tiny` as its checkpoint; returns the model's parts and state."""
    own = {"data__name": f"synthetic:size=16,channels=1,classes=6,examples={EXAMPLES}"}
    config = tiny.config(**own | overrides)
    run = parts.assemble(config)
    with jax.set_mesh(run.mesh):
        state = parts.init_state(run)
        saver = checkpoints.Checkpoints(path / "checkpoints", keep=2, keep_period=0)
        saver.save(3, state, {"config": configs.to_json(config), "num_classes": 6})
        saver.close()
    return run, state


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    return path, *save_checkpoint(path)


def embed(workdir, out, split="test", dataset=None, ops=None, batch_size=None, at=3, **options):
    config = trained.over(trained.config_of(workdir, at), dataset, split, ops, batch_size)
    extract.extract(workdir, at, config, out, **options)
    return open_features(out, verify=True)


@pytest.fixture(scope="module")
def whole(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("features") / "whole"
    return out, embed(workdir[0], out, block_rows=8)


def content(path):
    return {p.name: p.read_bytes() for p in sorted(path.iterdir()) if p.name != ".lock"}


def test_rows_are_those_of_the_dataset_in_its_order(workdir, whole):
    _, run, state = workdir
    _, (z, labels, info) = whole
    source = sources.load(run.config.data.name, "test", data_dir=run.config.data.dir)
    images = np.stack([source.records[i]["image"] for i in range(EXAMPLES)])
    expected, _ = run.model.apply(step.variables_of(state), {"image": images}, train=False)
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    assert labels.tolist() == [source.records[i]["label"] for i in range(EXAMPLES)]
    assert (info.dims, info.num_classes) == (run.nesting.dims, 6)
    assert info.identity["checkpoint"]["step"] == 3


def test_flips_are_means_of_both_views_and_mix_with_no_others(workdir, whole, tmp_path):
    _, run, state = workdir
    source = sources.load(run.config.data.name, "test", data_dir=run.config.data.dir)
    images = np.stack([source.records[i]["image"] for i in range(EXAMPLES)])
    views = [
        run.model.apply(step.variables_of(state), {"image": x}, train=False)[0] for x in (images, images[:, :, ::-1])
    ]
    z, _, info = embed(workdir[0], tmp_path / "flips", mirror=True)
    np.testing.assert_allclose(z, np.mean(views, axis=0), rtol=1e-4, atol=1e-5)
    assert (flips.views_of(info.identity), flips.views_of(whole[1].info.identity)) == (2, 1)
    for other, own in ((tmp_path / "flips", False), (whole[0], True)):
        with pytest.raises(ValueError, match=r"identity\.views"):
            embed(workdir[0], other, mirror=own)
    with pytest.raises(ValueError, match=r"data\.kind='image_text', and only those of 'image'"):
        flips.check("image_text")


def test_an_interruption_anywhere_ends_in_the_same_bytes(workdir, whole, tmp_path, monkeypatch):
    out, batches = tmp_path / "stopped", extract._batches

    def breaking(run, start, stop):
        for number, batch in enumerate(batches(run, start, stop)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(extract, "_batches", breaking)
    with pytest.raises(KeyboardInterrupt):
        embed(workdir[0], out, block_rows=8)
    assert (out / JOURNAL).exists()
    monkeypatch.setattr(extract, "_batches", batches)
    embed(workdir[0], out, block_rows=8)
    assert content(out) == content(whole[0])
    monkeypatch.setattr(extract, "_batches", None)
    embed(workdir[0], out, block_rows=8)


def test_float16_and_blocks_that_batches_do_not_fit(workdir, whole, tmp_path):
    z, labels, _ = embed(workdir[0], tmp_path / "x", dtype="float16", block_rows=7, batch_size=8)
    assert z.dtype == np.float16
    np.testing.assert_allclose(z, whole[1].z, atol=2e-3, rtol=2e-3)
    np.testing.assert_array_equal(labels, whole[1].labels)


# Orbax leaves reads unawaited where a shape does not fit.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_another_dataset_with_other_classes(workdir, tmp_path):
    other = "synthetic:size=24,channels=3,classes=11,examples=13"
    ops = "decode(1)|center_crop(16)"
    _, labels, info = embed(workdir[0], tmp_path / "x", dataset=other, ops=ops)
    assert (labels.tolist(), info.num_classes) == ([i % 11 for i in range(13)], 11)
    with pytest.raises(ValueError, match=r"not trained on images of shape \(24, 24, 3\).*give --ops"):
        embed(workdir[0], tmp_path / "y", dataset=other)


TOWERS = {
    "data__name": "synthetic:size=16,channels=1,classes=6,examples=24,context=8,vocabulary=40",
    "data__kind": "image_text",
    "data__text__context": 6,
    "head": "none",
    "model": configs.dual_encoder(configs.vit("mu/8"), configs.bert("mu") | {"dropout": 0.0}),
    "loss": {"name": "contrastive", "chunk": 0, "duplicates": "masked"},
    "evals": {"pairs": {"name": "pair_retrieval", "every": 0, "split": "test", "dims": ()}},
}


@pytest.fixture(scope="module", params=["", "^image/", "^text/"], ids=lambda freeze: freeze or "whole")
def towers(tmp_path_factory, request):
    path = tmp_path_factory.mktemp("towers")
    ema = {"optim__ema": 0.9} if request.param else {}
    return path, *save_checkpoint(path, **TOWERS, optim__freeze=request.param, **ema)


def test_two_towers_embed_images_that_have_no_texts(towers, tmp_path):
    path, run, state = towers
    other = "synthetic:size=16,channels=1,classes=11,examples=13"
    z, labels, info = embed(path, tmp_path / "x", dataset=other)
    records = sources.load(other, "test", data_dir=".").records
    images = np.stack([records[i]["image"] for i in range(13)])
    expected, _ = run.model.apply(step.variables_of(state), {"image": images}, train=False)
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    assert (labels.tolist(), info.num_classes) == ([i % 11 for i in range(13)], 11)


def test_captions_search_a_gallery_of_the_images(towers, tmp_path):
    path, run, state = towers
    images, captions = embed(path, tmp_path / "x"), embed(path, tmp_path / "x_pair", pair=True)
    batch = next(inputs_of(run))
    z, out = run.model.apply(step.variables_of(state), batch, train=False)
    np.testing.assert_allclose(images.z[:16], z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(captions.z[:16], out["pair/z"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(captions.labels, images.labels)
    assert "step 3" in search.check_models(images, captions, across=False)
    with pytest.raises(ValueError, match=r"identity\.side: None there, pair here"):
        embed(path, tmp_path / "x", pair=True)
    with pytest.raises(ValueError, match=r"--pairs: dataset .* read as data\.kind='image' has no pairs"):
        embed(path, tmp_path / "y", dataset="synthetic:size=16,channels=1", pair=True)


def inputs_of(run):
    source = sources.load(run.config.data.name, "test", data_dir=run.config.data.dir)
    batches = pipeline.eval_batches(source, inputs.of(run.config, source).evaluation, batch_size=16)
    return ({name: batch[name] for name in ("image", "tokens")} for batch in batches)


def test_of_a_run_on_a_mixture_the_split_asked_for_is_embedded(workdir):
    name = f"synthetic:size=16,channels=1,classes=6,examples={EXAMPLES}"
    config = tiny.config(data__name=name, data__mixture=((name, "train", 1.0), (name, "test", 1.0)))
    run = trained.assemble(workdir[0], 3, trained.over(config, None, "test", None, None))
    assert (run.train_source.split, len(run.train_source.records)) == ("test", EXAMPLES)


def test_cameras_lie_beside_the_features(workdir, tmp_path):
    rng = np.random.default_rng(0)
    cameras = np.arange(12) % 5 + 3
    np.savez(
        tmp_path / "a.npz", images=rng.integers(0, 255, (12, 16, 16), np.uint8), labels=np.arange(12) % 6, c=cameras
    )
    raw.prepare(tmp_path / "a.npz", tmp_path / "d", reader={"camera_key": "c"})
    out, dataset = tmp_path / "x", f"array_record:{tmp_path / 'd'}"
    found = embed(workdir[0], out, "train", dataset)
    np.testing.assert_array_equal(found.info.fields["camera"], cameras)
    (out / "cameras.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"cameras\.npy does not exist"):
        open_features(out)
    embed(workdir[0], out, "train", dataset)
    np.save(out / "cameras.npy", cameras[::-1])
    with pytest.raises(ValueError, match=r"cameras\.npy has changed since it was written"):
        open_features(out, verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "train"}, r"identity\.dataset\.split: test there, train here"),
        ({"dtype": "float16"}, "dtype: float32 there, float16 here"),
        ({"ops": "decode|center_crop(16)"}, r"identity\.dataset\.ops"),
        ({"dataset": "synthetic:size=16,channels=1,classes=6,examples=41"}, r"identity\.dataset\.examples"),
    ],
)
def test_features_of_anything_else_are_refused(workdir, whole, change, message):
    before = content(whole[0])
    with pytest.raises(ValueError, match=f"holds other features .*{message}"):
        embed(workdir[0], whole[0], **change)
    assert content(whole[0]) == before


def test_features_of_another_checkpoint_are_refused(whole, tmp_path):
    save_checkpoint(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"identity\.checkpoint\.manifest_sha256"):
        embed(tmp_path, whole[0])
    other = embed(tmp_path, tmp_path / "features")
    with pytest.raises(ValueError, match=r"--test those of another model, .*: embed both with one checkpoint"):
        feature_pairs.check_same_model(whole[1], other)


def test_recalibrated_features_are_those_of_recalibrated_variables_and_say_so(workdir, tmp_path):
    model = {**configs.resnet("10"), "stem": "small", "base_width": 4}
    path, out = tmp_path / "run", tmp_path / "features"
    run, state = save_checkpoint(path, model=model, nesting__dims=(4, 32))
    plain = embed(path, out / "plain")
    # Neither the data that are embedded nor the size of their batches are those of the statistics.
    found = embed(path, out / "recalibrated", batch_size=8, recalibrate=2)
    batches = [inputs.model_inputs(batch) for batch in itertools.islice(parts.train_batches(run, 0), 2)]
    variables = recalibrate.recalibrate(run.model, step.variables_of(state), batches, (1.0,))
    records = sources.load(run.config.data.name, "test", data_dir=run.config.data.dir).records
    images = np.stack([records[i]["image"] for i in range(EXAMPLES)])
    expected, _ = run.model.apply(variables, {"image": images}, train=False)
    np.testing.assert_allclose(found.z, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(found.z - plain.z).max() > 0.1
    assert "recalibrated on 2 batches" in str(features_dir.model_of(found.info.identity))
    with pytest.raises(ValueError, match=r"--test those of another model, .* recalibrated on 2 batches"):
        feature_pairs.check_same_model(plain, found)
    with pytest.raises(ValueError, match=r"identity\.recalibrated"):
        embed(path, out / "plain", recalibrate=2)
    with pytest.raises(ValueError, match=r"--recalibrate=2 is for BatchNorm.*leave it out"):
        embed(workdir[0], out / "none", recalibrate=2)
    assert not (out / "none").exists()


def test_probe_of_features_leaves_a_table_a_json_and_a_picture(whole, tmp_path, capsys):
    probe.probe(whole[1], whole[1], (4, 12, 32), ["ridge", "pca"], 0, tmp_path)
    shown = capsys.readouterr().out
    assert "~     12" in shown
    assert "ridge top1" in shown
    found = results.read(tmp_path)["probe"]
    assert found["step"] == 3
    assert found["untrained_dims"] == [12]
    assert set(found["values"]) == {f"{k}_top{n}@{m}" for k in ("ridge", "pca") for n in (1, 5) for m in (4, 12, 32)}
    assert found["details"]["train"]["checkpoint"]["step"] == 3
    assert (tmp_path / "plots" / "probe.png").stat().st_size > 1000


def start(workdir, out, *arguments, **options):
    split = "--dataset=synthetic:size=16,channels=1,classes=6,examples=3000", "--split=test", "--batch_size=16"
    names = f"--workdir={workdir}", f"--out={out}", "--block_rows=48"
    return command.start("mrl_jax.embed", *names, *split, *arguments, **options)


@pytest.mark.slow
def test_killed_at_random_moments_the_same_command_ends_in_the_same_bytes(workdir, tmp_path):
    command.finish(start(workdir[0], tmp_path / "whole"))
    draw, out, kills = random.Random(0), tmp_path / "killed", 0
    for _ in range(3):
        process, lines = start(workdir[0], out), draw.randrange(3, 20)
        journal = out / "test" / JOURNAL
        before = len(journal.read_text().splitlines()) if journal.exists() else 0
        command.kill_when(
            process, lambda b=before, n=lines, j=journal: j.exists() and len(j.read_text().splitlines()) >= b + n
        )
        command.finish(process, expect=-signal.SIGKILL)
        kills += 1
    output = command.finish(start(workdir[0], out))
    assert "features float32(3000, 32), labels (3000,) of 6 classes, checkpoint 3" in output
    assert content(out / "test") == content(tmp_path / "whole" / "test")
    assert kills == 3


@pytest.mark.slow
def test_two_processes_write_what_one_does(workdir, tmp_path):
    from test_distributed import port

    several = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port()}", "JAX_NUM_PROCESSES": "2"}
    processes = [start(workdir[0], tmp_path / "two", devices=2, JAX_PROCESS_ID=str(i), **several) for i in range(2)]
    for process in processes:
        command.finish(process)
    command.finish(start(workdir[0], tmp_path / "one"))
    one, two = (open_features(tmp_path / name / "test", verify=True) for name in ("one", "two"))
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_allclose(one.z, two.z, rtol=1e-4, atol=1e-5)

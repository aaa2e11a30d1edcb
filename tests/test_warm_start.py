"""Runs that begin from another one's parameters."""

import json
import pathlib
import runpy

import jax
import numpy as np
import pytest
import tiny

from mrl_jax import checkpoints, inputs, parts, start, train, trees, warm_start, weights
from mrl_jax import config as defaults

ALIGN = pathlib.Path(__file__).parent.parent / "configs" / "align_b16_bert.py"
SHORT = {"total_steps": 2, "checkpoint__every": 100, "evals": {}}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run with a moving average, in one head of all dims."""
    path = tmp_path_factory.mktemp("source") / "run"
    assert train.train(tiny.config(**SHORT, head="mrl_e", optim__ema=0.5), path)
    return path


def init(path, skip="", **changes):
    return tiny.config(**SHORT, init__path=str(path), init__skip=skip, **changes)


def saved(path, step):
    tree = checkpoints.load_on_host(path / "checkpoints", step, ("params", "batch_stats", "ema"))
    return {name: trees.flatten(tree[name]) for name in tree}


def test_new_heads_on_a_frozen_backbone(source, tmp_path, capsys):
    config = init(source, "^head/", optim=defaults.sgd(0.1) | {"freeze": "^backbone/"})
    assert train.train(config, tmp_path / "run")
    identity = warm_start.read(str(source)).identity
    assert (identity["step"], len(identity["sha256"])) == (2, 64)
    assert f"starting from {source}, step 2, SHA-256 {identity['sha256']}" in capsys.readouterr().out
    assert checkpoints.read_run(tmp_path / "run" / "checkpoints", 2)["init"] == identity
    before, after = saved(source, 2)["ema"], saved(tmp_path / "run", 2)["params"]
    backbone = {name for name in after if name.startswith("backbone/")}
    assert len(backbone) > 10
    for name in backbone:
        np.testing.assert_array_equal(after[name], before[f"params/{name}"])
    assert {name for name in after if name.startswith("head/kernel")} == {f"head/kernel_{m}" for m in (4, 8, 32)}


def test_a_run_that_goes_on_needs_its_source_no_more(source, tmp_path):
    config = init(source, optim__ema=0.5, head="mrl_e")
    assert train.train(config, tmp_path / "run")
    record = checkpoints.read_run(tmp_path / "run" / "checkpoints", 2)
    moved = source.rename(tmp_path / "moved")
    try:
        assert train.train(config, tmp_path / "run")
    finally:
        moved.rename(source)
    assert record["init"] == warm_start.read(str(source)).identity


def test_what_does_not_fit_is_listed_at_once_and_the_folder_stays_free(source, tmp_path):
    with pytest.raises(ValueError, match=r"head/bias is extra; head/bias_16 is missing.*head/kernel_8 is missing"):
        train.train(init(source, nesting__dims=(8, 16, 32)), tmp_path / "run")
    data = {"data__name": "synthetic:size=16,channels=1,classes=5,examples=40", "sharding__rules": ()}
    with pytest.raises(ValueError, match=r"head/kernel has the shape \(32, 6\) instead of \(32, 5\)"):
        train.train(init(source, head="mrl_e", **data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_position_embeddings_are_resized_to_the_new_grid(source):
    run = parts.assemble(init(source, head="mrl_e", data__name="synthetic:size=32,channels=1,classes=6,examples=48"))
    found = warm_start.match(warm_start.read(str(source)), run.abstract_state, "")
    assert found["backbone/pos_embedding"].shape == (1, 16, 32)


def test_the_three_kinds_of_source_agree(source, tmp_path):
    run = warm_start.read(str(source))
    checkpoint = warm_start.read(str(source / "checkpoints" / "2"))
    variables = {"params": trees.unflatten(run.values)}
    about = dict.fromkeys(weights.ABOUT, None)
    weights.save(tmp_path / "w.safetensors", variables, about)
    file = warm_start.read(str(tmp_path / "w.safetensors"))
    for other in (checkpoint, file):
        names = warm_start.renamed(other, "^backbone/=image/").values
        assert {name.split("/")[0] for name in names} == {"head", "image"}
        assert set(other.values) == set(run.values)
        assert all((other.values[name] == value).all() for name, value in run.values.items())
    assert checkpoint.identity["sha256"] == run.identity["sha256"] != file.identity["sha256"]
    assert file.identity["step"] is None


def drawn(config, path):
    """A checkpoint of a run of this config, its values drawn at random in (0, 1)."""
    run, rng = parts.assemble(config), np.random.default_rng(0)
    state = jax.tree.map(lambda x: jax.device_put(rng.random(x.shape).astype(x.dtype), x.sharding), run.abstract_state)
    saver = checkpoints.Checkpoints(path / "checkpoints", keep=2, keep_period=0)
    about = {"config": defaults.to_json(config), "tokenizer": inputs.tokenizer_of(run.train_source)}
    saver.save(2, state, about | {"evaluated": 2, "init": None})
    saver.close()
    return path


def test_a_trained_classifier_becomes_an_image_tower_that_stays_as_it_is(tmp_path):
    image = defaults.resnet("10") | {"stem": "small", "base_width": 2, "projection": 32}
    classifier = drawn(tiny.config(model=image, data__name="synthetic:size=32,channels=3"), tmp_path / "classifier")
    config = runpy.run_path(str(ALIGN))["get_config"]("debug")
    config.model.image, config.optim, config.evals = image, defaults.sgd(0.1) | {"freeze": "^image/"}, {}
    config.init.update(path=str(classifier), rename="^backbone/=image/", skip="^(text|temperature|head)/")
    assert train.train(config, tmp_path / "lit")
    before, (early, late) = saved(classifier, 2), (saved(tmp_path / "lit", step) for step in (2, 4))
    for kind in ("params", "batch_stats"):
        tower = {name: value for name, value in late[kind].items() if name.startswith("image/")}
        assert len(tower) == sum(name.startswith("backbone/") for name in before[kind]) > 10
        for name, value in tower.items():
            np.testing.assert_array_equal(value, before[kind][name.replace("image/", "backbone/")])
    moved = {name for name, value in late["params"].items() if (value != early["params"][name]).any()}
    assert {name.split("/")[0] for name in moved} == {"text", "temperature"}
    assert len(moved) > 10


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("^backbon/=image/", r"='\^backbon/=image/' renames no parameter of init\.path=.*; some are \['backbone/"),
        ("^backbone/", r"init\.rename='\^backbone/' must be REGEX=NEW, for example"),
        ("=image/", "must be REGEX=NEW"),
        ("^(backbone/=image/", r"is no regular expression .*missing \)"),
        (r"^backbone/=\g<tower>/", "what takes its place: unknown group name"),
        (".*=image", "gives several parameters one name"),
    ],
)
def test_a_rule_of_names_that_is_none_is_refused(source, rule, message):
    with pytest.raises(ValueError, match=message):
        warm_start.renamed(warm_start.read(str(source)), rule)


def pairs(vocabulary, **changes):
    """The smallest run of pictures with their texts."""
    own = {
        "data__name": f"synthetic:size=8,channels=1,classes=6,examples=48,context=8,vocabulary={vocabulary}",
        "data__kind": "image_text",
        "head": "none",
        "model": defaults.dual_encoder(defaults.vit("mu/8"), defaults.bert("mu")),
        "loss": {"name": "contrastive", "chunk": 0, "duplicates": "masked"},
    }
    return tiny.config(**SHORT, **own | changes)


def test_the_tokenizer_counts_where_the_text_tower_is_taken_over(tmp_path):
    path = str(drawn(pairs(40), tmp_path / "pairs"))

    def begun(skip):
        return start.begin(parts.assemble(pairs(48, init__path=path, init__skip=skip)), tmp_path / "none").state

    for skip in ("", "^temperature/", "^text/word/"):
        with pytest.raises(ValueError, match=rf"init\.path={path} was trained with the tokenizer of SHA-256 synthetic"):
            begun(skip)
    image = {n: v for n, v in warm_start.read(path).values.items() if n.startswith("image/")}
    found = trees.flatten(begun("^text/|^temperature/").params)
    assert found["text/word/embedding"].shape == (48, 32)
    for name, value in image.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_run_that_goes_on_with_another_tokenizer_is_refused_before_its_state_is_read(tmp_path):
    path = drawn(pairs(40), tmp_path) / "checkpoints"
    with pytest.raises(ValueError, match=f"{path} was trained with the tokenizer of SHA-256 synthetic"):
        start.begin(parts.assemble(pairs(48)), path)
    assert start.begin(parts.assemble(pairs(40)), path).step == 2
    with pytest.raises(ValueError, match=r"holds a run of another config \(seed: 0 -> 9\)"):
        start.begin(parts.assemble(pairs(40, seed=9)), path)


def test_a_source_that_is_none_is_refused(source, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"init\.path=.*nowhere is neither the folder of a run"):
        warm_start.read(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="finished checkpoint"):
        warm_start.read(str(tmp_path / "empty"))
    copy = tmp_path / "copy" / "2"
    copy.mkdir(parents=True)
    (copy / checkpoints.MANIFEST).write_text(json.dumps({"files": {"state/x": [1, "0"]}}))
    with pytest.raises(ValueError, match="state/x is missing"):
        warm_start.read(str(copy))


def test_the_average_starts_at_the_values_taken_over(source):
    run = parts.assemble(init(source, head="mrl_e", optim__ema=0.9))
    values = warm_start.match(warm_start.read(str(source)), run.abstract_state, "")
    fresh = warm_start.place(parts.init_state(run), values)
    for name, value in values.items():
        np.testing.assert_array_equal(trees.flatten(fresh.params)[name], value)
        np.testing.assert_array_equal(trees.flatten(fresh.ema["params"])[name], value)

import pathlib

import pytest
from absl import flags
from ml_collections import config_flags

from mrl_jax import config as defaults
from mrl_jax import limits, models
from mrl_jax.nesting import Nesting

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


def load(path, mode):
    module = {}
    exec(compile(path.read_text(), str(path), "exec"), module)
    return module["get_config"](mode)


def test_json_round_trip_is_exact():
    c = defaults.default()
    assert defaults.from_json(defaults.to_json(c)) == c


def test_a_misspelt_field_is_refused_with_a_suggestion():
    with pytest.raises(AttributeError, match="total_steps"):
        defaults.default().total_step = 3


def test_differences_name_the_fields():
    old, new = defaults.to_json(defaults.default()), defaults.to_json(defaults.default())
    new["optim"]["lr"] = 1.0
    new["log"]["every"], new["data"]["eval_split"], new["mesh"]["fsdp"] = 3, "val", 4
    assert set(defaults.differences(old, new)) == {"optim.lr", "log.every", "data.eval_split", "mesh.fsdp"}
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.001 -> 1\.0.*another --workdir"):
        defaults.check_resumable(old, new, "runs/q")
    new["optim"]["lr"] = old["optim"]["lr"]
    defaults.check_resumable(old, new, "runs/q")


def test_a_run_of_an_older_version_goes_on():
    new = defaults.to_json(defaults.default())
    old = {name: value for name, value in new.items() if name != "mesh"} | {"loss": {"name": "softmax"}}
    old["data"] = {name: value for name, value in new["data"].items() if name not in ("kind", "text")}
    old["init"] = {"path": "", "skip": ""}
    read = defaults.from_json(old)
    assert (read.data.kind, read.mesh.data, read.init.rename) == ("image", -1, "")
    assert read.loss.to_dict() == {"name": "softmax"}
    with pytest.raises(ValueError, match=r"\(loss\.chunk: None -> 0, loss\.label_smoothing: None -> 0\.0\)"):
        defaults.check_resumable(old, new, "runs/q")
    old["loss"] = new["loss"]
    defaults.check_resumable(old, new, "runs/q")
    assert "kind" not in old["data"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_has_its_modes_and_a_docstring(path):
    text = path.read_text()
    assert "python -m mrl_jax.train --config=configs/" in text
    full, debug = load(path, "mrl"), load(path, "debug")
    assert set(full) == set(debug) == set(defaults.default())
    limits.check_types(full)
    assert debug.schedule.get("warmup_steps", 0) < debug.total_steps < 10
    if full.model.name in ("resnet", "vit"):
        assert debug.optim.lr == pytest.approx(full.optim.lr * 16 / full.batch_size), "a small batch, a small rate"
    assert debug.data.name.startswith("synthetic")
    assert not any(own.split for own in full.evals.values()), "data.eval_split chooses what is evaluated on"
    assert full.head == "none" or load(path, "mrl_e").head == "mrl_e"  # models of pairs have no head
    ff = load(path, "ff=16,debug")
    assert (ff.head, ff.nesting.dims) == ("ff", (16,))
    with pytest.raises(ValueError, match="config mode 'fast'"):
        load(path, "fast")


@pytest.mark.parametrize("mode", ["bct=0.5", "asymmetric=0.5", "simplex", "sandwich"])
def test_methods_of_sfsc_have_every_field(mode):
    limits.check_types(load(CONFIGS[0].parent / "sfsc_resnet.py", mode))


def test_slimmable_gives_every_dim_a_width_of_its_own():
    c = load(next(p for p in CONFIGS if p.stem == "tiny_imagenet_resnet18"), "small,slimmable")
    options = dict(c.model)
    model = models.build(options.pop("name"), options, head=c.head, nesting=Nesting(c.nesting.dims), num_classes=7)
    assert [nesting.dims for nesting in model.nestings.values()] == [(m,) for m in (8, 16, 32, 64, 128, 256)]
    assert model.widths == tuple(m / 256 for m in (8, 16, 32, 64, 128, 256))


def test_overrides_from_the_command_line(monkeypatch):
    path = next(p for p in CONFIGS if p.stem == "quickstart")

    def parse(*arguments):
        monkeypatch.setattr("sys.argv", ["train", *arguments])
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", None, "", flag_values=values, lock_config=True)
        values(["train", *arguments])
        return values.config

    options = ("--config.optim.lr=0.5", "--config.nesting.dims=(8,128)", "--config.init.rename=^backbone/=image/")
    c = parse(f"--config={path}:mrl_e", *options)
    assert (c.optim.lr, c.nesting.dims, c.head) == (0.5, (8, 128), "mrl_e")
    assert c.init.rename == "^backbone/=image/"
    with pytest.raises(AttributeError, match="Did you mean"):
        parse(f"--config={path}", "--config.optim.lrr=0.5")


def test_the_ablations_change_the_nesting_and_nothing_else():
    path = CONFIGS[0].parent / "imagenet_resnet50_ablations.py"
    plain = defaults.to_json(load(CONFIGS[0].parent / "imagenet_resnet50.py", "mrl"))
    for word in ("8boost", "8+16boost", "uniform", "smallest=4", "smallest=6", "dense=32", "sample=3"):
        changed = defaults.differences(plain, defaults.to_json(load(path, word)))
        assert changed
        assert all(name.startswith("nesting.") or (word, name) == ("dense=32", "head") for name in changed), changed
    assert load(path, "8+16boost").nesting.weights[:3] == (2.0, 1.5, 1.0)
    assert load(path, "uniform").nesting.dims[:3] == (8, 212, 416)
    with pytest.raises(ValueError, match="config mode 'smallest=5'"):
        load(path, "smallest=5")

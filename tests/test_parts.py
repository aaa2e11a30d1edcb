"""Bad input: one clear error, before anything is compiled."""

import contextlib
import re

import command
import numpy as np
import pytest
import tiny

from mrl_jax import config as defaults
from mrl_jax import parts, train
from mrl_jax.data import array_records
from mrl_jax.start import Start


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_label_out_of_range_is_found_before_anything_is_compiled(tmp_path, split):
    last = {"train": 5, "test": 5} | {split: 6}
    manifest = {"name": "x", "source": "x", "licence": "x", "num_classes": 6, "label_names": None, "splits": {}}
    for name, label in last.items():
        examples = [{"image": np.zeros((16, 16, 1), np.uint8), "label": n} for n in [0] * 31 + [label]]
        shard = array_records.write_shard(tmp_path / f"{name}.array_record", examples)
        manifest["splits"][name] = [shard]
    array_records.write_manifest(tmp_path, manifest)
    with pytest.raises(ValueError, match=f"split '{split}': record 31 has the label 6, not in .*=6.; prepare"):
        parts.assemble(tiny.config(data__name=f"array_record:{tmp_path}"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nesting__dims": (8, 4, 32)}, "strictly increasing"),
        ({"nesting__dims": (8, 64)}, "the embedding has 32 features"),
        ({"nesting__weights": (1.0,)}, "1 entries for 3 dims"),
        ({"head": "ff"}, "exactly one dim"),
        ({"head": "mlr"}, "did you mean 'mrl'"),
        ({"batch_size": 12}, r"batch_size=12 is not divisible by the 8 devices.*multiple of 8"),
        ({"data__eval_batch_size": 12}, r"data\.eval_batch_size=12"),
        ({"mesh__model": 3}, "multiply to 8"),
        ({"mesh__model": 4}, "does not divide 6"),
        ({"total_steps": 0}, "total_steps=0 must be at least 1"),
        ({"log__every": 0}, r"log\.every=0 must be at least 1"),
        ({"data__name": "icon"}, "did you mean 'icons'"),
        ({"data__train_split": "trian"}, "train"),
        ({"data__train_ops": "decode|flip"}, "did you mean 'flip_lr'"),
        ({"data__eval_ops": "decod"}, "did you mean 'decode'"),
        ({"loss__name": "softmaxx"}, "did you mean 'softmax'"),
        (
            {"loss__name": "binary", "loss__label_smoothing": 0.1},
            r"label_smoothing=0\.1 is not an option of 'binary'.*one of \['softmax'\]: set it to 0\.0",
        ),
        ({"accumulate": 4}, r"accumulate=4: batch_size=16 is not divisible by 4 microbatches x 8 devices.*of 32"),
        ({"optim__no_decay": "bn|("}, r"optim\.no_decay: 'bn\|\(' is no regular expression"),
        ({"optim__freeze": "*head"}, r"optim\.freeze: '\*head' is no regular expression"),
        (
            {"data__train_ops": "decode(3)"},
            r"^data\.eval_ops: a model made for images of \(16, 16, 3\) does not take "
            r"\(16, 16, 1\): data\.train_ops and data\.eval_ops must give the same channels[^\n]*$",
        ),
        ({"data__eval_ops": "decode|resize_small(32)"}, r"^data\.eval_ops: .* not take \(32, .*'sincos2d'[^\n]*$"),
        ({"data__train_ops": "decode|random_crop(64)"}, r"^data\.train_ops: .*64"),
        ({"data__eval_ops": "decode|random_crop(64)"}, r"^data\.eval_ops: .*64"),
        ({"loss__chunk": -1}, r"loss\.chunk=-1 must be at least 0"),
        ({"accumulate": 0}, "accumulate=0 must be at least 1"),
        ({"nan_policy": "ignore"}, "nan_policy='ignore' is not one of"),
        ({"optim__ema": 1.0}, r"optim\.ema=1\.0 must be in"),
        ({"optim__layer_decay": 0.0}, r"optim\.layer_decay=0\.0 must be in"),
        ({"optim__multipliers": (("head", -1.0),)}, "must be finite and not negative"),
        ({"optim__multipliers": (("heads", 2.0),)}, r"optim\.multipliers: 'heads' finds no parameter"),
        ({"optim__freeze": "layer5"}, r"optim\.freeze: 'layer5' finds no parameter"),
        ({"optim__no_decay": "batchnorm"}, r"optim\.no_decay: 'batchnorm' finds no parameter"),
        ({"optim__freeze": ".*"}, "nothing is left to train"),
        ({"init__skip": "^head/"}, r"init\.skip='\^head/' is of parameters to start from: give init\.path too"),
        ({"model__drop_path": 1.0}, r"model\.drop_path=1\.0"),
        ({"nesting__sample": 4}, r"nesting\.sample=4 must be in 2\.\.3"),
        ({"nesting__sample": 1}, r"nesting\.sample=1 must be in 2\.\.3"),
        ({"dtype": "float16"}, "float16"),
        ({"model__variant": "mu/7"}, "16"),
        ({"evals__knn__k": 0}, "at least one neighbour"),
        ({"checkpoint__keep": 1}, r"checkpoint\.keep=1"),
        ({"profile__steps": 0}, r"profile\.steps=0"),
        ({"optim__lr": -1.0}, r"optim\.lr=-1\.0"),
        ({"loss": {"name": "binary", "chunk": 0}}, r"'binary' needs one kernel for every dim: set head='mrl_e'"),
        ({"loss": {"name": "regression"}}, r"'regression' needs a model with a teacher, not 'vit': set model\.name"),
        ({"seed": -1}, r"seed=-1 must be in 0\.\."),
        ({"seed": 10**20}, r"seed=10{20} must be in 0\.\."),
        ({"optim": defaults.sgd(0.1, momentum=1.0)}, r"optim\.momentum=1\.0 must be in \[0, 1\)"),
        ({"schedule__warmup_steps": -1}, r"schedule\.warmup_steps=-1 must be at least 0"),
        ({"schedule__final": -0.1}, r"schedule\.final=-0\.1 must be at least 0"),
        ({"evals__knn__every": -1}, r"evals\.knn\.every=-1 must be at least 0"),
        (
            {"sharding__rules": (("head/kernel", ("model",)),)},
            r"sharding\.rules: 'head/kernel' finds head/kernel\S* \(.*which has 2 dimensions, but gives axes for 1",
        ),
        ({"sharding__rules": (("heads/", (None,)),)}, r"sharding\.rules: 'heads/' finds no parameter; some are"),
        ({"optim__ema_warmup": True}, r"optim\.ema_warmup=True is of an average .* set optim\.ema too"),
        ({"nesting__keep_full": False}, r"nesting\.keep_full=False is of dims drawn .* set nesting\.sample too"),
        ({"profile__first_step": -2}, r"profile\.first_step=-2 must be below total_steps=6; -1 for no trace"),
        ({"profile__first_step": 6}, r"profile\.first_step=6 must be below total_steps=6"),
        ({"data__workers": 1025}, r"data\.workers=1025 must be at most 1024"),
        ({"loss__label_smoothing": 1.5}, r"loss\.label_smoothing=1\.5 must be in 0\.\.1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_fields_are_named_before_compilation(change, message):
    with pytest.raises(ValueError, match=message):
        parts.assemble(tiny.config(**change))


NAN, PAIR = float("nan"), r"must be \(regex, factor\) pairs"


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("nesting.weights", ("a", "b", "c"), "must be numbers, one for each dim"),
        ("nesting.weights", None, "must be numbers, one for each dim"),
        ("nesting.dims", None, "must be a tuple"),
        ("optim.multipliers", ("head", 2.0), PAIR),
        ("optim.multipliers", (("head", "2"),), PAIR),
        ("optim.multipliers", ((3, 2.0),), PAIR),
        ("sharding.rules", (("head", "data"),), r"must be \(regex, axes\) pairs"),
        ("sharding.rules", (("head", ("rows",)),), "an axis of the mesh or None"),
        ("data.mean", (), "must be one number, or one for each channel"),
        ("data.mean", (0.1, 0.2, 0.3), "does not fit 1 channels: pass one float, or one for each"),
        ("data.mean", ("a",), "must be one number, or one for each channel"),
        ("data.std", (0.5, 0.5), "does not fit 1 channels"),
        ("data.std", (0.0,), "must be one positive number"),
        ("data.std", (NAN,), "must be one positive number"),
        ("data.mixture", (3,), r"must be \(name, split, weight\)"),
        ("data.mixture", (("icons", "train", 0.0),), "with a positive weight"),
        ("data.mixture", (("synthetic", "trian", 1.0),), "did you mean 'train'"),
        ("data.resolution.points", (0.5,), r"must be \(fraction of the run, size\) pairs"),
        ("data.resolution.multiple", 0, "must be at least 1"),
        ("data.name", "icon", "did you mean 'icons'"),
        ("data.train_split", "trian", "did you mean 'train'"),
        ("data.eval_split", "tets", "did you mean 'test'"),
        ("data.train_ops", "decode|flip", "did you mean 'flip_lr'"),
        ("data.eval_ops", "decode(", "write it as 'decode|flip_lr'"),
        ("evals.knn.split", "tets", "did you mean 'test'"),
        ("evals.knn.gallery", "trian", "did you mean 'train'"),
        ("evals.knn.dims", ("a",), "are not in 1..32"),
        ("evals.knn.dims", (1.5,), "are not in 1..32"),
        ("evals.knn.k", "1", "must be a whole number, for example 1"),
        ("evals.knn.every", None, "must be a whole number, for example 0"),
        ("evals.knn.name", "kn", "did you mean 'knn'"),
        ("model.widths", 0.5, "must be a tuple of such entries"),
        ("model.dropout", "x", "must be a finite number, for example 0.0"),
        ("sharding.fsdp_min_size", -1, "must be at least 0"),
        ("loss.label_smoothing", NAN, "must be a finite number"),
        ("loss.chunk", 1.5, "must be a whole number"),
        ("optim.b1", 1.0, r"must be in \[0, 1\)"),
        ("optim.b2", -0.5, r"must be in \[0, 1\)"),
        ("optim.eps", -1e-8, "must be at least 0"),
        ("optim.ema", NAN, "must be a finite number"),
        ("optim.lr", float("inf"), "must be a finite number"),
        ("optim.clip_norm", None, "must be a finite number"),
        ("optim.freeze", None, "must be a text"),
        ("schedule.final", "x", "must be a finite number"),
        ("mix.mixup_alpha", "x", "must be a finite number"),
        ("total_steps", None, "must be a whole number"),
        ("data.text.whole_word", "yes", "must be True or False"),
    ],
)
def test_a_wrong_value_or_type_is_told_with_its_field(field, value, remedy):
    config, last = tiny.config(), field.split(".")[-1]
    node = config
    for name in field.split(".")[:-1]:
        node = node[name]
    with node.ignore_type():
        node[last] = value
    with pytest.raises(ValueError, match=rf"{re.escape(field)}.*{remedy}") as error:
        parts.assemble(config)
    assert str(value) in str(error.value) or last == "mixture"  # of several parts the one


@pytest.mark.parametrize(
    ("field", "value"),
    [("optim.momentum", "0.9"), ("optim.nesterov", "no"), ("schedule.points", ((0, 1, 2), (1, 0, 2)))],
)
def test_so_is_one_of_what_a_name_chooses(field, value):
    group, last = field.split(".")
    chosen = {"optim": defaults.sgd(0.1), "schedule": {"name": "piecewise_linear"}}[group]
    with pytest.raises(ValueError, match=rf"^{re.escape(field)}={re.escape(repr(value))}"):
        parts.assemble(tiny.config(**{group: {**chosen, last: value}}))


def test_a_run_says_that_its_warm_up_was_cut():
    for steps, said in ((6, False), (7, True)):
        run = parts.assemble(tiny.config(schedule__warmup_steps=steps))
        line = train._describe(run, Start(run.abstract_state, 0, -1, (), None))
        assert ("schedule.warmup_steps=7 is cut to total_steps=6" in line) == said


def test_evaluators_are_made_from_the_config():
    config = tiny.config()
    with config.unlocked():
        config.evals.linear_probe = defaults.linear_probe()
    assert list(parts.assemble(config).evaluators) == ["classification", "knn", "linear_probe"]
    with config.unlocked():
        config.evals.linear_probe.trian = "train"
    with pytest.raises(ValueError, match=r"evals\.linear_probe\.trian=.* is not an option"):
        parts.assemble(config)


@pytest.mark.parametrize(("own", "split"), [({}, "train"), ({"split": ""}, "train"), ({"split": "test"}, "test")])
def test_an_evaluator_that_names_no_split_has_that_of_the_data(monkeypatch, own, split):
    class Count:
        def __init__(self, *, split="test"):
            self.split = split

    monkeypatch.setitem(parts.EVALUATORS, "count", Count)
    config = tiny.config(data__eval_split="train", evals={"mine": {"name": "count", "every": 0, **own}})
    assert parts.assemble(config).evaluators["mine"].split == split


@pytest.mark.parametrize(
    ("name", "known", "right"), [("classification", 5, False), ("classification", 6, True), ("knn", 5, True)]
)
def test_a_head_is_not_asked_for_classes_that_it_has_not_learnt(name, known, right):
    message = r"'classification' asks the head, which knows the 5 classes of training, .* split 'test' has 6: .*'knn'"
    config = tiny.config(evals={"mine": {"name": name, "every": 0}})
    with contextlib.nullcontext() if right else pytest.raises(ValueError, match=message):
        parts.assemble(config, num_classes=known)


PAIRS = {
    "data__name": "synthetic:size=8,channels=1,classes=6,examples=48,context=8,vocabulary=40",
    "data__kind": "text_pair",
    "head": "none",
    "model": defaults.bert("mu"),
    "loss": {"name": "contrastive", "chunk": 0, "duplicates": "masked"},
}
ONE_CLASS = {"data__name": "synthetic:size=16,channels=1,classes=1,examples=48"}


@pytest.mark.parametrize(
    ("change", "own", "message"),
    [
        (
            PAIRS,
            {"name": "masked_lm"},
            r"'masked_lm' is for data\.kind in \['masked_text'\], and data\.kind='text_pair'",
        ),
        (PAIRS, {"name": "classification"}, r"'classification' is for data\.kind in \['image'\]"),
        (PAIRS, {"name": "zero_shot"}, r"'zero_shot' needs names of classes .*--labels"),
        ({}, {"name": "pair_retrieval"}, r"'pair_retrieval' is for data\.kind in .* leave it out of config\.evals"),
        ({}, {"name": "zero_shot"}, r"'zero_shot' is for data\.kind in"),
        (ONE_CLASS, {"name": "classification"}, r"needs labels of two classes or more, .* split 'test' has 1"),
        (ONE_CLASS, {"name": "knn"}, "needs labels of two classes or more"),
        (ONE_CLASS, {"name": "linear_probe"}, "needs labels of two classes or more, .* split 'train' has 1"),
        ({}, {"name": "knn", "gallery": "trian"}, "split 'trian' .* did you mean 'train'"),
        ({}, {"name": "knn", "dims": (8, 500)}, r"config\.evals\.mine\.dims=\(8, 500\): \[500\] are not in 1\.\.32"),
        ({}, {"name": "knn", "k": 49}, r"k=49 is more than the 48 gallery examples"),
    ],
    ids=lambda value: value.get("name", "") if isinstance(value, dict) else "",
)
def test_an_evaluator_that_does_not_fit_the_data_is_named(change, own, message):
    with pytest.raises(ValueError, match=message) as error:
        parts.assemble(tiny.config(**change, evals={"mine": {"every": 0, **own}}))
    assert str(error.value).startswith("config.evals.mine.") or "k=49" in str(error.value)


@pytest.mark.parametrize("name", ["pair_retrieval", "knn"])
def test_an_evaluator_that_fits_the_data_is_taken(name):
    assert list(parts.assemble(tiny.config(**PAIRS, evals={"mine": {"name": name, "every": 0}})).evaluators) == ["mine"]


def test_an_evaluator_without_needs_is_taken(monkeypatch):
    class Count:
        def run(self, store):
            yield "count@4", 1.0

    monkeypatch.setitem(parts.EVALUATORS, "count", Count)
    assert parts.assemble(tiny.config(evals={"mine": {"name": "count", "every": 0}})).evaluators.keys() == {"mine"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:imagenet2012", "tfds build imagenet2012 --data_dir=.* --file_format=array_record"),
        ("array_record:nowhere", "python -m mrl_jax.prepare SOURCE"),
    ],
)
def test_a_missing_dataset_names_the_command_that_makes_it(tmp_path, name, message):
    with pytest.raises(FileNotFoundError, match=message):
        parts.assemble(tiny.config(data__name=name, data__dir=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=rf"^data\.name='{name}', data\.train_split='train': "):
        parts.assemble(tiny.config(data__name=name, data__dir=str(tmp_path)))


def test_the_command_prints_one_line(tmp_path):
    output = command.finish(command.train(tmp_path / "run", "--config.nesting.dims=(8,4,32)"), expect=1)
    assert output.strip().startswith("error: nesting.dims=(8, 4, 32)")
    assert len(output.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_misspelt_override_is_refused(tmp_path):
    for argument, config, message in (
        (
            "--config.optim.lrr=1",
            "tests/tiny.py",
            "--config.optim.lrr: the config has no field 'optim.lrr'. Did you mean 'lr'?",
        ),
        ("--config.optim.lr=x", "tests/tiny.py", "flag --config.optim.lr=x: could not convert string to float: 'x'"),
        ("--dry_run", "configs/quickstart.py:fast", "config mode 'fast' is not one of mrl, mrl_e, ff=K"),
        ("--dry_run", "configs/nowhere.py", "No such file or directory: 'configs/nowhere.py'"),
    ):
        output = command.finish(command.train(tmp_path / "run", argument, config=config), expect=1)
        assert message in output
        assert output.startswith("error: ")
        assert len(output.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    output = command.finish(command.train(tmp_path / "file"), expect=1)
    assert f"error: --workdir={tmp_path}/file cannot be written to" in output


def test_a_run_that_diverges_stops_with_its_step_and_takes_its_remedy(tmp_path):
    output = command.finish(
        command.train(tmp_path / "run", "--config.optim.lr=1e30", "--config.optim.name=sgd"), expect=1
    )
    assert "error: step 2: train/loss is" in output
    command.finish(command.train(tmp_path / "run"))
    assert len(command.logged(tmp_path / "run")) == 12


def test_what_is_not_installed_is_found_before_the_folder_is_taken(tmp_path):
    (tmp_path / "tensorboardX.py").write_text("raise ImportError")
    output = command.finish(
        command.train(tmp_path / "run", "--config.log.tensorboard=True", PYTHONPATH=str(tmp_path)), expect=1
    )
    assert "error: tensorboardX is not installed" in output
    assert not (tmp_path / "run" / "config.json").exists()

"""Zero-shot classification of a set of images that training has not seen."""

import json

import command
import jax
import numpy as np
import pytest
import raw
import text
import tiny
from PIL import Image

from mrl_jax import checkpoints, inputs, parts, step, trained, zero_shot
from mrl_jax import config as configs
from mrl_jax.data import sources
from mrl_jax.data.text.tokenizer import Tokenizer

CLASSES = text.WORDS[:4]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of images and captions with its untrained model as the checkpoint, and a folder of images by class."""
    root = tmp_path_factory.mktemp("zero_shot")
    for i in range(16):
        path = root / "photos" / CLASSES[i % 4] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(raw.picture(i, 16)[:16, :16]).save(path)
    rows = [{"path": str(p), "caption": p.parent.name} for p in sorted(root.glob("photos/*/*.png"))]
    listed = text.write_jsonl(root / "pairs.jsonl", rows)
    made = text.trained(root / "tokenizer.json")
    own = {"tokenizer": str(made), "context": 8, "reader": {"image_key": "path", "text_key": "caption"}}
    raw.prepare(listed, root / "pairs", splits={"train": 1.0}, **own)
    raw.prepare(root / "photos", root / "images", splits={"test": 1.0})
    config = tiny.config(
        data__name=f"array_record:{root / 'pairs'}",
        data__kind="image_text",
        data__eval_split="train",
        data__train_ops="decode(3)",
        data__eval_ops="decode(3)",
        head="none",
        model=configs.dual_encoder(configs.vit("mu/8"), configs.bert("mu") | {"dropout": 0.0}),
        loss={"name": "contrastive", "chunk": 0, "duplicates": "masked"},
        evals={},
    )
    whole = parts.assemble(config)
    with jax.set_mesh(whole.mesh):
        state = parts.init_state(whole)
        saver = checkpoints.Checkpoints(root / "run" / "checkpoints", keep=2, keep_period=0)
        about = {"config": configs.to_json(config), "num_classes": whole.train_source.num_classes}
        saver.save(3, state, about | {"tokenizer": inputs.tokenizer_of(whole.train_source)})
        saver.close()
    return root, whole, state


def test_images_of_another_set_are_told_by_the_names_of_its_classes(run):
    root, whole, state = run
    output = command.finish(
        command.start(
            "mrl_jax.zero_shot",
            f"--workdir={root / 'run'}",
            f"--dataset=array_record:{root / 'images'}",
            "--split=test",
            "--template=a {}",
            "--template={} tree",
            "--dims=4,32",
        )
    )
    (file,) = (root / "run" / "results").glob("zero_shot_*.json")
    assert str(file.name) in output
    found = json.loads(file.read_text())
    assert (found["details"]["classes"], found["details"]["cut"], found["untrained_dims"]) == (4, 0, [])

    source = sources.load(f"array_record:{root / 'images'}", "test", data_dir=".")
    records = [source.records[i] for i in range(16)]
    decode = inputs.of(whole.config, whole.train_source).evaluation
    images = np.stack([decode({**whole.train_source.records[0], **r}, None)["image"] for r in records])
    prompts = [t.format(source.label_names[c]) for c in range(4) for t in ("a {}", "{} tree")]
    tokens = np.array(Tokenizer(whole.train_source.vocabulary.path).batch(prompts, 8)[0], np.int32)
    variables = step.variables_of(state)
    z = np.asarray(whole.model.apply(variables, {"image": images}, train=False)[0])
    t = np.asarray(whole.model.apply(variables, {"tokens": tokens}, train=False)[0]).reshape(4, 2, -1)
    label = np.array([r["label"] for r in records])
    for dim in (4, 32):
        cut = t[:, :, :dim] / np.linalg.norm(t[:, :, :dim], axis=2, keepdims=True)
        means = cut.mean(axis=1)
        nearest = (z[:, :dim] @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(axis=1)
        assert found["values"][f"top1@{dim}"] == pytest.approx((nearest == label).mean())


def test_prompts_that_are_cut_are_counted_and_no_two_classes_become_one(run, monkeypatch):
    root, _, _ = run
    seen, pieces = [], Tokenizer.pieces
    monkeypatch.setattr(Tokenizer, "pieces", lambda self, text: seen.append(text) or pieces(self, text))
    config = trained.config_of(root / "run", 3)
    long = "red red red red red red {}"  # of 8 ids, [CLS] and [SEP] leave 6
    _, cut = zero_shot.prompts(root / "run", 3, config, ["red", "tree"], [long, "{}"])
    assert cut == 2
    assert len(seen) == 4, "each is tokenized once"
    with pytest.raises(ValueError, match="the classes 'red' and 'tree' have the same 8 token ids"):
        zero_shot.prompts(root / "run", 3, config, ["red", "tree"], [long])


def test_names_come_from_the_data_or_from_a_file(run, tmp_path):
    source = sources.load(f"array_record:{run[0] / 'images'}", "test", data_dir=".")
    assert sorted(zero_shot.read_names(None, source)) == sorted(CLASSES)
    file = tmp_path / "names.txt"
    file.write_text("a\nb\nc\nd\n")
    assert zero_shot.read_names(str(file), source) == ["a", "b", "c", "d"]
    file.write_text("a\n\nc\nd\n")
    with pytest.raises(ValueError, match=r"--names=.* has 3 names on 4 lines, and .* 4 classes"):
        zero_shot.read_names(str(file), source)
    with pytest.raises(FileNotFoundError, match="--names=nowhere is not there"):
        zero_shot.read_names("nowhere", source)
    unnamed = sources.load("synthetic:size=16,channels=1", "test", data_dir=".")
    with pytest.raises(ValueError, match=r"has no names of classes: give --names=FILE"):
        zero_shot.read_names(None, unnamed)


def test_another_transform_of_the_same_images_has_results_of_its_own(run):
    before = set((run[0] / "run" / "results").glob("*.json"))
    for ops in ("decode(3)", "decode(3)|flip_lr(1.0)"):
        asked = (f"--dataset=array_record:{run[0] / 'images'}", "--split=test", "--dims=4", f"--ops={ops}")
        command.finish(command.start("mrl_jax.zero_shot", f"--workdir={run[0] / 'run'}", *asked))
    assert len(set((run[0] / "run" / "results").glob("*.json")) - before) == 2

"""Runs on texts and on pairs, from the config to the results."""

import json

import command
import jax
import numpy as np
import pytest
import text
import tiny

from mrl_jax import config as defaults
from mrl_jax import inputs, parts, sharding, trees
from mrl_jax.data import sources

TEXT = {"name": "masked_lm", "chunk": 0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return text.prepared(tmp_path_factory.mktemp("corpus"))


def config(corpus, **overrides):
    own = {
        "data__name": f"array_record:{corpus}",
        "data__kind": "masked_text",
        "head": "mrl_e",
        "model": defaults.bert("mu") | {"dropout": 0.0},
        "loss": TEXT,
        "evals": {"masked_lm": {"name": "masked_lm", "every": 0, "split": "test", "dims": ()}},
    }
    return tiny.config(**own | overrides)


def test_gaps_are_a_function_of_seed_and_step(corpus):
    run = parts.assemble(config(corpus))
    whole, late = parts.train_batches(run, 0), parts.train_batches(run, 2)
    batches = [next(whole) for _ in range(3)]
    again = next(late)
    whole.close()
    late.close()
    assert batches[2].keys() == {"tokens", "positions", "targets", "label"}
    for name, value in batches[2].items():
        np.testing.assert_array_equal(again[name], value)
    assert (batches[0]["positions"] != batches[1]["positions"]).any()
    assert {name: x.shape for name, x in batches[0].items()} == {n: s.shape for n, s in run.abstract_batch.items()}


def test_microbatches_of_unequally_many_gaps_give_the_update_of_the_whole_batch(corpus):
    found = []
    for n in (1, 4):
        own = config(corpus, accumulate=n, optim=defaults.sgd(0.1))
        run = parts.assemble(own, sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1]))
        batches = parts.train_batches(run, 0)
        batch = next(batches)
        batches.close()
        row_B, slot_S = (np.arange(size) for size in batch["targets"].shape)
        used_BxS = slot_S[None] <= row_B[:, None] % 4  # so that microbatch i of four has gaps 0..i of its texts
        batch = {**batch, "targets": np.where(used_BxS, np.maximum(batch["targets"], 0), -1)}
        with jax.set_mesh(run.mesh):
            state, measured = parts.jit_train_step(run)(parts.init_state(run), sharding.to_devices(batch, run.mesh))
        found.append((jax.device_get(trees.flatten(state.params)), jax.device_get(measured)))
    for one, other in zip(*found):
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_accuracy_of_the_evaluator_is_that_of_the_logits(corpus):
    run = parts.assemble(config(corpus), sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    with jax.set_mesh(run.mesh):
        state = parts.init_state(run)
        variables = {"params": state.params}
        store = parts.feature_store(run, parts.make_embed(run), variables)
        values = dict(run.evaluators["masked_lm"].run(store))
        right, total = {m: 0 for m in (4, 8, 32)}, 0
        for batch, out in store.outputs("test"):
            used = np.asarray(batch["targets"]) >= 0
            used &= np.asarray(batch["mask"])[:, None]
            total += used.sum()
            for m in right:
                logits = np.asarray(out["masked/z"])[:, :, :m] @ np.asarray(out["head/kernel"])[:m]
                right[m] += ((logits + np.asarray(out["head/bias"])).argmax(axis=2) == batch["targets"])[used].sum()
    assert total > 0
    for m, count in right.items():
        np.testing.assert_allclose(values[f"top1@{m}"], count / total, atol=1e-6)


def test_texts_longer_than_the_context_asked_for_are_counted(corpus):
    def share(context):
        own = config(corpus, data__text__context=context)
        return inputs.cut_share(own, inputs.train_source(own.data))

    records = sources.load(f"array_record:{corpus}", "train", data_dir=".").records
    lengths = np.array([len(records[i]["tokens"]) for i in range(len(records))])
    assert 0 < (lengths > 15).mean() == share(15)
    assert share(0) == share(16) == 0
    images = tiny.config()
    assert inputs.cut_share(images, inputs.train_source(images.data)) == 0


def test_another_tokenizer_is_refused(corpus, tmp_path):
    source = sources.load(f"array_record:{corpus}", "train", data_dir=".")
    inputs.check_tokenizer(None, source, "x")
    inputs.check_tokenizer(source.vocabulary.sha256, source, "x")
    with pytest.raises(ValueError, match=r"SHA-256 abc, and dataset .* prepare the data"):
        inputs.check_tokenizer("abc", source, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__text__mask": 1.0}, r"data\.text\.mask=1\.0 must be in"),
        ({"data__kind": "text_pair", "loss__name": "contrastive"}, r"needs records with \['tokens', 'tokens_2'\]"),
        ({"head": "mrl"}, "head='mrl' is not one of"),
        ({"model__positions": 8}, r"texts of 16 tokens are longer than model\.positions=8"),
        ({"data__kind": "image", "loss__name": "softmax"}, r"needs records with \['image'\]"),
    ],
)
def test_mistakes_are_named(corpus, change, message):
    with pytest.raises(ValueError, match=message):
        parts.assemble(config(corpus, **change))


@pytest.mark.slow
def test_from_a_corpus_to_sentence_embeddings_by_commands(tmp_path):
    source = text.corpus(tmp_path / "corpus.txt")
    made = tmp_path / "tokenizer.json"
    output = command.finish(command.start("mrl_jax.tokenizer", str(source), f"--out={made}", "--size=60"))
    assert f"Wrote {made}: wordpiece of" in output
    options = [f"--tokenizer={made}", "--context=16", "--workers=1"]
    data = tmp_path / "corpus"
    splits = ["--pack", "--splits=train:0.8,test:0.2"]
    command.finish(command.start("mrl_jax.prepare", str(source), f"--data_dir={data}", *options, *splits))
    mlm = [f"--config.data.name=array_record:{data}", "--config.data.eval_batch_size=16"]
    command.finish(command.train(tmp_path / "mlm", *mlm, config="configs/bert_mlm.py:debug"))
    found = json.loads((tmp_path / "mlm" / "results" / "masked_lm.json").read_text())
    assert {"top1@4", "top1@32"} <= found["values"].keys()
    out = tmp_path / "features"
    command.finish(command.start("mrl_jax.embed", f"--workdir={tmp_path / 'mlm'}", f"--out={out}", "--split=test"))
    assert np.load(next(out.rglob("features.npy"))).shape[1] == 32

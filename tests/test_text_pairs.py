"""Runs on pairs of texts, with hard negatives and without, to the values of their evaluation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mrl_jax import config as defaults
from mrl_jax import losses, objectives, parts, results, sharding, train, trees
from mrl_jax.data import sources
from mrl_jax.data.text.transforms import Pair
from mrl_jax.evals.features import FeatureStore
from mrl_jax.evals.pair_retrieval import PairRetrieval
from mrl_jax.nesting import Nesting

DATA = "synthetic:size=8,channels=1,classes=20,examples=48,context=8,vocabulary=40"


def config(**overrides):
    own = {
        "data__name": f"{DATA},negatives=2",
        "data__kind": "text_pair",
        "head": "none",
        "model": defaults.bert("mu") | {"dropout": 0.0, "pool": "mean"},
        "loss": {"name": "contrastive", "chunk": 0, "duplicates": "masked"},
        "optim": defaults.sgd(0.1),
        "evals": {},
        "total_steps": 2,
    }
    return tiny.config(**own | overrides)


def test_sentence_embeddings_are_trained_and_searched(tmp_path):
    evals = {"pairs": {"name": "pair_retrieval", "every": 0, "split": "test", "dims": ()}}
    assert train.train(config(data__text__negatives=2, evals=evals), tmp_path)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("train/ahead_of_negatives@4" in line for line in logged)
    values = results.read(tmp_path)["pairs"]["values"]
    assert {"to_pair_r1@4", "from_pair_r10@32", "ndcg10@8", "mrr10@8"} <= values.keys()
    assert not any(name.startswith("spearman") for name in values), "the data have no scores"


def batch_of(*pairs):
    """The batch of pairs of texts of one token."""
    transform = Pair(sources.load(DATA, "train", data_dir="").vocabulary, 8)
    found = [transform.begin({"tokens": [first], "tokens_2": [second], "label": 0}) for first, second in pairs]
    return {name: np.stack([record[name] for record in found]) for name in transform.fields}


def embedded(rows):
    z, pair = np.random.default_rng(0).normal(size=(2, rows, 8)).astype(np.float32)
    return z, {"pair/z": pair, "pair/scale": jnp.float32(2), "pair/bias": jnp.float32(0)}


def test_a_text_on_both_sides_is_no_rival_of_itself():
    pairs, (z, out) = [(5, 6), (6, 7), (8, 5)], embedded(3)
    first, second = np.array(pairs).T
    for name, more in (("contrastive", ()), ("sigmoid", (0.0,))):
        found = objectives.OBJECTIVES[name](Nesting((2, 8)))(z, out, batch_of(*pairs))
        loss = getattr(losses, f"nested_{name}")
        expected = loss(z, out["pair/z"], 2.0, *more, Nesting((2, 8)), ids_B=first, v_ids_B=second)
        np.testing.assert_allclose(found.per_dim, expected.per_dim, rtol=1e-6)


def test_a_text_of_several_others_is_no_rival_of_itself_and_all_of_them_are_right():
    a, b, c, w, x, y = range(5, 11)
    batch = batch_of((a, x), (a, y), (b, w), (c, w))
    z, out = embedded(4)
    for name in ("contrastive", "sigmoid"):
        loss = objectives.OBJECTIVES[name](Nesting((2, 8)))
        same = loss(z, out, {"caption": np.array([0, 0, 1, 1])})
        np.testing.assert_allclose(loss(z, out, batch).per_dim, same.per_dim, rtol=1e-6)

    place = np.eye(8, dtype=np.float32)[[0, 0, 1, 1]]  # of perfect embeddings
    rows = batch | {"z": place, "label": np.zeros(4), "mask": np.ones(4, bool)}
    store = FeatureStore(
        lambda variables, batch: (batch["z"], {"pair/z": batch["z"]}),
        None,
        lambda split: iter([rows]),
        lambda batch: batch,
        None,
        Nesting((2, 8)),
    )
    values = dict(PairRetrieval(dims=(8,)).run(store))
    assert {name: value for name, value in values.items() if value != 1} == {}


def update(run):
    """The parameters after an update, and what it measured."""
    with jax.set_mesh(run.mesh):
        state, batches = parts.init_state(run), parts.train_batches(run, 0)
        batch = next(batches)
        batches.close()
        before = jax.device_get(state.params)  # the update takes the state's memory
        state, measured = parts.jit_train_step(run)(state, sharding.to_devices(batch, run.mesh))
    return batch, before, jax.device_get(trees.flatten(state.params)), jax.device_get(measured)


@pytest.fixture(scope="module")
def one_device():
    run = parts.assemble(config(data__text__negatives=2), sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    return run, *update(run)


def test_negatives_reach_the_loss_of_their_row(one_device):
    run, batch, params, _, measured = one_device
    assert batch["negatives"].shape == (16, 2, 8)
    apply = jax.jit(run.model.apply, static_argnames="train")
    z, out = apply({"params": params}, batch, train=False)
    again, _ = apply({"params": params}, {"tokens": batch["negatives"][:, 1]}, train=False)
    np.testing.assert_allclose(out["pair/negatives"][:, 1], again, rtol=1e-4, atol=1e-5)
    hard = {"negatives_BxKxD": out["pair/negatives"], "negative_ids_BxK": batch["negative_captions"]}
    arguments = (z, out["pair/z"], out["pair/scale"], run.nesting)
    both = batch["caption"], batch["picture"]
    ids = {
        "ids_B": jnp.stack([*both, batch["picture"]], axis=1),
        "v_ids_B": jnp.stack([*both, batch["caption"]], axis=1),
    }
    expected = losses.nested_contrastive(*arguments, **ids, **hard)
    np.testing.assert_allclose(measured["train/loss"], expected.total, rtol=1e-4)
    np.testing.assert_allclose(
        measured["train/ahead_of_negatives@8"], expected.known["ahead_of_negatives"][1].mean(), rtol=1e-5
    )
    assert expected.total > losses.nested_contrastive(*arguments, **ids).total


def test_microbatches_on_eight_devices_give_the_update_of_one(one_device):
    _, _, after, measured = update(parts.assemble(config(data__text__negatives=2, accumulate=2)))
    assert measured.keys() == one_device[4].keys()
    for name, value in measured.items():
        np.testing.assert_allclose(value, one_device[4][name], rtol=1e-4, err_msg=name)
    for name, value in after.items():
        np.testing.assert_allclose(value, one_device[3][name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__text__negatives": 3}, r"data\.text\.negatives=3, and dataset .* has 2 .* or set it to 0\.\.2"),
        (
            {"data__text__negatives": 1, "data__name": DATA},
            r"has 0 hard negatives a pair: prepare it with --negatives_k",
        ),
        (
            {"data__text__negatives": 1, "loss": {"name": "sigmoid", "chunk": 0, "duplicates": "masked"}},
            r"data\.text\.negatives=1 .* loss\.name='sigmoid' takes none",
        ),
        ({"data__text__mask": 0.2}, r"data\.text\.mask=0\.2 has no meaning for data\.kind='text_pair'"),
        (
            {"data__text__context": 9, "data__kind": "image", "loss__name": "softmax"},
            r"data\.text\.context=9 has no meaning for data\.kind='image': set it to 0, or data\.kind to one of \['ma",
        ),
        ({"data__name": f"{DATA},negatives=2,classes=1"}, "negatives need texts, and classes > 1"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        parts.assemble(config(**change))

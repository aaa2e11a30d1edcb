"""ViTs stored as npz give the logits that their definition, written out here in numpy, gives."""

import math

import numpy as np
import pytest
from conversion.parity import assert_close, images, logits

from mrl_jax import convert, trees, weights
from mrl_jax.conversion.request import Request
from mrl_jax.models import vit

D, DEPTH, MLP, HEADS, PATCH, CLASSES, GRID = 24, 2, 48, 3, 4, 5, 4
TODAY = {"norm2": "LayerNorm_1", "attention": "MultiHeadDotProductAttention_0", "mlp": "MlpBlock_0"}
NUMBERED = {"norm2": "LayerNorm_2", "attention": "MultiHeadDotProductAttention_1", "mlp": "MlpBlock_3"}


@pytest.fixture(autouse=True)
def _known_size(monkeypatch):
    monkeypatch.setitem(vit.SIZES, "nano", vit.Size(D, DEPTH, MLP, HEADS))


def block(draw, names):
    shapes = {"LayerNorm_0/scale": (D,), "LayerNorm_0/bias": (D,)}
    shapes |= {f"{names['norm2']}/scale": (D,), f"{names['norm2']}/bias": (D,)}
    for part in ("query", "key", "value"):
        shapes |= {f"{names['attention']}/{part}/kernel": (D, HEADS, D // HEADS)}
        shapes |= {f"{names['attention']}/{part}/bias": (HEADS, D // HEADS)}
    shapes |= {f"{names['attention']}/out/kernel": (HEADS, D // HEADS, D), f"{names['attention']}/out/bias": (D,)}
    shapes |= {f"{names['mlp']}/Dense_0/kernel": (D, MLP), f"{names['mlp']}/Dense_0/bias": (MLP,)}
    shapes |= {f"{names['mlp']}/Dense_1/kernel": (MLP, D), f"{names['mlp']}/Dense_1/bias": (D,)}
    return {name: draw(shape) for name, shape in shapes.items()}


def make(pool, names=TODAY, positions=GRID**2):
    rng = np.random.default_rng(0)

    def draw(shape):
        return rng.normal(scale=0.3, size=shape).astype(np.float32)

    arrays = {"embedding/kernel": draw((PATCH, PATCH, 3, D)), "embedding/bias": draw((D,))}
    for i in range(DEPTH):
        arrays |= {f"Transformer/encoderblock_{i}/{n}": v for n, v in block(draw, names).items()}
    arrays |= {"Transformer/encoder_norm/scale": draw((D,)), "Transformer/encoder_norm/bias": draw((D,))}
    arrays |= {"head/kernel": draw((D, CLASSES)), "head/bias": draw((CLASSES,))}
    if positions:
        arrays["pos_embedding"] = draw((1, positions, D))
    if pool == "tok":
        arrays["cls"] = draw((1, 1, D))
    if pool == "map":
        arrays["MAPHead_0/probe"] = draw((1, 1, D))
        kept = ("LayerNorm_0/", TODAY["attention"], TODAY["mlp"])
        arrays |= {f"MAPHead_0/{n}": v for n, v in block(draw, TODAY).items() if n.startswith(kept)}
    # Activations of about 2, where the forms of the GELU differ.
    return {name: value + 1.5 if name.endswith("/scale") else value for name, value in arrays.items()}


def norm(x, p, name):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}/scale"] + p[f"{name}/bias"]


def attention(q, kv, p, name):
    query, key, value = (
        np.einsum("btd,dnh->btnh", x, p[f"{name}/{part}/kernel"]) + p[f"{name}/{part}/bias"]
        for x, part in ((q, "query"), (kv, "key"), (kv, "value"))
    )
    scores = np.exp(np.einsum("btnh,bsnh->bnts", query, key) / math.sqrt(D // HEADS))
    mixed = np.einsum("bnts,bsnh->btnh", scores / scores.sum(-1, keepdims=True), value)
    return np.einsum("btnh,nhd->btd", mixed, p[f"{name}/out/kernel"]) + p[f"{name}/out/bias"]


def mlp(x, p, name):
    x = x @ p[f"{name}/Dense_0/kernel"] + p[f"{name}/Dense_0/bias"]
    x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x @ p[f"{name}/Dense_1/kernel"] + p[f"{name}/Dense_1/bias"]


def reference(p, x, pool):
    """The logits of arrays under today's names."""
    p = {name: value.astype(np.float64) for name, value in p.items()}
    batch = len(x)
    patches = x.reshape(batch, GRID, PATCH, GRID, PATCH, 3)
    x = np.einsum("bipjqc,pqcd->bijd", patches, p["embedding/kernel"]).reshape(batch, -1, D) + p["embedding/bias"]
    x = x + p["pos_embedding"]
    if pool == "tok":
        x = np.concatenate([np.tile(p["cls"], (batch, 1, 1)), x], axis=1)
    for i in range(DEPTH):
        at = f"Transformer/encoderblock_{i}/"
        y = norm(x, p, at + "LayerNorm_0")
        x = x + attention(y, y, p, at + TODAY["attention"])
        x = x + mlp(norm(x, p, at + "LayerNorm_1"), p, at + "MlpBlock_0")
    x = norm(x, p, "Transformer/encoder_norm")
    if pool == "map":
        x = attention(np.tile(p["MAPHead_0/probe"], (batch, 1, 1)), x, p, "MAPHead_0/" + TODAY["attention"])
        x = x + mlp(norm(x, p, "MAPHead_0/LayerNorm_0"), p, "MAPHead_0/MlpBlock_0")
    z = x.mean(1) if pool == "gap" else x[:, 0]
    return [z @ p["head/kernel"] + p["head/bias"]]


def run(arrays, tmp_path, **request):
    src, dst = tmp_path / "in.npz", tmp_path / "out.safetensors"
    dst.unlink(missing_ok=True)
    np.savez(src, **arrays)
    text = convert.convert(src, dst, Request(**request), name="", layout="ours", step=None)
    return *weights.load(dst), text


@pytest.mark.parametrize("pool", vit.POOLS)
def test_logits(pool, tmp_path):
    arrays = make(pool)
    x, _ = images(GRID * PATCH)
    stored = {f"params/{name}": value for name, value in arrays.items()} | {"opt/0": np.zeros(3), "extra/t": np.ones(1)}
    variables, about, text = run(stored, tmp_path)
    assert "optimizer's state was left out" in text
    assert (about["model"]["pool"], about["grid"]) == (pool, [GRID, GRID])
    ours, theirs = logits(variables, about, x), reference(arrays, x, pool)
    assert_close(ours, theirs)
    # The exact GELU would differ by ten times as much.
    np.testing.assert_allclose(ours[D], theirs[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("place", ["Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"])
@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_the_older_layout_is_the_same_model(place, prefix, tmp_path):
    old = make("tok", NUMBERED, GRID**2 + 1)
    stored = {prefix + name: value for name, value in old.items() if name != "pos_embedding"}
    variables, about, _ = run({**stored, prefix + place: old["pos_embedding"]}, tmp_path)
    today = dict(zip(make("tok"), old.values()))
    today["cls"], today["pos_embedding"] = old["cls"] + old["pos_embedding"][:, :1], old["pos_embedding"][:, 1:]
    same, described, _ = run(today, tmp_path)
    assert described["model"] == about["model"]
    assert_same(variables, same)


def test_stacked_layers_and_bfloat16(tmp_path):
    arrays = {name: (v.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, v in make("gap").items()}
    plain, _, _ = run(arrays, tmp_path)
    stacked = {n: v for n, v in arrays.items() if "encoderblock" not in n}
    for name, value in arrays.items():
        if "encoderblock_0" in name:
            both = [value, arrays[name.replace("block_0", "block_1")]]
            stacked[name.replace("block_0", "block")] = np.stack(both)
    halves = {n: (v.view(np.uint32) >> 16).astype("<u2").view("V2") for n, v in stacked.items()}
    found, _, _ = run(halves, tmp_path)
    assert_same(found, plain)


def test_fixed_positions_need_no_grid(tmp_path):
    _, about, _ = run(make("gap", positions=0), tmp_path)
    assert (about["model"]["posemb"], about["grid"]) == ("sincos2d", None)


def test_every_difference_is_listed(tmp_path):
    arrays = make("gap")
    del arrays["Transformer/encoderblock_1/MlpBlock_0/Dense_1/bias"]
    arrays |= {"conv_root/kernel": np.zeros((3, 3), np.float32), "embedding/bias": np.zeros(3, np.int32)}
    with pytest.raises(
        ValueError,
        match=r"not those of a ViT-nano/4; 1 missing: Transformer/encoderblock_1/MlpBlock_0/Dense_1/bias; "
        r"1 unknown: conv_root/kernel; 1 of another shape: embedding/bias is \(3,\) instead of \(24,\); "
        r"1 not of floats: embedding/bias is int32",
    ):
        run(arrays, tmp_path)


def test_a_layer_before_the_classifier_is_not_dropped_in_silence(tmp_path):
    arrays = make("tok") | {
        "pre_logits/kernel": np.zeros((D, D), np.float32),
        "pre_logits/bias": np.zeros(D, np.float32),
    }
    with pytest.raises(ValueError, match=r"tanh layer pre_logits.*--head=none"):
        run(arrays, tmp_path)
    _, about, _ = run(arrays, tmp_path, head="none")
    assert about["head"] == "none"


def assert_same(a, b):
    left, right = trees.flatten(a), trees.flatten(b)
    assert set(left) == set(right)
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)

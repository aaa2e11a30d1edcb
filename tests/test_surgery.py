"""Gradient projection on trees against the same on flat vectors, written as in the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mrl_jax import sharding, surgery

project = jax.jit(surgery.project, static_argnames=("mode", "scope", "reduction"))


def naive(g_mxP, turns, masks_mxP=None):
    """The projected vectors, in float64; only the entries that both own count where masks are given."""
    g = np.asarray(g_mxP, np.float64)
    p = g.copy()
    for i in range(len(g)):
        for j in turns[i]:
            both = np.ones(g.shape[1]) if masks_mxP is None else masks_mxP[i] * masks_mxP[j]
            dot = (p[i] * g[j] * both).sum()
            if j != i and dot < 0:
                p[i] -= dot / (g[j] ** 2 * both).sum() * g[j] * both
    return p


def tree_of(vector):
    vector = jnp.asarray(vector, jnp.float32)
    return {"a": {"kernel": vector[:6].reshape(2, 3), "bias": vector[6:9]}, "b": [vector[9:]]}


def flat(tree):
    return np.concatenate([np.ravel(x) for x in (tree["a"]["kernel"], tree["a"]["bias"], tree["b"][0])])


def draw(m, seed=0):
    # Not centred on zero, so that there are pairs of both signs.
    return np.random.default_rng(seed).normal(size=(m, 14)) + 0.1


REFERENCE = [[1.0, 0, 0], [-1, 1, 0], [0, -1, 1]]


def test_reference_values():
    grads = [jnp.asarray(g) for g in REFERENCE]
    mean, stats = surgery.project(grads)
    np.testing.assert_allclose(mean, [0, 0.083333, 0.583333], atol=1e-6)
    np.testing.assert_allclose(surgery.project(grads, reduction="sum")[0], [0, 0.25, 1.75], atol=1e-6)
    down, _ = surgery.project(grads, order=[2, 1, 0], reduction="sum")
    np.testing.assert_allclose(down, [0.5, 0.5, 1.5], atol=1e-6)
    anchored, _ = surgery.project(grads, mode="anchor_full", reduction="sum")
    np.testing.assert_allclose(anchored, [0, -0.5, 1.5], atol=1e-6)
    assert stats["conflicts"] == 2
    np.testing.assert_allclose(stats["norms"], np.sqrt([1, 2, 2]), rtol=1e-6)
    np.testing.assert_allclose(stats["cosines"][1], [-np.sqrt(0.5), 1, -0.5], rtol=1e-6)
    np.testing.assert_allclose(stats["kept"], np.sqrt([0.375, 0.5 / 2, 1.5 / 2]), rtol=1e-6)


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_trees_equal_flat_vectors(m, reduction):
    for seed in range(5):
        g = draw(m, seed)
        turns = np.stack([np.random.default_rng(seed + i).permutation(m) for i in range(m)])
        merged, stats = project([tree_of(row) for row in g], order=turns, reduction=reduction)
        p = naive(g, turns)
        np.testing.assert_allclose(flat(merged), getattr(p, reduction)(axis=0), atol=1e-5)
        np.testing.assert_allclose(
            stats["kept"], np.linalg.norm(p, axis=1) / np.linalg.norm(g, axis=1), rtol=1e-4, atol=1e-5
        )
        assert stats["conflicts"] == (np.triu(g @ g.T, 1) < 0).sum()


def test_two_in_conflict_become_orthogonal_and_agreement_is_left_alone():
    g = jnp.asarray(draw(2)[0], jnp.float32)
    against = -0.5 * g + jnp.flip(g)
    # The sum of both and twice the first's share tell the two projections apart.
    both, stats = surgery.project([g, against], reduction="sum")
    first = g - jnp.minimum(g @ against, 0) / (against @ against) * against
    second = against - jnp.minimum(g @ against, 0) / (g @ g) * g
    np.testing.assert_allclose(both, first + second, rtol=1e-4, atol=1e-5)
    assert stats["conflicts"] == 1
    assert abs(first @ against) < 1e-4
    agree, stats = surgery.project([g, 2 * g, jnp.zeros_like(g)])
    np.testing.assert_allclose(agree, g, rtol=1e-6)
    assert stats["conflicts"] == 0


def test_a_layer_is_a_module_of_its_own():
    g = draw(3, 3)
    merged, stats = project([tree_of(row) for row in g], scope="layer")
    parts = [np.arange(9), np.arange(9, 14)]
    p = np.concatenate([naive(g[:, part], [range(3)] * 3) for part in parts], axis=1)
    np.testing.assert_allclose(flat(merged), p.mean(axis=0), atol=1e-5)
    assert stats["conflicts"] == sum((np.triu(g[:, part] @ g[:, part].T, 1) < 0).sum() for part in parts)


def nested_slices(seed=0):
    """Gradients of widths that own 1, 2 and all 3 of the first axis: arrays, masks, owned shapes."""
    shapes = [(1, 4), (2, 4), (3, 4)]
    masks = np.stack([np.pad(np.ones(s), ((0, 3 - s[0]), (0, 0))) for s in shapes])
    g = np.random.default_rng(seed).normal(size=(3, 3, 4)) * masks
    return g, masks, [{"w": jax.ShapeDtypeStruct(s, jnp.float32)} for s in shapes]


@pytest.mark.parametrize("with_owners", [True, False])
def test_overlap_writes_nothing_that_a_width_does_not_own(with_owners):
    small, full = jnp.asarray([1.0, 0, 0, 0]), jnp.asarray([-1.0, 0, 1, 1])
    whole, _ = surgery.project([small, full], reduction="sum")
    within, _ = surgery.project([small, full], reduction="sum", scope="overlap")
    np.testing.assert_allclose(whole, [2 / 3, 0, 4 / 3, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(within, [0, 0, 1, 1], atol=1e-6)
    for seed in range(2):
        g, masks, owners = nested_slices(seed)
        merged, _ = surgery.project(
            [{"w": jnp.asarray(x)} for x in g], scope="overlap", owners=owners if with_owners else None
        )
        p = naive(g.reshape(3, -1), [range(3)] * 3, masks.reshape(3, -1))
        np.testing.assert_allclose(merged["w"].ravel(), p.mean(axis=0), atol=1e-5)


def test_owner_mean_divides_by_the_widths_that_own_the_entry():
    g, masks, owners = nested_slices(1)
    g[0, 0, 0] = 0.0  # a zero that its owner computed: only `owners` can tell
    merged, _ = surgery.project([{"w": jnp.asarray(x)} for x in g], reduction="owner_mean", owners=owners)
    p = naive(g.reshape(3, -1), [range(3)] * 3)
    np.testing.assert_allclose(merged["w"].ravel(), p.sum(axis=0) / masks.sum(axis=0).ravel(), atol=1e-5)


@pytest.mark.parametrize(
    ("form", "reduction"),
    [("absent", "mean"), ("none", "sum"), ("zero", "mean"), ("zero", "owner_mean"), ("owners", "owner_mean")],
)
def test_private_parameters_keep_their_owner_s_gradient(form, reduction):
    shared, private = draw(3, 2), np.random.default_rng(5).normal(size=(3, 4))
    fill = {"absent": None, "none": None, "zero": jnp.zeros(4), "owners": jnp.zeros(4)}
    trees, owners = [], []
    for i in range(3):
        others = {} if form == "absent" else {f"bn_{k}": fill[form] for k in range(3)}
        trees.append({"w": jnp.asarray(shared[i]), **others, f"bn_{i}": jnp.asarray(100 * private[i])})
        owners.append({"w": trees[-1]["w"], f"bn_{i}": jnp.zeros(4)})
    merged, stats = project(trees, reduction=reduction, owners=owners if form == "owners" else None)
    p = naive(shared, [range(3)] * 3)
    np.testing.assert_allclose(merged["w"], p.sum(axis=0) if reduction == "sum" else p.mean(axis=0), atol=1e-5)
    for i in range(3):
        np.testing.assert_allclose(merged[f"bn_{i}"], 100 * private[i], rtol=1e-6)
    np.testing.assert_allclose(stats["norms"], np.linalg.norm(shared, axis=1), rtol=1e-5)


def test_the_key_draws_an_order_for_each_gradient():
    trees = [tree_of(row) for row in draw(5, 7)]
    found = [flat(project(trees, jax.random.key(seed))[0]) for seed in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(found[0], found[1])
    assert len({x.tobytes() for x in found}) > 2
    turns = surgery._turns(5, jax.random.key(0), None, "all")
    assert len({tuple(row) for row in turns.tolist()}) > 1


def test_sharded_gradients_equal_one_device():
    g = np.random.default_rng(0).normal(size=(3, 8, 6)).astype(np.float32)
    expected, _ = project([{"w": x} for x in jnp.asarray(g)])
    mesh = sharding.make_mesh(2, 2, 2)
    split = NamedSharding(mesh, P(("data", "fsdp"), "model"))
    merged, _ = project([{"w": jax.device_put(x, split)} for x in g])
    np.testing.assert_allclose(merged["w"], expected["w"], atol=1e-6)


def test_dtypes_are_kept_and_a_nan_is_not_hidden():
    trees = [{"w": jnp.asarray(row, jnp.bfloat16)} for row in REFERENCE]
    assert surgery.project(trees)[0]["w"].dtype == jnp.bfloat16
    trees[1]["w"] = trees[1]["w"].at[0].set(jnp.nan)
    assert jnp.isnan(surgery.project(trees)[0]["w"]).any()


def test_heads_a_chain_of_optax():
    params = {"w": jnp.zeros(3)}
    chain = optax.chain(surgery.transformation(3, seed=1), optax.sgd(0.5))
    state, update = chain.init(params), jax.jit(chain.update)
    key = jax.random.fold_in(jax.random.key(1), 1)
    for _ in range(2):
        updates, state = update([{"w": jnp.asarray(g)} for g in REFERENCE], state, params)
    expected, stats = surgery.project([{"w": jnp.asarray(g)} for g in REFERENCE], key)
    np.testing.assert_allclose(updates["w"], -0.5 * expected["w"], rtol=1e-6)
    assert state[0].count == 2
    np.testing.assert_allclose(state[0].statistics["cosines"], stats["cosines"], rtol=1e-6)
    with pytest.raises(ValueError, match="tasks=3"):
        chain.update([params], state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "some"}, "mode='some'"),
        ({"scope": "layers"}, "did you mean 'layer'"),
        ({"reduction": "average"}, "reduction='average'"),
        ({"order": [0, 0]}, "permutation"),
        ({"order": [1, 0], "mode": "anchor_full"}, "no meaning"),
        ({"order": [1, 0], "key": jax.random.key(0)}, "not both"),
        ({"grads": []}, "0 gradients"),
        ({"grads": [{"w": jnp.zeros(2)}, {"w": jnp.zeros(3)}]}, r"\['w'\]"),
        ({"grads": [[jnp.zeros(2)], {"w": jnp.zeros(2)}]}, "nested dicts"),
        ({"owners": [{"w": jnp.zeros(3)}] * 2}, "owners of"),
        ({"owners": [{"v": jnp.zeros(2)}] * 2}, "no gradient"),
        ({"owners": [{}]}, "1 owners for 2"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"grads": [{"w": jnp.ones(2)}] * 2} | change
    with pytest.raises(ValueError, match=message):
        surgery.project(**arguments)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.models import heads
from mrl_jax.nesting import Nesting

NESTING = Nesting((4, 8, 16))
CLASSES = 5


def head_out(kind, nesting=NESTING, init="uniform"):
    parameters, _ = heads.Head(kind, nesting, CLASSES, init).init_with_output(jax.random.key(0))
    return {f"head/{name}": value for name, value in parameters.items()}


def embedding():
    return jax.random.normal(jax.random.key(1), (3, NESTING.full))


@pytest.mark.parametrize(
    ("kind", "nesting", "shapes"),
    [
        ("mrl_e", NESTING, {"kernel": (16, 5), "bias": (5,)}),
        ("ff", Nesting.fixed(8), {"kernel": (8, 5), "bias": (5,)}),
        ("mrl", NESTING, {f"kernel_{m}": (m, 5) for m in (4, 8, 16)} | {f"bias_{m}": (5,) for m in (4, 8, 16)}),
    ],
)
def test_parameter_names_and_shapes(kind, nesting, shapes):
    out = head_out(kind, nesting)
    assert {k: v.shape for k, v in out.items()} == {f"head/{k}": v for k, v in shapes.items()}
    assert all(v.dtype == jnp.float32 for v in out.values())


def test_each_head_starts_uniform_within_the_bound_of_its_own_dim():
    nesting = Nesting((16, 256))
    parameters = heads.Head("mrl", nesting, 400).init_with_output(jax.random.key(0))[0]
    for m in nesting.dims:
        for name in ("kernel", "bias"):
            values, bound = np.asarray(parameters[f"{name}_{m}"]), m**-0.5
            assert 0.95 * bound < np.abs(values).max() <= bound
            np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=0.1)


def test_zeros_start_gives_zero_logits():
    np.testing.assert_array_equal(heads.logits(embedding(), head_out("mrl", init="zeros"), NESTING, 8), 0)


@pytest.mark.parametrize("dim", [1, 4, 6, 8, 13, 16])
def test_tied_logits_use_the_prefix_of_one_kernel_and_its_bias(dim):
    z, out = embedding(), head_out("mrl_e")
    masked = np.where(np.arange(16) < dim, z, 0)
    expected = masked @ np.asarray(out["head/kernel"]) + np.asarray(out["head/bias"])
    np.testing.assert_allclose(heads.logits(z, out, NESTING, dim), expected, atol=1e-5)


@pytest.mark.parametrize(("dim", "head"), [(1, 4), (4, 4), (5, 8), (8, 8), (15, 16), (16, 16)])
def test_untied_logits_use_the_head_of_the_next_trained_dim(dim, head):
    z, out = np.asarray(embedding()), head_out("mrl")
    expected = z[:, :dim] @ np.asarray(out[f"head/kernel_{head}"])[:dim] + np.asarray(out[f"head/bias_{head}"])
    np.testing.assert_allclose(heads.logits(embedding(), out, NESTING, dim), expected, atol=1e-5)


def test_logits_of_a_bfloat16_embedding_are_accumulated_in_float32():
    z = jnp.ones((1, 16), jnp.bfloat16)
    out = {"head/kernel": jnp.full((16, 1), 0.1), "head/bias": jnp.full((1,), 1e-4)}
    actual = heads.logits(z, out, NESTING, 16)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, 16 * float(jnp.bfloat16(0.1)) + 1e-4, rtol=1e-6)


@pytest.mark.parametrize("dim", [0, 17])
def test_logits_refuse_a_dim_outside_the_embedding(dim):
    with pytest.raises(ValueError, match=rf"dim={dim} is not in 1\.\.16"):
        heads.logits(embedding(), head_out("mrl_e"), NESTING, dim)


@pytest.mark.parametrize("head", ["mrl", "mrl_e"])
def test_a_nested_head_must_end_at_the_embedding_size(head):
    heads.check(head, NESTING, 16)
    with pytest.raises(ValueError, match=r"ends at 16, but the embedding has 32 features.*the last dim to be 32"):
        heads.check(head, NESTING, 32)


def test_the_fixed_feature_head_has_one_dim_that_may_be_smaller():
    heads.check("ff", Nesting.fixed(8), 16)
    heads.check("ff", Nesting.fixed(16), 16)
    for nesting in (Nesting.fixed(17), Nesting((4, 16))):
        with pytest.raises(ValueError, match="exactly one dim, at most the embedding's 16"):
            heads.check("ff", nesting, 16)


def test_an_unknown_head_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"head='mrl-e' is not one of .*did you mean 'mrl_e'"):
        heads.check("mrl-e", NESTING, 16)


def test_the_mean_stands_in_for_features_that_an_untrained_dim_leaves_out():
    out, z = head_out("mrl"), embedding()
    mean = np.arange(z.shape[1], dtype=np.float32)
    low, high = NESTING.dims[0], NESTING.dims[1]
    between = (low + high) // 2
    filled = np.concatenate([z[:, :between], np.broadcast_to(mean[between:high], (len(z), high - between))], axis=1)
    expected = filled @ out[f"head/kernel_{high}"] + out[f"head/bias_{high}"][None, :]
    np.testing.assert_allclose(heads.logits(z, out, NESTING, between, mean), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(heads.logits(z, out, NESTING, high, mean), heads.logits(z, out, NESTING, high))

"""Margins against the angles that define them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from nested_parity import assert_same, value_and_grad

from mrl_jax import losses, sharding
from mrl_jax.losses import reference
from mrl_jax.nesting import Nesting

COSINES = np.random.default_rng(0).uniform(-1, 1, (5, 7)).astype(np.float32)
LABELS = jnp.asarray([0, 6, 3, 3, 1])


def test_arcface_adds_to_the_angle_of_the_label_alone():
    found = losses.arcface(jnp.asarray(COSINES), LABELS, margin=0.4, scale=30.0)
    angle = np.arccos(COSINES.astype(np.float64))
    own = np.eye(7, dtype=bool)[LABELS]
    expected = np.where(angle + 0.4 < np.pi, np.cos(angle + 0.4), COSINES - 0.4 * np.sin(0.4))
    np.testing.assert_allclose(found, 30 * np.where(own, expected, COSINES), atol=2e-4)


def test_arcface_falls_with_the_angle_and_its_gradient_is_finite_at_the_ends():
    cosines = jnp.linspace(-1, 1, 401)[:, None]
    logits = losses.arcface(cosines, jnp.zeros(401, int))
    assert (jnp.diff(logits[:, 0]) > 0).all()
    assert (logits[:, 0] < 64 * cosines[:, 0]).all()
    slopes = jax.grad(lambda c: losses.arcface(c, jnp.zeros(401, int)).sum())(cosines)
    assert jnp.isfinite(slopes).all()


def test_cosface_takes_the_margin_from_the_label_alone():
    found = losses.cosface(jnp.asarray(COSINES), LABELS, margin=0.2, scale=10.0)
    np.testing.assert_allclose(found, 10 * (COSINES - 0.2 * np.eye(7)[LABELS]), atol=1e-5)


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_without_margin_only_the_scale_is_left(name):
    found = losses.MARGINS[name](jnp.asarray(COSINES, jnp.bfloat16), LABELS, margin=0.0, scale=2.0)
    plain = losses.MARGINS["plain"](jnp.asarray(COSINES, jnp.bfloat16), LABELS)
    assert found.dtype == plain.dtype == jnp.float32
    np.testing.assert_allclose(found, 2 * plain, rtol=1e-6)


def test_cross_entropy_is_that_of_the_softmax():
    logits = jnp.asarray(40 * COSINES)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
    np.testing.assert_allclose(losses.cross_entropy(logits, LABELS), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(losses.cross_entropy(logits, LABELS + 7), jnp.full(5, jnp.inf))


NESTING = Nesting((2, 5, 8), (1.0, 0.5, 2.0))


def nested_problem(tied, rows=8, classes=40):
    rng = np.random.default_rng(0)
    z, dims = rng.normal(size=(rows, 8)), (8,) if tied else NESTING.dims
    arguments = jnp.float32(z), [jnp.float32(rng.normal(size=(m, classes))) for m in dims]
    return arguments, jnp.asarray(rng.integers(0, classes, rows))


def nested_value_and_grad(loss, arguments, labels, **options):
    return value_and_grad(loss, arguments, labels, NESTING, margin=0.3, scale=16.0, **options)


@pytest.mark.parametrize(("tied", "name", "chunk"), [(True, "arcface", 11), (False, "cosface", 11),
                                                     (True, "cosface", None)])  # fmt: skip
def test_of_a_head_equals_that_of_its_cosines(tied, name, chunk):
    arguments, labels = nested_problem(tied)
    found = nested_value_and_grad(losses.nested_margin, arguments, labels, name=name, chunk=chunk)
    assert_same(found, nested_value_and_grad(reference.nested_margin, arguments, labels, name=name))


@pytest.mark.parametrize("tied", [True, False])
def test_of_a_head_on_sharded_rows_and_classes_equals_one_device(tied):
    arguments, labels = nested_problem(tied)
    expected = nested_value_and_grad(reference.nested_margin, arguments, labels, name="arcface")
    mesh = sharding.make_mesh(2, 1, 4)
    with jax.set_mesh(mesh):
        specs = P("data"), P(None, "model")
        placed = tuple(jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(arguments, specs))
        labels = jax.device_put(labels, NamedSharding(mesh, P("data")))
        found = nested_value_and_grad(losses.nested_margin, placed, labels, name="arcface", chunk=12)
    assert_same(found, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_of_a_head_has_the_cosines_of_features_of_any_size_and_none_of_zeros(tied):
    (z, kernels), labels = nested_problem(tied)
    expected = losses.prefix_cosines(z, kernels, NESTING)
    for size in (1e-18, 1e18):
        found = losses.prefix_cosines(z * size, [k * 1e-8 for k in kernels], NESTING)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    found = nested_value_and_grad(losses.nested_margin, (z.at[0].set(0), kernels), labels, name="arcface")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert not losses.prefix_cosines(0 * z, kernels, NESTING)[0].any()


def test_a_label_of_no_class_makes_the_loss_of_a_head_infinite():
    arguments, labels = nested_problem(tied=True)
    for label in (-1, 40):
        options = {"name": "arcface", "margin": 0.3, "scale": 16.0}
        found = losses.nested_margin(*arguments, labels.at[0].set(label), NESTING, **options)
        assert jnp.isinf(found.per_dim).all()
        assert not found.correct[:, 0].any()


@pytest.mark.parametrize(
    ("options", "message"), [({"margin": -0.1}, "margin=-0.1"), ({"scale": 0.0}, "scale=0"), ({"margin": 4.0}, "0..")]
)
@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        losses.MARGINS[name](jnp.asarray(COSINES), LABELS, **options)

import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from mrl_jax import flops, sharding


def test_counts_products_convolutions_and_loops():
    a, b = jnp.ones((4, 8)), jnp.ones((8, 16))
    assert flops.count(lambda a, b: a @ b, a, b) == 2 * 4 * 8 * 16
    assert flops.count(jax.jit(lambda a, b: jnp.sin(a) @ b), a, b) == 2 * 4 * 8 * 16

    def looped(a, b):
        return jax.lax.scan(lambda c, _: (c @ b @ b.T, None), a, length=5)[0]

    assert flops.count(looped, a, b) == 5 * 2 * (2 * 4 * 8 * 16)


def test_what_devices_compute_each_for_themselves_counts_for_all_of_them():
    def shared(a, b):
        return jax.shard_map(jnp.matmul, in_specs=(P("data"), P()), out_specs=P("data"), axis_names={"data"})(a, b)

    with jax.set_mesh(sharding.make_mesh(4, 1, 2)):
        assert flops.count(jax.jit(shared), jnp.ones((8, 4)), jnp.ones((4, 16))) == 2 * 8 * 4 * 16


def test_a_convolution_s_gradient_costs_twice_its_value():
    x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def conv(x, w, stride=1):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=numbers).sum()

    forward = 2 * 2 * 8 * 8 * 5 * 3 * 3 * 3
    assert flops.count(conv, x, w) == forward
    assert flops.count(jax.grad(conv, (0, 1)), x, w) == 3 * forward


def test_what_is_computed_again_counts_again():
    def product(a, b):
        return jnp.sin(a @ b) @ b.T

    a, b = jnp.ones((4, 8)), jnp.ones((8, 16))
    plain, again = (flops.count(jax.grad(lambda a, b, f=f: f(a, b).sum()), a, b) for f in (product, jax.remat(product)))
    assert again == plain + 2 * 4 * 8 * 16


def test_depthwise_convolution():
    x, w = jnp.ones((1, 8, 8, 6)), jnp.ones((3, 3, 1, 6))

    def conv(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=6)

    assert flops.count(conv, x, w) == 2 * 8 * 8 * 6 * 3 * 3


def test_peak_is_unknown_on_cpu():
    assert flops.peak(jax.devices()[0]) is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5", "v5p"),
        ("TPU v5 lite", "v5e"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", None),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("Tesla V100-SXM2-16GB", "v100"),
    ],
)
def test_peak_goes_by_the_whole_name(kind, name):
    assert flops.peak(types.SimpleNamespace(device_kind=kind)) == (flops.ACCELERATORS[name].peak if name else None)

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from mrl_jax import sharding

RULES = (("head/kernel", (None, "model")), ("head/bias", ("model",)))


def test_mesh_takes_what_is_left():
    assert dict(sharding.make_mesh(-1, 2, 2).shape) == {"data": 2, "fsdp": 2, "model": 2}
    assert dict(sharding.make_mesh(8, 1, 1).shape) == {"data": 8, "fsdp": 1, "model": 1}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (1, 1, 1), (-1, 0, 1)])
def test_a_mesh_that_does_not_cover_the_devices_is_refused(sizes):
    with pytest.raises(ValueError, match="multiply to 8"):
        sharding.make_mesh(*sizes)


def test_hosts_that_are_slices_of_their_own_lie_outermost():
    pairs = itertools.product((1, 0), (3, 2, 1, 0))
    devices = [types.SimpleNamespace(slice_index=host, process_index=host, id=4 * host + i) for host, i in pairs]
    assert [device.id for device in sharding._outermost_slices(devices)] == list(range(8))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_a_batch_keeps_its_order_on_any_order_of_devices(sizes):
    devices = np.array(jax.devices())[np.random.default_rng(0).permutation(8)].reshape(sizes)
    mesh = Mesh(devices, ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3)
    assert sharding.rows_of_process(16, mesh).tolist() == list(range(16))
    batch = {"image": np.random.default_rng(1).normal(size=(16, 3, 2)).astype(np.float32), "label": np.arange(16)}
    found = sharding.to_devices(batch, mesh)
    for name, values in batch.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].sharding == sharding.of_batch(mesh)


def test_batch_must_divide():
    mesh = sharding.make_mesh(-1, 2, 2)
    sharding.check_batch(8, mesh)
    with pytest.raises(ValueError, match=r"batch_size=6 is not divisible by the 4 devices .*multiple of 4"):
        sharding.check_batch(6, mesh)


def test_rules_then_fsdp_by_size():
    mesh = sharding.make_mesh(2, 2, 2)
    tree = {
        "head": {"kernel_8": jnp.zeros((8, 10)), "bias_8": jnp.zeros(10)},
        "conv": {"kernel": jnp.zeros((3, 3, 16, 32))},
        "norm": {"scale": jnp.zeros(16)},
        "odd": jnp.zeros((101, 103)),
    }
    found = jax.tree.map(lambda s: s.spec, sharding.of_tree(tree, mesh, RULES, fsdp_min_size=1000))
    assert found["head"] == {"kernel_8": P(None, "model"), "bias_8": P("model")}
    assert found["conv"]["kernel"] == P(None, None, None, "fsdp")
    assert found["norm"]["scale"] == P(None)
    assert found["odd"] == P(None, None)


def test_a_rule_that_does_not_divide_is_refused():
    mesh = sharding.make_mesh(2, 2, 2)
    with pytest.raises(ValueError, match=r"head/kernel.*model=2, which does not divide 7"):
        sharding.of_tree({"head": {"kernel": jnp.zeros((4, 7))}}, mesh, RULES, 1000)


def test_a_number_in_the_place_of_a_parameter_is_not_split():
    mesh = sharding.make_mesh(2, 2, 2)
    tree = {"opt_state": {"v": {"head": {"bias": jnp.zeros(10)}}, "v_row": {"head": {"bias": jnp.zeros(1)}}}}
    found = jax.tree.map(lambda s: s.spec, sharding.of_tree(tree, mesh, RULES, 1000))["opt_state"]
    assert found["v"]["head"]["bias"] == P("model")
    assert found["v_row"]["head"]["bias"] == P(None)

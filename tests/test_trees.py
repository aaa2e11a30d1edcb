import jax.numpy as jnp
import optax

from mrl_jax import trees


def test_flatten_and_unflatten_are_inverse():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert trees.flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert trees.unflatten(trees.flatten(tree)) == tree
    assert trees.unflatten(trees.flatten(tree), "a") == {"b": 1, "c": {"d": 2}}
    assert trees.unflatten({"ab/c": 1}, "a") == {}


def test_names_reach_into_optimizer_state():
    params = {"head": {"kernel": jnp.zeros((2, 3))}}
    names = []
    trees.map_named(lambda name, leaf: names.append(name), optax.trace(0.9).init(params))
    assert names == ["trace/head/kernel"]


def test_mask_by_regex():
    tree = {"bn1": {"scale": 0}, "conv": {"kernel": 0}}
    assert trees.mask(tree, "bn") == {"bn1": {"scale": True}, "conv": {"kernel": False}}
    assert trees.mask(tree, "") == {"bn1": {"scale": False}, "conv": {"kernel": False}}


def test_count():
    assert trees.count({"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}) == 10

"""Nested losses: each passes once over the features and returns every dim's value."""

from mrl_jax.losses.binary import nested_binary
from mrl_jax.losses.mixed import add_second_label
from mrl_jax.losses.softmax import nested_softmax, nested_softmax_untied
from mrl_jax.losses.types import NestedLoss

__all__ = ["NestedLoss", "add_second_label", "nested_binary", "nested_softmax", "nested_softmax_untied"]

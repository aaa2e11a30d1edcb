"""Losses: nested ones, which return every dim's value from one pass over the features, and those of given logits."""

from mrl_jax.losses.binary import nested_binary
from mrl_jax.losses.contrastive import nested_contrastive
from mrl_jax.losses.evidential import evidential, expected_probability, nested_evidential, priorities
from mrl_jax.losses.margins import MARGINS, arcface, cosface, cross_entropy, nested_margin
from mrl_jax.losses.masked_lm import nested_masked_lm
from mrl_jax.losses.mixed import add_second_label
from mrl_jax.losses.prefixes import is_first, prefix_cosines, prefix_logits
from mrl_jax.losses.regression import nested_regression
from mrl_jax.losses.sigmoid import nested_sigmoid
from mrl_jax.losses.softmax import nested_softmax, nested_softmax_untied
from mrl_jax.losses.triplets import nested_triplet
from mrl_jax.losses.types import NestedLoss

__all__ = [
    "MARGINS",
    "NestedLoss",
    "add_second_label",
    "arcface",
    "cosface",
    "cross_entropy",
    "evidential",
    "expected_probability",
    "is_first",
    "nested_binary",
    "nested_contrastive",
    "nested_evidential",
    "nested_margin",
    "nested_masked_lm",
    "nested_regression",
    "nested_sigmoid",
    "nested_softmax",
    "nested_softmax_untied",
    "nested_triplet",
    "prefix_cosines",
    "prefix_logits",
    "priorities",
]

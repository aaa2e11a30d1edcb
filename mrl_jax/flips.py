"""Flips at test time: the features of an image and of its mirror image, of which linear heads add the logits.

The paper's Tables 3, 17 and 22 are measured so. The logits of a linear head are linear in the features, so that those
of both views add up to two times those of the mean features.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

VIEWS = 2


def check(kind: str) -> None:
    """Raises ValueError unless data of this `data.kind` are images alone."""
    if kind != "image":
        raise ValueError(f"--flips: data.kind={kind!r}, and only those of 'image' have mirror images: leave it out")


def mean_of_both(
    apply: Callable[..., tuple[jax.Array, Any]], variables: Any, batch: Mapping[str, jax.Array], **options: Any
) -> tuple[jax.Array, Any]:
    """`apply(variables, batch, **options)`, its z (B, D) float32 the mean with that of mirrored images (B, H, W, C)."""
    z, out = apply(variables, batch, **options)
    mirrored, _ = apply(variables, {**batch, "image": batch["image"][:, :, ::-1]}, **options)
    return (z.astype(jnp.float32) + mirrored.astype(jnp.float32)) / VIEWS, out


def views_of(identity: Mapping[str, Any]) -> int:
    """Of how many views of each image features are the mean, by their `features_dir.Info.identity`."""
    return identity.get("views", 1)


def named(name: str, flips: bool) -> str:
    """What results and features are called, so that those of both ways lie side by side."""
    return f"{name}_flips" if flips else name

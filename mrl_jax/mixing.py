"""Mixup (Zhang et al. 2017) and CutMix (Yun et al. 2019) of a batch, on the device.

Row i is mixed with row B - 1 - i of the global batch, and every draw has the shape of the global batch: the result does
not depend on how many hosts or devices share it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mrl_jax.choices import choose

Batch = Mapping[str, jax.Array]
Mixer = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]  # (images, key) -> images, weights (B,)


def mixup(alpha: float) -> Mixer:
    """Weighted means of two images, the weight of the first drawn from Beta(alpha, alpha) for each row."""

    def mix(image_BxHxWxC, key):
        weight_B = jax.random.beta(key, alpha, alpha, image_BxHxWxC.shape[:1])
        w_Bx1x1x1 = weight_B[:, None, None, None]
        mixed = w_Bx1x1x1 * image_BxHxWxC + (1 - w_Bx1x1x1) * image_BxHxWxC[::-1].astype(jnp.float32)
        return _as(image_BxHxWxC.dtype, mixed), weight_B

    return mix


def cutmix(alpha: float) -> Mixer:
    """A box of the second image pasted into the first; its share of the area is 1 - w, w from Beta(alpha, alpha).

    The box lies around a uniform centre, cut off at the border; the weight is the share of the first that is left.
    """

    def mix(image_BxHxWxC, key):
        rows, height, width = image_BxHxWxC.shape[:3]
        keys = jax.random.split(key, 3)
        side_B = jnp.sqrt(1 - jax.random.beta(keys[0], alpha, alpha, (rows,)))
        in_y_BxH = _inside(keys[1], side_B, height)
        in_x_BxW = _inside(keys[2], side_B, width)
        box_BxHxWx1 = (in_y_BxH[:, :, None] & in_x_BxW[:, None, :])[..., None]
        weight_B = 1 - jnp.mean(in_y_BxH, axis=1) * jnp.mean(in_x_BxW, axis=1)
        return jnp.where(box_BxHxWx1, image_BxHxWxC[::-1], image_BxHxWxC), weight_B

    return mix


def make(options: Mapping[str, Any]) -> Callable[[Batch, jax.Array], Batch] | None:
    """`(batch, key) -> batch` of `config.mix`; None where its name is "none".

    The new batch has the mixed `image`, the `label` of the first image and `label_2` of the second, and `mix` (B,),
    float32: the weight of the first. `name` is "mixup", "cutmix" or "both": one of the two, half of the batches each.
    `probability` is the share of the batches that are mixed at all; the weights of the others are 1.

    Raises:
      ValueError: for an unknown name, an alpha that is not positive or a probability outside 0..1.
    """
    choose("mix.name", options["name"], ("none", "mixup", "cutmix", "both"))
    for field in ("mixup_alpha", "cutmix_alpha"):
        if not options[field] > 0:
            raise ValueError(f"mix.{field}={options[field]} must be positive; mix.name='none' turns mixing off")
    if not 0 <= options["probability"] <= 1:
        raise ValueError(f"mix.probability={options['probability']} must be in 0..1")
    if options["name"] == "none":
        return None
    mixers = {"mixup": mixup(options["mixup_alpha"]), "cutmix": cutmix(options["cutmix_alpha"])}
    chosen = list(mixers.values()) if options["name"] == "both" else [mixers[options["name"]]]
    probability = options["probability"]

    def mix(batch: Batch, key: jax.Array) -> Batch:
        choice_key, draw_key, mix_key = jax.random.split(key, 3)
        which = jax.random.randint(choice_key, (), 0, len(chosen))
        # The last branch leaves the batch as it is.
        which = jnp.where(jax.random.uniform(draw_key) < probability, which, len(chosen))
        image, weight_B = jax.lax.switch(which, [*chosen, _as_it_is], batch["image"], mix_key)
        return {**batch, "image": image, "label_2": batch["label"][::-1], "mix": weight_B}

    return mix


def _as_it_is(image_BxHxWxC: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    return image_BxHxWxC, jnp.ones(image_BxHxWxC.shape[0], jnp.float32)


def _inside(key: jax.Array, side_B: jax.Array, size: int) -> jax.Array:
    """Which of `size` pixels lie within the share `side` around a uniform centre: (B, size) booleans."""
    centre_B = jax.random.uniform(key, side_B.shape) * size
    pixel = jnp.arange(size)[None] + 0.5
    return jnp.abs(pixel - centre_B[:, None]) < (side_B * size / 2)[:, None]


def _as(dtype: Any, image: jax.Array) -> jax.Array:
    return (jnp.round(image) if jnp.issubdtype(dtype, jnp.integer) else image).astype(dtype)

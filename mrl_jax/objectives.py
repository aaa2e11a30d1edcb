"""What is minimised: a function of the model's outputs and the batch, chosen by name in the config.

An objective is the only meeting point of models and losses. It gets the embedding `z` (B, D), the flat dict `out` of
named tensors that the model gave with it (among them its head's parameters) and the batch, and returns a NestedLoss.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mrl_jax import losses
from mrl_jax.choices import choose
from mrl_jax.nesting import Nesting
from mrl_jax.sharding import BATCH_AXES

DUPLICATES = ("masked", "negatives")
Objective = Callable[[jax.Array, Mapping[str, jax.Array], Mapping[str, jax.Array]], losses.NestedLoss]


def softmax(nesting: Nesting, *, label_smoothing: float = 0.0, chunk: int = 0) -> Objective:
    """Nested softmax cross-entropy on `label` (B,); independent heads where `out` has one per dim, else the tied one.

    A batch of two labels a row (see `mixing`) has the target mix x label + (1 - mix) x label_2.
    """

    def objective(z, out, batch):
        options = {"label_smoothing": label_smoothing, "chunk": chunk or None}
        kernels, biases = _head(z, out, nesting)
        if "head/kernel" in out:
            nested = losses.nested_softmax(z, kernels[0], biases[0], batch["label"], nesting, **options)
        else:
            nested = losses.nested_softmax_untied(z, kernels, biases, batch["label"], nesting, **options)
        if "mix" not in batch:
            return nested
        second = (batch["label"], batch["label_2"], batch["mix"])
        return losses.add_second_label(nested, z, kernels, biases, *second, nesting, label_smoothing=label_smoothing)

    return objective


def binary(nesting: Nesting, *, chunk: int = 0) -> Objective:
    """Nested sigmoid cross-entropy; `label` (B,) or (B, L) holds the classes of an example, -1 for none; tied heads.

    A batch of two labels a row (see `mixing`) has the targets mix x label + (1 - mix) x label_2.
    """

    def objective(z, out, batch):
        kernel, bias = _as(z.dtype, out["head/kernel"]), out["head/bias"]
        target = multi_hot(batch["label"], bias.shape[0])
        if "mix" in batch:
            mix_Bx1 = batch["mix"][:, None]
            target = mix_Bx1 * target + (1 - mix_Bx1) * multi_hot(batch["label_2"], bias.shape[0])
        return losses.nested_binary(z, kernel, bias, target, nesting, chunk=chunk or None)

    return objective


def evidential(nesting: Nesting, *, evidence: str = "auto", kl_weight: float = 5e-4, chunk: int = 0) -> Objective:
    """The evidential loss of `label` (B,) at every nested dim, its uncertainty, and what it expects of the label; heads
    as `softmax`.
    """

    def objective(z, out, batch):
        options = {"evidence": evidence, "kl_weight": kl_weight, "chunk": chunk or None}
        return losses.nested_evidential(z, *_head(z, out, nesting), batch["label"], nesting, **options)

    return objective


def arcface(nesting: Nesting, *, margin: float = 0.5, scale: float = 64.0, chunk: int = 0) -> Objective:
    """Cross-entropy of cosines at every nested dim, an angle added to the label's; heads as `softmax`, no bias."""
    return _with_margin(nesting, name="arcface", margin=margin, scale=scale, chunk=chunk or None)


def cosface(nesting: Nesting, *, margin: float = 0.35, scale: float = 64.0, chunk: int = 0) -> Objective:
    """Cross-entropy of cosines at every nested dim, the label's less a margin; heads as `softmax`, no bias."""
    return _with_margin(nesting, name="cosface", margin=margin, scale=scale, chunk=chunk or None)


def _with_margin(nesting: Nesting, **options) -> Objective:
    def objective(z, out, batch):
        return losses.nested_margin(z, _head(z, out, nesting)[0], batch["label"], nesting, **options)

    return objective


def prefix_logits(z: jax.Array, out: Mapping[str, jax.Array], nesting: Nesting) -> list[jax.Array]:
    """The logits (B, C) of every nested dim by the head in `out`."""
    return losses.prefix_logits(z, *_head(z, out, nesting), nesting)


def _head(z: jax.Array, out: Mapping[str, jax.Array], nesting: Nesting) -> tuple[list[jax.Array], list[jax.Array]]:
    """Kernels and biases: one per dim, or one for all."""
    suffixes = [""] if "head/kernel" in out else [f"_{m}" for m in nesting.dims]
    return [_as(z.dtype, out[f"head/kernel{s}"]) for s in suffixes], [out[f"head/bias{s}"] for s in suffixes]


def check_mix(name: str, mix: str, field: str = "loss.name") -> None:
    """Raises ValueError where batches of two labels a row are asked for, and the objective `name`, of the field, takes
    one.
    """
    if mix != "none" and name not in MIXED:
        raise ValueError(
            f"mix.name={mix!r} gives two labels a row, and {field}={name!r} takes one: set mix.name='none', or "
            f"{field} to one of {list(MIXED)}"
        )


def check_data(name: str, kind: str, batch_size: int, field: str = "loss.name") -> None:
    """Raises ValueError where the objective `name`, of the field, cannot be trained on this kind of data, or by so few
    rows.
    """
    own = KINDS.get(name, ("image",))
    if kind not in own:
        raise ValueError(f"{field}={name!r} is for data.kind in {own}, and data.kind={kind!r}: set one of the two")
    if name in JOINT and batch_size < 2:
        raise ValueError(
            f"batch_size={batch_size}: {field}={name!r} tells a pair from the others of its batch, and there are "
            "none: set it to 2 or more"
        )


def check_model(name: str, head: str, model: str, field: str = "loss.name") -> None:
    """Raises ValueError where the model or its head lacks what the objective `name`, of the field, is computed of."""
    if name in TIED and head == "mrl":
        raise ValueError(f"{field}={name!r} needs one kernel for every dim: set head='mrl_e' or head='ff'")
    if name in TAUGHT and model != "taught":
        raise ValueError(f"{field}={name!r} needs a model with a teacher, not {model!r}: set model.name='taught'")


def check_negatives(name: str, negatives: int) -> None:
    """Raises ValueError where hard negatives are asked for, and the objective `name` takes none."""
    if negatives and name not in HARD:
        raise ValueError(
            f"data.text.negatives={negatives} gives hard negatives, and loss.name={name!r} takes none: set it to 0, or "
            f"loss.name to one of {list(HARD)}"
        )


def masked_lm(nesting: Nesting, *, chunk: int = 0) -> Objective:
    """Nested softmax cross-entropy over the vocabulary at the masked places, whose `targets` (B, S) the batch has."""

    def objective(z, out, batch):
        del z
        features, kernel = out["masked/z"], _as(out["masked/z"].dtype, out["head/kernel"])
        return losses.nested_masked_lm(
            features, kernel, out["head/bias"], batch["targets"], nesting, chunk=chunk or None
        )

    return objective


def contrastive(nesting: Nesting, *, chunk: int = 0, duplicates: str = "masked") -> Objective:
    """Nested softmax contrastive loss of the embeddings `z` and `pair/z`, whose rows match, at the model's scale.

    Rows with the same `caption` (second text) or the same `picture` (first) are no negatives of each other where
    duplicates is "masked", and neither is a text of itself that is first in one row and second in another;
    "negatives": they are.
    Where the model gives `pair/negatives` (B, K, D), they are hard negatives of their own row, those with its caption
    left out in the same way.
    """
    choose("loss.duplicates", duplicates, DUPLICATES)

    def loss(u, v, scale, bias, rows, axis_name):
        return losses.nested_contrastive(u, v, scale, nesting, chunk=chunk or None, axis_name=axis_name, **rows)

    return _of_pairs(loss, duplicates)


def sigmoid(nesting: Nesting, *, chunk: int = 0, duplicates: str = "masked") -> Objective:
    """Nested sigmoid loss of all pairs of the embeddings `z` and `pair/z`; otherwise as `contrastive`."""
    choose("loss.duplicates", duplicates, DUPLICATES)

    def loss(u, v, scale, bias, rows, axis_name):
        return losses.nested_sigmoid(u, v, scale, bias, nesting, chunk=chunk or None, axis_name=axis_name, **rows)

    return _of_pairs(loss, duplicates)


def regression(nesting: Nesting) -> Objective:
    """Distance of the embedding to the one that the model gives as `teacher/z`; labels are not seen."""

    def objective(z, out, batch):
        del batch
        return losses.nested_regression(z, out["teacher/z"], nesting)

    return objective


def _of_pairs(loss: Callable[..., losses.NestedLoss], duplicates: str) -> Objective:
    """The objective of a loss of all pairs; over several devices each has its rows, and the negatives of all."""

    def objective(z, out, batch):
        rows = _ids(batch) if duplicates == "masked" else {}
        if "pair/negatives" in out:
            if rows:
                rows["negative_ids_BxK"] = batch["negative_captions"]
            rows["negatives_BxKxD"] = out["pair/negatives"]
        arguments = (z, out["pair/z"], out["pair/scale"], out["pair/bias"], rows)
        axes = tuple(a for a in BATCH_AXES if jax.sharding.get_abstract_mesh().shape.get(a, 1) > 1)
        if not axes:
            return loss(*arguments, None)
        specs = (P(axes), P(axes), P(), P(), {name: P(axes) for name in rows})
        known = {"ahead_of_negatives": P(None, axes)} if "negatives_BxKxD" in rows else {}
        results = losses.NestedLoss(P(), P(), P(None, axes), known=known)
        local = functools.partial(loss, axis_name=axes)
        return jax.shard_map(local, in_specs=specs, out_specs=results, axis_names=set(axes))(*arguments)

    return objective


def _ids(batch) -> dict[str, jax.Array]:
    """What tells the rows of the batch that are no negatives of each other, as the losses of pairs take it."""
    own = [batch[name] for name in ("caption", "picture") if name in batch]
    if "tokens_2" not in batch:
        return {"ids_B": jnp.stack(own, axis=1)}
    # Both sides are texts, so that one text has one id on both.
    sides = {"ids_B": batch["picture"], "v_ids_B": batch["caption"]}
    return {name: jnp.stack([*own, text], axis=1) for name, text in sides.items()}


def multi_hot(label: jax.Array, num_classes: int) -> jax.Array:
    """Booleans (B, C): does `label` (B,) or (B, L) hold the class? Made on the device, split as the classes are."""
    label_BxL = label[:, None] if label.ndim == 1 else label
    return jnp.any(label_BxL[:, :, None] == jnp.arange(num_classes)[None, None, :], axis=1)


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "arcface": arcface,
    "binary": binary,
    "contrastive": contrastive,
    "cosface": cosface,
    "evidential": evidential,
    "masked_lm": masked_lm,
    "regression": regression,
    "sigmoid": sigmoid,
    "softmax": softmax,
}
PAIRS = ("image_text", "text_pair")
# The data.kind of those that are not for images and their classes.
KINDS = {"contrastive": PAIRS, "masked_lm": ("masked_text",), "sigmoid": PAIRS}
JOINT = ("contrastive", "sigmoid")  # those in which all examples of a batch meet
HARD = ("contrastive",)  # those that take hard negatives
MULTI_LABEL = ("binary",)  # those that take several labels an example
TIED = ("binary",)  # those of one kernel for every dim
TAUGHT = ("regression",)  # those of a model with a teacher
MIXED = ("binary", "softmax")  # those that take two labels a row, see `mixing`


def _as(dtype: Any, kernel: jax.Array) -> jax.Array:
    return kernel.astype(dtype)

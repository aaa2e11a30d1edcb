"""Accuracy of masked language modelling at every dim (MRL, section 4.2, BERT)."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from mrl_jax import losses
from mrl_jax.evals import needs
from mrl_jax.evals.features import FeatureStore, dims_of
from mrl_jax.nesting import Nesting


class MaskedLanguageModel:
    """The share of masked pieces that the head ranks first. The gaps of a text are the same at every evaluation."""

    def __init__(self, *, split: str = "test", dims: tuple[int, ...] = ()):
        """Evaluates `split` at `dims`; by default at every trained dim and one in between each two."""
        self._split, self._dims = split, tuple(dims)

    def check(self, what: str, kind: str, split: Callable[[str], Any]) -> None:
        """Raises ValueError unless the data have gaps."""
        needs.kinds(what, kind, ("masked_text",))
        split(self._split)

    def run(self, store: FeatureStore) -> Iterator[tuple[str, float]]:
        """Yields `top1@dim`; 0 where no text of the split has a gap.

        Raises:
          ValueError: where the data have no gaps.
        """
        dims = dims_of(store.nesting, self._dims)
        nesting = Nesting(tuple(sorted({*dims, store.nesting.full})))

        @jax.jit
        def count(out, targets_BxS, mask_B):
            targets_BxS = jnp.where(mask_B[:, None], targets_BxS, -1)
            z, kernel = out["masked/z"], out["head/kernel"].astype(out["masked/z"].dtype)
            nested = losses.nested_masked_lm(z, kernel, out["head/bias"], targets_BxS, nesting)
            return (nested.correct * nested.weight[None]).sum(axis=1), nested.weight.sum()

        right, total = 0.0, 0.0
        for batch, out in store.outputs(self._split):
            if "targets" not in batch:
                raise ValueError(
                    f"split {self._split!r} has no gaps to guess at: masked_lm is for data.kind masked_text"
                )
            found, seen = count(out, batch["targets"], batch["mask"])
            right, total = right + jax.device_get(found), total + float(seen)
        for m, value in zip(nesting.dims, right):
            if m in dims:
                yield f"top1@{m}", float(value) / max(total, 1e-9)

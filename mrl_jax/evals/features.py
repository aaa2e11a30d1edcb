"""Embeddings of a data split, extracted once per set of variables and shared by every evaluator."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from mrl_jax.nesting import Nesting


class Features(NamedTuple):
    """The embeddings and labels of one split, rows in dataset order."""

    z_NxD: np.ndarray  # float32
    label_N: np.ndarray  # int32; (N, L), filled up with -1, where an example has several


class FeatureStore:
    """What evaluators see of a model: its features by split, its head, its nesting and the dims to evaluate."""

    def __init__(
        self,
        embed: Callable[[Any, Mapping[str, Any]], tuple[jax.Array, dict[str, jax.Array]]],
        variables: Any,
        batches: Callable[[str], Iterator[Mapping[str, np.ndarray]]],
        to_devices: Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]],
        logits: Callable[..., jax.Array],
        nesting: Nesting,
    ):
        """Stores the functions; nothing runs before the first call.

        Args:
          embed: jitted `(variables, batch) -> (z, head)`, head the flat dict of the head's tensors.
          variables: the model's variables.
          batches: one pass over a split: host batches with `image`, `label`, `mask`.
          to_devices: puts a host batch on the devices.
          logits: `(z, head, nesting, dim, mean) -> (B, C)` logits of any dim.
          nesting: the dims that were trained.
        """
        self._embed, self._variables, self._batches, self._to_devices = embed, variables, batches, to_devices
        self._features: dict[str, Features] = {}
        self._head: dict[str, jax.Array] = {}
        self.logits, self.nesting = logits, nesting

    def __call__(self, split: str) -> Features:
        """The features of a split, from the cache after the first call."""
        if split not in self._features:
            self._features[split] = self._extract(split)
        return self._features[split]

    @property
    def head(self) -> dict[str, jax.Array]:
        """The head's tensors; known after the first split was extracted."""
        return self._head

    def _extract(self, split: str) -> Features:
        rows = []
        for batch in self._batches(split):
            z, self._head = self._embed(self._variables, self._to_devices({"image": batch["image"]}))
            kept = _gather({"label": batch["label"], "mask": batch["mask"]})
            rows.append((_gather(z), kept["label"], kept["mask"]))
        z, label, mask = (np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*rows))
        features = Features(z[mask].astype(np.float32), label[mask].astype(np.int32))
        if not np.isfinite(features.z_NxD).all():
            raise ValueError(f"the embeddings of split {split!r} are not finite: the model has diverged")
        return features


def _gather(tree: Any) -> Any:
    """Rows of all processes, in process order."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def dims_of(nesting: Nesting, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The dims to evaluate: those asked for, or the trained ones and one in between each two (MRL, section 4.2).

    Raises:
      ValueError: for a dim outside 1..full.
    """
    if dims:
        wrong = [m for m in dims if not 1 <= m <= nesting.full]
        if wrong:
            raise ValueError(f"dims={tuple(dims)}: {wrong} are not in 1..{nesting.full}, the size of the embedding")
        return tuple(sorted(set(dims)))
    between = {(a + b) // 2 for a, b in zip(nesting.dims, nesting.dims[1:])}
    return tuple(sorted(between | set(nesting.dims)))

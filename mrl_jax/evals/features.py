"""Embeddings of a data split, extracted once per set of variables and shared by every evaluator."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from mrl_jax.choices import is_like
from mrl_jax.nesting import Nesting

# What a model does not see of a batch.
NOT_INPUTS = ("label", "mask", "index", "caption", "picture", "score", "targets")


class Features(NamedTuple):
    """The embeddings and labels of one split, rows in dataset order."""

    z_NxD: np.ndarray  # float32
    label_N: np.ndarray  # int32; (N, L), filled up with -1, where an example has several
    pair_NxD: np.ndarray | None = None  # float32; of what belongs to each: its caption, the second text
    caption_N: np.ndarray | None = None  # int32; equal where what belongs to them is equal
    score_N: np.ndarray | None = None  # float32; of pairs of texts: how alike the two are, NaN where not known
    picture_N: np.ndarray | None = None  # int32; equal where the images, or first texts, of pairs are equal


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
        label_names: Callable[[str], tuple[str, ...] | None] = lambda split: None,
        tokenize: Callable[[list[str]], tuple[np.ndarray, int]] | None = None,
    ):
        """Stores the functions; nothing runs before the first call.

        Args:
          embed: jitted `(variables, batch) -> (z, out)`, out the model's tensors by name, `head/...` among them.
          variables: the model's variables.
          batches: one pass over a split: host batches with `image`, `label`, `mask`.
          to_devices: puts a host batch on the devices.
          logits: `(z, head, nesting, dim, mean) -> (B, C)` logits of any dim.
          nesting: the dims that were trained.
          label_names: of the classes of a split, where they have any.
          tokenize: texts to token ids (N, T) and how many of them were cut, for models of texts.
        """
        self._embed, self._variables, self._batches, self._to_devices = embed, variables, batches, to_devices
        self._features: dict[str, Features] = {}
        self._head: dict[str, jax.Array] = {}
        self.logits, self.nesting, self.label_names, self.tokenize = logits, nesting, label_names, tokenize

    def __call__(self, split: str) -> Features:
        """The features of a split, from the cache after the first call."""
        if split not in self._features:
            self._features[split] = self._extract(split)
        return self._features[split]

    @property
    def head(self) -> dict[str, jax.Array]:
        """The head's tensors; known after the first split was extracted."""
        return self._head

    def outputs(self, split: str) -> Iterator[tuple[Mapping[str, jax.Array], dict[str, jax.Array]]]:
        """The batches of a split on the devices, `mask` among them, each with what the model has to say of it."""
        for batch in self._batches(split):
            arrays = self._to_devices({name: x for name, x in batch.items() if name not in ("label", "index")})
            yield arrays, self._embed(self._variables, _inputs(arrays))[1]

    def embed(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The embeddings (N, D), float32, of inputs (N, ...) that are on every process."""
        return np.asarray(self._embed(self._variables, dict(batch))[0], np.float32)

    def _extract(self, split: str) -> Features:
        rows = []
        for batch in self._batches(split):
            # Labels travel with the images: a process's rows are where the mesh has its devices.
            arrays = self._to_devices({name: x for name, x in batch.items() if name not in ("index", "targets")})
            z, out = self._embed(self._variables, _inputs(arrays))
            if not rows:
                self._head = _whole({name: x for name, x in out.items() if name.startswith("head/")})
            kept = {name: arrays[name] for name in ("label", "mask", "caption", "score", "picture") if name in arrays}
            kept |= {"z": z} | ({"pair/z": out["pair/z"]} if "pair/z" in out else {})
            rows.append({name: np.asarray(x) for name, x in _whole(kept).items()})
        found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        mask = found.pop("mask")
        dtypes = {"z": np.float32, "label": np.int32, "pair/z": np.float32, "caption": np.int32, "score": np.float32}
        dtypes |= {"picture": np.int32}
        features = Features(*(found[n][mask].astype(dtype) if n in found else None for n, dtype in dtypes.items()))
        if not np.isfinite(features.z_NxD).all():
            raise ValueError(f"the embeddings of split {split!r} are not finite: the model has diverged")
        return features


def _inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in batch.items() if name not in NOT_INPUTS}


def _whole(tree: Any) -> Any:
    """Arrays that may be split among several processes, on each of them."""
    return tree if jax.process_count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


def dims_of(nesting: Nesting, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The dims to evaluate: those asked for, or the trained ones and one in between each two (MRL, section 4.2).

    Raises:
      ValueError: for a dim outside 1..full.
    """
    if dims:
        wrong = [m for m in dims if not is_like(m, 1) or not 1 <= m <= nesting.full]
        if wrong:
            raise ValueError(f"dims={tuple(dims)}: {wrong} are not in 1..{nesting.full}, the size of the embedding")
        return tuple(sorted(set(dims)))
    between = {(a + b) // 2 for a, b in zip(nesting.dims, nesting.dims[1:])}
    return tuple(sorted(between | set(nesting.dims)))

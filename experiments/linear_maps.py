"""Linear maps of models that were not nested: what nested prefixes have to be better than."""

from collections.abc import Mapping

import numpy as np

from mrl_jax.evals.features import Features, FeatureStore
from mrl_jax.nesting import Nesting


class Mapped:
    """A feature store whose unit embeddings, of pictures and of texts, went through one matrix.

    Attributes:
      nesting: the dims to evaluate.
      label_names: as the store has them.
      tokenize: as the store has it.
    """

    def __init__(
        self, store: FeatureStore, nesting: Nesting, matrix_DxK: np.ndarray, means: tuple[np.ndarray, np.ndarray]
    ):
        """`means` (D,) of pictures and of texts are subtracted first."""
        self._store, self._matrix_DxK, self._means = store, matrix_DxK, means
        self.nesting, self.label_names, self.tokenize = nesting, store.label_names, store.tokenize

    def __call__(self, split: str) -> Features:
        """The mapped features of a split."""
        found = self._store(split)
        z_NxK, pair_NxK = (self._map(z, mean) for z, mean in zip((found.z_NxD, found.pair_NxD), self._means))
        return found._replace(z_NxD=z_NxK, pair_NxD=pair_NxK)

    def embed(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mapped embeddings of texts."""
        return self._map(self._store.embed(batch), self._means[1])

    def _map(self, z_NxD: np.ndarray, mean_D: np.ndarray) -> np.ndarray:
        return ((_unit(z_NxD) - mean_D) @ self._matrix_DxK).astype(np.float32)


class MappedHead:
    """A store of a masked language model whose features at the gaps, and the head with them, went through one matrix.

    The logits of the full dim are those of the model. Attributes: as `Mapped`.
    """

    def __init__(self, store: FeatureStore, nesting: Nesting, matrix_DxD: np.ndarray, mean_D: np.ndarray):
        """`matrix_DxD` is orthogonal; `mean_D` is subtracted first, and its logits go into the head's bias."""
        self._store, self._matrix_DxD, self._mean_D = store, matrix_DxD.astype(np.float32), mean_D.astype(np.float32)
        self.nesting = nesting

    def outputs(self, split: str):
        """As the store's, features and head mapped."""
        for batch, out in self._store.outputs(split):
            kernel_DxV = out["head/kernel"]
            head = {
                "masked/z": (out["masked/z"] - self._mean_D[None, None]) @ self._matrix_DxD,
                "head/kernel": self._matrix_DxD.T @ kernel_DxV,
                "head/bias": out["head/bias"] + self._mean_D @ kernel_DxV,
            }
            yield batch, {**out, **head}


def of_pairs(store: FeatureStore, nesting: Nesting, seed: int) -> dict[str, Mapped]:
    """By name the store cut as it is, cut in a random order of its features, and by its principal components.

    The components are those of the training pictures and texts together, each less the mean of its kind, which closes
    the gap between the two kinds.
    """
    found = store("train")
    sides = [_unit(z) for z in (found.z_NxD, found.pair_NxD)]
    means = tuple(side.mean(axis=0) for side in sides)
    centred_NxD = np.concatenate([side - mean for side, mean in zip(sides, means)])
    nothing = (np.zeros(nesting.full), np.zeros(nesting.full))
    return {
        name: Mapped(store, nesting, matrix, means if name == "pca" else nothing)
        for name, matrix in _matrices(centred_NxD, seed).items()
    }


def of_gaps(store: FeatureStore, nesting: Nesting, seed: int, rows: int = 50_000) -> dict[str, MappedHead]:
    """By name a masked language model cut as `of_pairs` says; components of its features at `rows` gaps in training."""
    found, seen = [], 0
    for batch, out in store.outputs("train"):
        used = np.asarray(batch["mask"])[:, None] & (np.asarray(batch["targets"]) >= 0)
        found.append(np.asarray(out["masked/z"], np.float32)[used])
        seen += len(found[-1])
        if seen >= rows:
            break
    z_NxD = np.concatenate(found)
    mean_D = z_NxD.mean(axis=0)
    return {
        name: MappedHead(store, nesting, matrix, mean_D if name == "pca" else np.zeros(nesting.full))
        for name, matrix in _matrices(z_NxD - mean_D, seed).items()
    }


def _matrices(centred_NxD: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Orthogonal matrices (D, D) whose first columns a cut keeps."""
    dim = centred_NxD.shape[1]
    order = np.random.default_rng(seed).permutation(dim)
    centred_NxD = centred_NxD.astype(np.float64)
    components = np.linalg.eigh(centred_NxD.T @ centred_NxD)[1][:, ::-1]
    return {"prefix": np.eye(dim), "random": np.eye(dim)[:, order], "pca": components}


def _unit(z_NxD: np.ndarray) -> np.ndarray:
    return z_NxD / np.maximum(np.linalg.norm(z_NxD, axis=1, keepdims=True), 1e-30)

"""Linear maps of a dual encoder that was not nested: what its prefixes would have to be better than."""

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


def mapped(store: FeatureStore, nesting: Nesting, seed: int) -> dict[str, Mapped]:
    """By name the store cut as it is, cut in a random order of its features, and by its principal components.

    The components are those of the training pictures and texts together, each less the mean of its kind, which closes
    the gap between the two kinds.
    """
    found = store("train")
    sides = [_unit(z) for z in (found.z_NxD, found.pair_NxD)]
    means = tuple(side.mean(axis=0) for side in sides)
    centred_NxD = np.concatenate([side - mean for side, mean in zip(sides, means)]).astype(np.float64)
    dim = centred_NxD.shape[1]
    nothing = (np.zeros(dim), np.zeros(dim))
    order = np.random.default_rng(seed).permutation(dim)
    components = np.linalg.eigh(centred_NxD.T @ centred_NxD)[1][:, ::-1]
    return {
        "prefix": Mapped(store, nesting, np.eye(dim), nothing),
        "random": Mapped(store, nesting, np.eye(dim)[:, order], nothing),
        "pca": Mapped(store, nesting, components, means),
    }


def _unit(z_NxD: np.ndarray) -> np.ndarray:
    return z_NxD / np.maximum(np.linalg.norm(z_NxD, axis=1, keepdims=True), 1e-30)

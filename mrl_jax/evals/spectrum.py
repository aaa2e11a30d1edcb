"""How much of the embedding a prefix holds, from second moments alone: rank, variance, similarity to the whole."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

# A ridge, in units of the mean variance, that keeps constant features from breaking the factorisation.
_JITTER = 1e-9


class Spectrum(NamedTuple):
    """Of each of G prefixes, (G,) float64 each; D is the size of the whole."""

    effective_rank: np.ndarray  # exp of the entropy of the eigenvalues' shares (Roy and Vetterli 2007): 1..m
    participation: np.ndarray  # (sum of eigenvalues)^2 / sum of their squares: 1..m
    own_variance: np.ndarray  # share of the whole's variance that the prefix's own features have
    explained: np.ndarray  # share of the whole's variance that a linear map of the prefix explains
    cka: np.ndarray  # linear centred kernel alignment with the whole (Kornblith et al. 2019): 0..1


def measure(covariance_DxD: np.ndarray, dims: Sequence[int]) -> Spectrum:
    """The spectrum of the prefixes of features with this covariance (or any positive multiple of it).

    With the Cholesky factor L of the covariance, the rows of L below m hold, right of column m, what the first m
    features leave unexplained of the others: one factorisation serves all prefixes.

    Raises:
      ValueError: if no feature varies, or a dim is outside 1..D.
    """
    full, total = len(covariance_DxD), float(np.trace(covariance_DxD))
    wrong = [m for m in dims if not 1 <= m <= full]
    if wrong:
        raise ValueError(f"dims={tuple(dims)}: {wrong} are not in 1..{full}, the size of the embedding")
    if not total > 0:
        raise ValueError("the features are the same in every row: there is no variance to speak of")
    covariance = covariance_DxD / total
    # Rounding may leave a covariance without full rank with eigenvalues just below zero.
    ridge = max(_JITTER / full, -2 * scipy.linalg.eigvalsh(covariance, subset_by_index=(0, 0))[0])
    lower = scipy.linalg.cholesky(covariance + ridge * np.eye(full), lower=True)
    norm = np.linalg.norm(covariance)
    found = []
    for m in dims:
        own = covariance[:m, :m]
        values = np.maximum(scipy.linalg.eigvalsh(own), 0.0)
        share = values / max(values.sum(), np.finfo(float).tiny)
        # ||Z_m^T Z||^2 over the product of norms; Z_m^T Z are the first rows of the covariance.
        cka = np.sum(covariance[:m] ** 2) / max(np.linalg.norm(own) * norm, np.finfo(float).tiny)
        found.append(
            (
                np.exp(-np.sum(share * np.log(np.where(share > 0, share, 1.0)))),
                1.0 / max(np.sum(share**2), np.finfo(float).tiny) if values.sum() else 1.0,
                np.trace(own),
                1.0 - np.sum(lower[m:, m:] ** 2),
                cka,
            )
        )
    return Spectrum(*np.transpose(found))

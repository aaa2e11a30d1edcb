"""Ridge regression on every prefix by one factorisation.

The Cholesky factor L of G + alpha I holds in its leading m x m block the factor of the leading block of G + alpha I.
And the first m rows of the forward substitution V = L^-1 B are the forward substitution of that block. So one
factorisation (D^3 / 3 multiply-adds) and one forward substitution (D^2 C / 2) serve all prefixes; each one costs its
own back substitution (m^2 C / 2) only. Targets are one- or multi-hot; the intercept is not penalised.
"""

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from mrl_jax.evals.linear_heads import Heads, accuracy
from mrl_jax.evals.moments import Moments
from mrl_jax.evals.streams import Stream

# Penalties in units of the mean diagonal element of the centred Gram matrix, from strong to weak.
GRID = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def factor(gram_DxD: np.ndarray, alpha: float) -> np.ndarray:
    """The lower Cholesky factor of gram + alpha I.

    Raises:
      LinAlgError: (a ValueError) if that is not positive definite, as with alpha = 0 and a feature that never changes.
    """
    penalised = gram_DxD.copy()
    penalised[np.diag_indices_from(penalised)] += alpha
    try:
        return scipy.linalg.cholesky(penalised, lower=True, overwrite_a=True)
    except np.linalg.LinAlgError as error:
        raise np.linalg.LinAlgError(
            f"the Gram matrix plus alpha={alpha:.3g} is not positive definite: use a larger alpha"
        ) from error


def solve(moments: Moments, dims: Sequence[int], alpha: float) -> Heads:
    """The heads that minimise the sum of squared errors plus alpha times the squared weights, at every dim."""
    gram, cross = moments.centred()
    full = max(dims)
    lower = factor(gram[:full, :full], alpha)
    forward = scipy.linalg.solve_triangular(lower, cross[:full], lower=True)
    kernels = [
        scipy.linalg.solve_triangular(lower[:m, :m], forward[:m], lower=True, trans="T", check_finite=False)
        for m in dims
    ]
    biases = [moments.mean_y - moments.mean_z[:m] @ kernel for m, kernel in zip(dims, kernels)]
    return Heads([k.astype(np.float32) for k in kernels], [b.astype(np.float32) for b in biases])


def scale(moments: Moments) -> float:
    """The unit of penalties: the mean diagonal element of the centred Gram matrix.

    Raises:
      ValueError: if no feature varies.
    """
    unit = float(np.trace(moments.centred()[0])) / len(moments.gram)
    if not unit > 0:
        raise ValueError("the features are the same in every training row: there is nothing to probe")
    return unit


def choose(
    fit: Moments, held: Moments, held_stream: Stream, dims: Sequence[int], grid: Sequence[float] = GRID
) -> tuple[Heads, list[float]]:
    """Heads at every dim, each with the penalty of the best held-out accuracy, fitted on all rows in the end.

    Args:
      fit: moments of the rows to fit on.
      held: moments of the rows held out, shifted alike.
      held_stream: those rows.
      dims: increasing.
      grid: penalties in units of `scale`; of equally good ones the first wins.

    Returns:
      The heads, and the penalty of each in units of `scale`.
    """
    unit = scale(fit)
    scores = np.stack([_score(held_stream, fit, dims, ratio * unit) for ratio in grid])
    chosen = [float(grid[i]) for i in scores.argmax(axis=0)]
    whole = fit + held
    unit = scale(whole)
    heads = Heads([np.empty(0)] * len(dims), [np.empty(0)] * len(dims))
    for ratio in set(chosen):
        at = [g for g, c in enumerate(chosen) if c == ratio]
        for g, kernel, bias in zip(at, *solve(whole, [dims[g] for g in at], ratio * unit)):
            heads.kernels[g], heads.biases[g] = kernel, bias
    return heads, chosen


def _score(held_stream: Stream, fit: Moments, dims: Sequence[int], alpha: float) -> np.ndarray:
    """Held-out accuracy at every dim; below any other where the penalty is too weak for the digits of float32 sums."""
    try:
        return accuracy(held_stream, solve(fit, dims, alpha))[0]
    except np.linalg.LinAlgError:
        return np.full(len(dims), -1.0)

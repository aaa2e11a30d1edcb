"""Evidential (Dirichlet) loss: a cross-entropy that knows how little it has seen, in one pass over the classes.

With evidence e_k >= 0 of class k, alpha_k = e_k + 1 and S the sum of alpha over K classes, the loss of label y is
    A + kl_weight R,   A = psi(S) - psi(alpha_y),   R = KL(Dir(alpha with 1 for y) || Dir(1, ..., 1)),
A the expected cross-entropy under Dir(alpha) and u = K / S the uncertainty (Sensoy et al. 2018; TMC, Han et al. 2021).

Let E be the evidence of all classes but y. Then R = h(E) + sum over k != y of f(e_k), where
    h(E) = lnGamma(K + E) - E psi(K + E) - lnGamma(K) + E,   f(e) = e psi(1 + e) - lnGamma(1 + e) - e,
and what autodiff would build of four special functions per logit shrinks to one:
    dR / de_k = e_k psi'(1 + e_k) - E psi'(K + E)   for k != y,   0 for y.
Both passes see the classes in chunks and keep (B,) sums. lnGamma(K) is 10^6 at K = 10^5, where a float32 is good to
0.06, and one e_k may be as large: such terms are taken from each other in Stirling's series, before they are rounded.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln

from mrl_jax.choices import choose
from mrl_jax.losses.checks import check_labels
from mrl_jax.losses.chunks import Tile, choose_chunk, fold
from mrl_jax.losses.plan import CLASS_AXIS

EVIDENCE = ("softplus", "exp_clip", "auto")
PRIORITIES = ("none", "uncertain", "certain")
# "auto" takes clipped exponentials above so many classes: a sum of linear evidence cannot outgrow that many ones.
MANY_CLASSES = 200
LOWEST, ABOVE_LOG_CLASSES = -10.0, 7.0
# From here on the series below are exact in float32.
_LARGE = 16.0


class _Plan(NamedTuple):
    evidence: str
    kl_weight: float
    n_classes: int
    chunk: int


def evidential(
    logits_BxK: jax.Array,
    labels_B: jax.Array,
    *,
    evidence: str = "softplus",
    kl_weight: float = 5e-4,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Per-example loss (B,) and uncertainty (B,), in 0..1; float32 whatever the logits are, differentiable, both.

    With exponential evidence an example keeps a gradient of at least about its uncertainty, so that uncertain
    sub-models push harder; with softplus it decays as 1 / alpha_y, and the loss cannot come near 0 for many classes.

    Args:
      logits_BxK: of any float dtype.
      labels_B: integer classes. A label outside 0..K-1 makes the loss infinite.
      evidence: "softplus"; "exp_clip", exp of the logit clipped to -10..ln(K) + 7, outside of which it has no
        gradient; "auto", the latter above 200 classes.
      kl_weight: of R, which grows as K does: about 1 / K keeps it comparable with A.
      chunk: classes visited at a time; None chooses by backend and shape, and visits all at once where
        the mesh in use shards the classes.

    Raises:
      ValueError: if a shape, a dtype or an option does not fit; the message names it.
    """
    if logits_BxK.ndim != 2 or not logits_BxK.size or not jnp.issubdtype(logits_BxK.dtype, jnp.floating):
        kind = f"{logits_BxK.dtype}{logits_BxK.shape}"
        raise ValueError(f"logits are {kind}; they must be floats of shape (B, K), neither of them 0")
    check_labels(labels_B, logits_BxK.shape[0])
    choose("evidence", evidence, EVIDENCE)
    if not 0 <= kl_weight < math.inf:
        raise ValueError(f"kl_weight={kl_weight} must be a finite number, 0 or above")
    classes, evidence = logits_BxK.shape[1], _chosen(evidence, logits_BxK.shape[1])
    if chunk is None and jax.sharding.get_abstract_mesh().shape.get(CLASS_AXIS, 1) > 1:
        chunk = classes  # chunks of a sharded axis would have to be gathered
    plan = _Plan(evidence, float(kl_weight), classes, choose_chunk(classes, 1, len(labels_B), 1, chunk))
    return _evidential(plan, logits_BxK, labels_B)


def expected_probability(
    logits_BxK: jax.Array, labels_B: jax.Array, uncertainty_B: jax.Array, *, evidence: str = "softplus"
) -> jax.Array:
    """The expected probability alpha_y / S of the label under the Dirichlet distribution, (B,) float32 in 0..1.

    Args:
      logits_BxK: as those of `evidential`.
      labels_B: integer classes.
      uncertainty_B: as `evidential` gave it for them.
      evidence: as there.
    """
    classes = logits_BxK.shape[1]
    # A sum instead of an index: classes may be sharded.
    own_B = jnp.where(labels_B[:, None] == jnp.arange(classes)[None], logits_BxK, 0).sum(axis=1)
    return (1 + _evidence_of(_chosen(evidence, classes), classes, own_B)[0]) * uncertainty_B / classes


def priorities(uncertainty_MxB: jax.Array, rule: str = "none") -> jax.Array:
    """Weights (M,) of the losses of M sub-models from their uncertainties on a batch; they sum to M, without gradient.

    "none": 1 each (P0). "uncertain": in proportion to the mean uncertainty (P1). "certain": to one minus it (P2), the
    sign of weighting by homoscedastic uncertainty (Kendall et al. 2018); 1 each where no sub-model has any evidence.

    Raises:
      ValueError: for another rule, or uncertainties that are not (M, B).
    """
    choose("rule", rule, PRIORITIES)
    if jnp.ndim(uncertainty_MxB) != 2:
        raise ValueError(f"uncertainty has shape {jnp.shape(uncertainty_MxB)}; it must be (M, B), a row per sub-model")
    mean_M = jax.lax.stop_gradient(jnp.asarray(uncertainty_MxB, jnp.float32)).mean(axis=1)
    share_M = {"none": jnp.ones_like(mean_M), "uncertain": mean_M, "certain": 1 - mean_M}[rule]
    total = share_M.sum()
    return jnp.where(total > 0, len(share_M) * share_M / jnp.where(total > 0, total, 1), 1.0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _evidential(plan: _Plan, logits_BxK: jax.Array, labels_B: jax.Array):
    return _forward(plan, logits_BxK, labels_B)[0]


def _forward(plan: _Plan, logits: jax.Array, labels: jax.Array):
    def step(sums, tile):
        e_Bxc, is_label = _evidence_of(plan.evidence, plan.n_classes, tile.cut(logits))[0], _is_label(labels, tile)
        wrong = jnp.where(is_label, 0.0, e_Bxc)
        terms = _wrong_term(wrong) if plan.kl_weight else jnp.zeros_like(wrong)
        return sums + jnp.stack([x.sum(axis=1) for x in (jnp.where(is_label, e_Bxc, 0.0), wrong, terms)])

    own, wrong, terms = fold(step, jnp.zeros((3, len(labels))), plan.n_classes, plan.chunk, 0)
    loss = _digamma_difference(1 + own, plan.n_classes - 1 + wrong)
    if plan.kl_weight:
        loss += plan.kl_weight * (_strength_term(wrong, plan.n_classes) + terms)
    loss = jnp.where((labels >= 0) & (labels < plan.n_classes), loss, jnp.inf)
    return (loss, plan.n_classes / (plan.n_classes + own + wrong)), (logits, labels, own, wrong)


def _backward(plan: _Plan, saved, cotangents):
    logits, labels, own, wrong = saved
    to_loss, to_uncertainty = cotangents
    total = plan.n_classes + own + wrong
    everywhere = to_loss * trigamma(total) - to_uncertainty * plan.n_classes / total**2
    at_label = everywhere - to_loss * trigamma(1 + own)
    strength = _one_minus_trigamma(wrong, plan.n_classes)

    def step(grad, tile):
        e_Bxc, slope = _evidence_of(plan.evidence, plan.n_classes, tile.cut(logits))
        elsewhere = everywhere[:, None]
        if plan.kl_weight:
            elsewhere += plan.kl_weight * to_loss[:, None] * (strength[:, None] - _one_minus_trigamma(e_Bxc, 1))
        chosen = jnp.where(_is_label(labels, tile), at_label[:, None], elsewhere) * slope
        return chosen.astype(grad.dtype) if plan.chunk == plan.n_classes else tile.put(grad, chosen)

    grad = fold(step, jax.lax.empty(logits.shape, logits.dtype), plan.n_classes, plan.chunk, 0)
    return grad, np.zeros(labels.shape, jax.dtypes.float0)


_evidential.defvjp(_forward, _backward)


def _is_label(labels: jax.Array, tile: Tile) -> jax.Array:
    return tile.position(labels) == jnp.arange(tile.size)[None]


def _chosen(evidence: str, n_classes: int) -> str:
    if evidence == "auto":
        return "exp_clip" if n_classes > MANY_CLASSES else "softplus"
    return evidence


def _evidence_of(evidence: str, n_classes: int, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The evidence and its derivative by the logits, float32."""
    z = logits.astype(jnp.float32)
    if evidence == "softplus":
        return jax.nn.softplus(z), jax.nn.sigmoid(z)
    highest = math.log(n_classes) + ABOVE_LOG_CLASSES
    e = jnp.exp(jnp.clip(z, LOWEST, highest))
    return e, jnp.where((z >= LOWEST) & (z <= highest), e, 0.0)


def trigamma(x: jax.Array) -> jax.Array:
    """The derivative of digamma for x >= 1, float32: six steps of the recurrence, then the asymptotic series.

    `jax.scipy.special.polygamma` sums a Hurwitz zeta function instead, at many times the cost.
    """
    near = sum(1 / jnp.square(x + i) for i in range(6))
    r = 1 / (x + 6)
    return near + r * (1 + r * (0.5 + r * (1 / 6 - r * r * (1 / 30 - r * r / 42))))


def _one_minus_trigamma(e: jax.Array, k: int) -> jax.Array:
    """1 - e psi'(k + e), exact also where the product is all but 1."""
    t = jnp.maximum(k + e, _LARGE)
    series = k / t - e * (1 / (2 * t**2) + 1 / (6 * t**3) - 1 / (30 * t**5))
    return jnp.where(k + e < _LARGE, 1 - e * trigamma(k + e), series)


def _wrong_term(e: jax.Array) -> jax.Array:
    """f(e) = e psi(1 + e) - lnGamma(1 + e) - e: a power series, the functions themselves, the asymptotic series."""
    zeta = (1.6449340668, 1.2020569032, 1.0823232337, 1.0369277551, 1.0173430620, 1.0083492774)
    small, middle, large = jnp.minimum(e, 1 / 16), jnp.clip(e, 1 / 16, _LARGE), jnp.maximum(e, _LARGE)
    power = jnp.zeros_like(e)
    for k, value in reversed(list(enumerate(zeta, 2))):
        power = (-1) ** k * value * (1 - 1 / k) + small * power
    functions = middle * digamma(1 + middle) - gammaln(1 + middle) - middle
    asymptotic = 0.5 - 0.5 * jnp.log(2 * math.pi * large) - 1 / (6 * large) + 1 / (90 * large**3)
    return jnp.where(e < 1 / 16, power * small**2 - small, jnp.where(e < _LARGE, functions, asymptotic))


def _strength_term(wrong: jax.Array, n_classes: int) -> jax.Array:
    """h(E) = lnGamma(K + E) - E psi(K + E) - lnGamma(K) + E."""
    k, total = n_classes, n_classes + wrong
    t = jnp.maximum(total, _LARGE)
    rest = wrong * (1 / (2 * t) + 1 / (12 * t**2) - 1 / (120 * t**4)) + 1 / (12 * t) - 1 / (360 * t**3)
    if k >= _LARGE:
        return (k - 0.5) * jnp.log1p(wrong / k) - 1 / (12 * k) + 1 / (360 * k**3) + rest
    series = (k - 0.5) * jnp.log(t) - k + 0.5 * math.log(2 * math.pi) - math.lgamma(k) + rest
    few = jnp.minimum(wrong, _LARGE)
    return jnp.where(total < _LARGE, gammaln(k + few) - few * digamma(k + few) - math.lgamma(k) + few, series)


def _digamma_difference(x: jax.Array, step: jax.Array) -> jax.Array:
    """psi(x + step) - psi(x) for x >= 1, step >= 0."""
    low, high = jnp.maximum(x, _LARGE), jnp.maximum(x, _LARGE) + step
    gap = step / (low * high)
    squares = gap * (1 / low + 1 / high)
    fourth = squares * (1 / low**2 + 1 / high**2)
    series = jnp.log1p(step / low) + gap / 2 + squares / 12 - fourth / 120
    return jnp.where(x < _LARGE, digamma(x + step) - digamma(x), series)

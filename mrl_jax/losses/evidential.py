"""Evidential (Dirichlet) loss: a cross-entropy that knows how little it has seen, in one pass over the classes.

With evidence e_k >= 0 of class k, alpha_k = e_k + 1 and S the sum of alpha over K classes, the loss of label y is
    A + kl_weight R,   A = psi(S) - psi(alpha_y),   R = KL(Dir(alpha with 1 for y) || Dir(1, ..., 1)),
A the expected cross-entropy under Dir(alpha) and u = K / S the uncertainty (Sensoy et al. 2018; TMC, Han et al. 2021).

Let E be the evidence of all classes but y. Then R = h(E) + sum over k != y of f(e_k), where
    h(E) = lnGamma(K + E) - E psi(K + E) - lnGamma(K) + E,   f(e) = e psi(1 + e) - lnGamma(1 + e) - e,
and what autodiff would build of four special functions per logit shrinks to one:
    dR / de_k = e_k psi'(1 + e_k) - E psi'(K + E)   for k != y,   0 for y.
Both passes see the classes in chunks and keep sums over them. lnGamma(K) is 10^6 at K = 10^5, where a float32 is good
to 0.06, and one e_k may be as large: such terms are taken from each other in Stirling's series before they are rounded.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln

from mrl_jax.choices import choose
from mrl_jax.losses.checks import check_head, check_labels
from mrl_jax.losses.chunks import Tile, choose_chunk
from mrl_jax.losses.core import nested
from mrl_jax.losses.plan import CLASS_AXIS, Plan, make_plan
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting

EVIDENCE = ("softplus", "exp_clip", "auto")
PRIORITIES = ("none", "uncertain", "certain")
# "auto" takes clipped exponentials above so many classes: a sum of linear evidence cannot outgrow that many ones.
MANY_CLASSES = 200
LOWEST, ABOVE_LOG_CLASSES = -10.0, 7.0
# From here on the series below are exact in float32.
_LARGE = 16.0


class _Statistics(NamedTuple):
    """Of the classes seen so far, each (G, B)."""

    rival: jax.Array  # the largest logit of another class than the label
    label: jax.Array  # the label's own logit; 0 before it is seen
    wrong: jax.Array  # E, the evidence of the others
    terms: jax.Array  # the sum of f over the others


class Dirichlet(NamedTuple):
    """The criterion A + kl_weight R, `evidence` being softplus or exp_clip."""

    evidence: str
    kl_weight: float
    n_classes: int

    label_apart = False

    def start(self, shape):
        """No class seen."""
        return _Statistics(jnp.full(shape, -jnp.inf), *jnp.zeros((3, *shape)))

    def update(self, stats, logits, label, targets, tile: Tile):
        """Adds the terms of a chunk."""
        is_label = tile.is_label(targets)

        def of_level(a):
            wrong = jnp.where(is_label, 0.0, self.evidence_of(a)[0])
            terms = _wrong_term(wrong) if self.kl_weight else jnp.zeros_like(wrong)
            rival = jnp.where(is_label, -jnp.inf, a).max(axis=1)
            # A sum instead of an index: the classes of given logits may be sharded.
            return rival, *(x.sum(axis=1) for x in (jnp.where(is_label, a, 0.0), wrong, terms))

        rival, *sums = (jnp.stack(part) for part in zip(*map(of_level, logits)))
        return _Statistics(jnp.maximum(stats.rival, rival), *(old + new for old, new in zip(stats[1:], sums)))

    def finish(self, stats, plan: Plan, z_BxD, head, targets):
        """Merges the shards of the classes; saves what the derivatives of all classes, and of the label, share."""
        rival, (label, wrong, terms) = plan.max(stats.rival), plan.sum(stats[1:])
        inside = ((targets >= 0) & (targets < self.n_classes))[None]
        own, slope = (jnp.where(inside, x, 0.0) for x in self.evidence_of(label))
        loss = _digamma_difference(1 + own, self.n_classes - 1 + wrong)
        if self.kl_weight:
            loss += self.kl_weight * (_strength_term(wrong, self.n_classes) + terms)
        total = self.n_classes + own + wrong
        known = {
            "correct": inside & (label > rival),
            "uncertainty": self.n_classes / total,
            "p_label": (1 + own) / total,
        }
        everywhere, strength = trigamma(total), _one_minus_trigamma(wrong, self.n_classes)
        saved = everywhere, (everywhere - trigamma(1 + own)) * slope, strength
        return jnp.where(inside, loss, jnp.inf), known, saved

    def residual(self, logits, saved, targets, tile: Tile, scale):
        """scale x the derivative of the loss by the evidence x that of the evidence."""
        everywhere_Bx1, label_Bx1, strength_Bx1 = (x[:, None] for x in saved)
        e_Bxc, slope = self.evidence_of(logits)
        elsewhere = everywhere_Bx1
        if self.kl_weight:
            elsewhere += self.kl_weight * (strength_Bx1 - _one_minus_trigamma(e_Bxc, 1))
        return scale * jnp.where(tile.is_label(targets), label_Bx1, elsewhere * slope)

    def evidence_of(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The evidence and its derivative by the logits, float32."""
        z = logits.astype(jnp.float32)
        if self.evidence == "softplus":
            return jax.nn.softplus(z), jax.nn.sigmoid(z)
        highest = math.log(self.n_classes) + ABOVE_LOG_CLASSES
        e = jnp.exp(jnp.clip(z, LOWEST, highest))
        return e, jnp.where((z >= LOWEST) & (z <= highest), e, 0.0)


def nested_evidential(
    z_BxD: jax.Array,
    kernels: list[jax.Array],
    biases: list[jax.Array | None],
    labels_B: jax.Array,
    nesting: Nesting,
    *,
    evidence: str = "softplus",
    kl_weight: float = 5e-4,
    chunk: int | None = None,
) -> NestedLoss:
    """The evidential loss of a linear head at every nested dim, with its uncertainty and what it expects of the label.

    Args:
      z_BxD: features; D is the nesting's full dim.
      kernels: one (D, C) for all dims, or one (m_g, C) per dim.
      biases: (C,) or None each, as many as kernels.
      labels_B: integer classes. A label outside 0..C-1 makes the loss infinite.
      nesting: dims and weights.
      evidence: as that of `evidential`.
      kl_weight: as that of `evidential`.
      chunk: classes visited at a time; None chooses by backend and shape.

    Raises:
      ValueError: if a shape, a dtype or an option does not fit; the message names it.
    """
    head = check_head(z_BxD, list(kernels), list(biases), nesting, tied=len(kernels) == 1)
    check_labels(labels_B, z_BxD.shape[0])
    criterion = _criterion(evidence, kl_weight, kernels[0].shape[1])
    plan = make_plan(criterion, nesting, z_BxD.shape[0], head, chunk)
    # The compiler makes several loops of this residual: where they read kept logits, it copies all of them per chunk.
    return nested(plan._replace(keeps=False), z_BxD, head, labels_B, None)


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
    classes = logits_BxK.shape[1]
    criterion = _criterion(evidence, kl_weight, classes)
    if chunk is None and jax.sharding.get_abstract_mesh().shape.get(CLASS_AXIS, 1) > 1:
        chunk = classes  # chunks of a sharded axis would have to be gathered
    chunk = choose_chunk(classes, 1, len(labels_B), 1, chunk)
    return _evidential(Plan(criterion, Nesting.fixed(1), True, classes, 1, chunk, False), logits_BxK, labels_B)


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
    return (1 + _criterion(evidence, 0.0, classes).evidence_of(own_B)[0]) * uncertainty_B / classes


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
def _evidential(plan: Plan, logits_BxK: jax.Array, labels_B: jax.Array):
    return _forward(plan, logits_BxK, labels_B)[0]


def _forward(plan: Plan, logits: jax.Array, labels: jax.Array):
    def step(stats, tile):
        return plan.criterion.update(stats, [tile.cut(logits).astype(jnp.float32)], None, labels, tile)

    stats = plan.fold(step, plan.criterion.start((1, len(labels))))
    (loss,), known, saved = plan.criterion.finish(stats, plan, None, None, labels)
    return (loss, known["uncertainty"][0]), (logits, labels, known["uncertainty"][0], [x[0] for x in saved])


def _backward(plan: Plan, residuals, cotangents):
    logits, labels, uncertainty, saved = residuals
    to_loss, to_uncertainty = cotangents
    everywhere = to_uncertainty * uncertainty**2 / plan.n_classes

    def step(grad, tile):
        a = tile.cut(logits).astype(jnp.float32)
        found = plan.criterion.residual(a, saved, labels, tile, to_loss[:, None])
        found -= everywhere[:, None] * plan.criterion.evidence_of(a)[1]
        return found.astype(grad.dtype) if plan.chunk == plan.n_classes else tile.put(grad, found)

    grad = plan.fold(step, jax.lax.empty(logits.shape, logits.dtype))
    return grad, np.zeros(labels.shape, jax.dtypes.float0)


_evidential.defvjp(_forward, _backward)


def _criterion(evidence: str, kl_weight: float, n_classes: int) -> Dirichlet:
    """Raises ValueError for an option that does not fit."""
    choose("evidence", evidence, EVIDENCE)
    if not 0 <= kl_weight < math.inf:
        raise ValueError(f"kl_weight={kl_weight} must be a finite number, 0 or above")
    if evidence == "auto":
        evidence = "exp_clip" if n_classes > MANY_CLASSES else "softplus"
    return Dirichlet(evidence, float(kl_weight), n_classes)


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

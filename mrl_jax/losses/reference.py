"""The nested losses as anyone would first write them: a loop over the dims. Slow and plain; for tests and benchmarks.

Each returns the NestedLoss of its namesake in `mrl_jax.losses`, which must agree in value and gradient.
"""

import jax
import jax.numpy as jnp

from mrl_jax.losses.evidential import evidential, expected_probability
from mrl_jax.losses.margins import MARGINS, cross_entropy
from mrl_jax.losses.prefixes import is_first, prefix_cosines, prefix_logits
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting, truncate


def _weigh(losses: list[jax.Array], correct: list[jax.Array] | None, nesting: Nesting) -> NestedLoss:
    """The weighted sum over dims of per-example losses."""
    per_dim = jnp.stack([loss.mean() for loss in losses])
    total = (per_dim * jnp.asarray(nesting.weights)).sum()
    return NestedLoss(total, per_dim, None if correct is None else jnp.stack(correct))


def nested_softmax_untied(z_BxD, kernels, biases, labels_B, nesting: Nesting, *, label_smoothing=0.0) -> NestedLoss:
    """MRL, section 3: softmax cross-entropy of every prefix, each with its own head."""
    losses, correct = [], []
    for m, kernel, bias in zip(nesting.dims, kernels, biases):
        logits = (z_BxD[:, :m] @ kernel + bias[None]).astype(jnp.float32)
        target = jax.nn.one_hot(labels_B, kernel.shape[1]) * (1 - label_smoothing) + label_smoothing / kernel.shape[1]
        losses.append(-(target * jax.nn.log_softmax(logits)).sum(axis=1))
        correct.append(logits.argmax(axis=1) == labels_B)
    return _weigh(losses, correct, nesting)


def nested_softmax(z_BxD, kernel_DxC, bias_C, labels_B, nesting: Nesting, *, label_smoothing=0.0) -> NestedLoss:
    """MRL-E: the head of dim m is the first m rows of one kernel, with one bias."""
    kernels = [kernel_DxC[:m] for m in nesting.dims]
    biases = [bias_C] * len(nesting)
    return nested_softmax_untied(z_BxD, kernels, biases, labels_B, nesting, label_smoothing=label_smoothing)


def nested_binary(z_BxD, kernel_DxC, bias_C, targets_BxC, nesting: Nesting) -> NestedLoss:
    """Sigmoid cross-entropy of every prefix, summed over classes."""
    losses = []
    for m in nesting.dims:
        logits = (z_BxD[:, :m] @ kernel_DxC[:m] + bias_C[None]).astype(jnp.float32)
        losses.append((jax.nn.softplus(logits) - targets_BxC * logits).sum(axis=1))
    return _weigh(losses, None, nesting)


def nested_evidential(z_BxD, kernels, biases, labels_B, nesting: Nesting, *, evidence, kl_weight) -> NestedLoss:
    """The evidential loss of every prefix, of its logits as given."""
    logits = prefix_logits(z_BxD, kernels, biases, nesting)
    losses, sure = zip(*[evidential(a, labels_B, evidence=evidence, kl_weight=kl_weight) for a in logits])
    expected = [expected_probability(a, labels_B, u, evidence=evidence) for a, u in zip(logits, sure)]
    nested = _weigh(losses, [is_first(a, labels_B) for a in logits], nesting)
    return nested._replace(known={"uncertainty": jnp.stack(sure), "p_label": jnp.stack(expected)})


def nested_margin(z_BxD, kernels, labels_B, nesting: Nesting, *, name, margin, scale) -> NestedLoss:
    """Cross-entropy of the cosines of every prefix, with a margin on the label's."""
    cosines = prefix_cosines(z_BxD, kernels, nesting)
    logits = [MARGINS[name](c, labels_B, margin=margin, scale=scale) for c in cosines]
    return _weigh([cross_entropy(a, labels_B) for a in logits], [is_first(c, labels_B) for c in cosines], nesting)


def nested_masked_lm(z_BxSxD, kernel_DxV, bias_V, targets_BxS, nesting: Nesting) -> NestedLoss:
    """Softmax cross-entropy of every prefix over the vocabulary, at the places that are used."""
    used = [(b, s) for b, row in enumerate(targets_BxS.tolist()) for s, target in enumerate(row) if target >= 0]
    rows, columns = (jnp.asarray(index) for index in zip(*used))
    return nested_softmax(z_BxSxD[rows, columns], kernel_DxV, bias_V, targets_BxS[rows, columns], nesting)


def nested_contrastive(u_BxD, v_BxD, scale, nesting: Nesting, *, negatives_BxKxD=None) -> NestedLoss:
    """Half the softmax cross-entropy of every row of scaled cosines, half that of every column.

    A row has the logits of its own negatives after those of all columns.
    """
    losses, correct, own = [], [], jnp.arange(len(u_BxD))
    for m, s in zip(nesting.dims, jnp.broadcast_to(scale, (len(nesting),))):
        logits = (s * (truncate(u_BxD, m) @ truncate(v_BxD, m).T)).astype(jnp.float32)
        wide = logits
        if negatives_BxKxD is not None:
            more = s * jnp.einsum("bd,bkd->bk", truncate(u_BxD, m), truncate(negatives_BxKxD, m))
            wide = jnp.concatenate([logits, more.astype(jnp.float32)], axis=1)
        rows, columns = jax.nn.log_softmax(wide, axis=1), jax.nn.log_softmax(logits, axis=0)
        losses.append(-0.5 * (jnp.diagonal(rows) + jnp.diagonal(columns)))
        correct.append(wide.argmax(axis=1) == own)
    return _weigh(losses, correct, nesting)


def nested_sigmoid(u_BxD, v_BxD, scale, bias, nesting: Nesting) -> NestedLoss:
    """Sigmoid cross-entropy of every pair, summed over the columns."""
    losses, correct, own = [], [], jnp.arange(len(u_BxD))
    for m, s, b in zip(nesting.dims, *(jnp.broadcast_to(x, (len(nesting),)) for x in (scale, bias))):
        logits = (s * (truncate(u_BxD, m) @ truncate(v_BxD, m).T) + b).astype(jnp.float32)
        losses.append(jax.nn.softplus(-logits * (2 * jnp.eye(len(own)) - 1)).sum(axis=1))
        correct.append(logits.argmax(axis=1) == own)
    return _weigh(losses, correct, nesting)

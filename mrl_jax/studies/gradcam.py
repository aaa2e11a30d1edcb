"""Grad-CAM per dim of some test images, as a picture."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax import results, trained
from mrl_jax.choices import choose
from mrl_jax.data import images as transforms
from mrl_jax.evals import gradcam
from mrl_jax.studies.subject import Finding, Subject, by_dim

TARGETS = ("predicted", "label")
_SHOWN = 6


def run(subject: Subject, *, rows: Sequence[int] = (), target: str = "predicted") -> Finding:
    """Where in the image each dim's answer comes from.

    Args:
      subject: what it is about; it needs a run, whose data are read again.
      rows: of the test split; by default the first that the smallest dim gets wrong and the largest right.
      target: whose logit is explained: "predicted", each dim's own answer, or "label".

    Raises:
      ValueError: without a run, for rows that there are not, or a model that cannot be looked into.
    """
    choose("--target", target, TARGETS)
    if not subject.path:
        raise ValueError("--workdir is needed: Grad-CAM runs the model on its images, which features do not hold")
    rows = _rows(subject, rows)
    base = trained.config_of(subject.path, subject.step).unlock()
    if "remat" in base.model:
        # Nothing is looked at inside of what is computed again.
        base.model.remat = False
    base.data.name = subject.pair.test.info.identity["dataset"]["name"]
    split, ops = (subject.pair.test.info.identity["dataset"][k] for k in ("split", "ops"))
    run = trained.assemble(subject.path, subject.step, trained.over(base.lock(), None, split, ops, None))
    transform = transforms.parse(ops)
    image = np.stack([transform(run.train_source.records[i], np.random.default_rng(0))["image"] for i in rows])
    predicted = subject.predicted[:, rows]
    classes = predicted if target == "predicted" else np.broadcast_to(subject.labels[rows], predicted.shape)
    with jax.set_mesh(run.mesh):
        variables = trained.variables(subject.path, subject.step, run)
        heat = gradcam.maps(run.model.apply, variables, jnp.asarray(image), subject.heads, classes)
    flat = heat.reshape(*heat.shape[:2], -1)
    norm = np.linalg.norm(flat, axis=2)
    alike = np.einsum("gbp,bp->gb", flat, flat[-1]) / np.maximum(norm * norm[-1:], 1e-12)
    details = {
        "target": target,
        "rows": [int(i) for i in rows],
        "labels": subject.labels[rows].tolist(),
        "predicted": {m: row.tolist() for m, row in zip(subject.dims, predicted)},
    }
    values = by_dim("cosine_with_full", subject.dims, alike.mean(axis=1))
    return Finding(values, details, [], [_picture(subject, image, heat, rows, predicted)])


def _rows(subject: Subject, rows: Sequence[int]) -> np.ndarray:
    count = len(subject.labels)
    wrong = [i for i in rows if not 0 <= i < count]
    if wrong:
        raise ValueError(f"--rows: {wrong} are not in 0..{count - 1}, the rows of the test features")
    if len(rows):
        return np.asarray(rows, int)
    # Those that are gained by going up come first, then the others in order.
    gained = ~subject.correct[0] & subject.correct[-1]
    return np.argsort(~gained, kind="stable")[:_SHOWN]


def _picture(
    subject: Subject, image: np.ndarray, heat: np.ndarray, rows: np.ndarray, predicted: np.ndarray
) -> results.Pictures:
    names = subject.pair.test.info.label_names or subject.pair.train.info.label_names

    def name(c: Any) -> str:
        return str(names[c])[:12] if names else f"class {c}"

    titles = [
        [name(subject.labels[i])]
        + [f"{m}: {name(c)}{'' if c == subject.labels[i] else ' ×'}" for m, c in zip(subject.dims, predicted[:, place])]
        for place, i in enumerate(rows)
    ]
    # Grey images as coloured ones, floats as bytes.
    plain = np.broadcast_to(image, (*image.shape[:3], 3)) if image.shape[3] == 1 else image[..., :3]
    return results.Pictures("gradcam", list(plain), list(heat.transpose(1, 0, 2, 3)), titles)

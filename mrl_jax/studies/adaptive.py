"""Adaptive classification: cost curves over repeated splits, and a policy to serve by."""

import dataclasses
import pathlib

import numpy as np

from mrl_jax import results
from mrl_jax.evals import adaptive, answers, cascade_curve
from mrl_jax.evals.cascade_curve import Curve
from mrl_jax.evals.features import dims_of
from mrl_jax.flips import named, views_of
from mrl_jax.policy import Policy
from mrl_jax.studies.subject import Finding, Subject, by_dim, heads_at


def run(
    subject: Subject,
    *,
    confidence: str = "max_softmax",
    splits: int = 30,
    learn_rows: int = 0,
) -> Finding:
    """Learns thresholds on part of the test rows and tests them on the others, over random splits.

    Args:
      subject: what it is about.
      confidence: a key of `adaptive.CONFIDENCES`.
      splits: how many.
      learn_rows: test rows that teach the thresholds; 0: a fifth of them, as in the paper (10,000 of 50,000).

    Raises:
      ValueError: for sizes or names that do not fit.
    """
    found = subject.decisions(confidence)
    right = adaptive.correct(found.predicted_GxN, subject.labels)
    rows = len(subject.labels)
    learn_rows = learn_rows or rows // 5
    curve = cascade_curve.curve(
        found.confidence_GxN, right, subject.dims, splits=splits, learn_rows=learn_rows, seed=subject.seed
    )
    made, path = _learn(subject, found, right, confidence, learn_rows)
    values = by_dim("one_dim_top1", subject.dims, right.mean(axis=1))
    values |= by_dim("cascade_top1", curve.caps, curve.accuracy[0])
    details = {
        "confidence": confidence,
        "splits": splits,
        "learn_rows": learn_rows,
        "answered_by": subject.answered_by,
        "caps": list(curve.caps),
        "accuracy": _spread(curve.accuracy),
        "expected_dim": {cost: _spread(x) for cost, x in curve.expected_dim.items()},
        "thresholds": _spread(curve.thresholds),
        "policy": str(path),
    }
    return Finding(values, details, _table(curve, made, path), [_figure(subject, right, curve)])


def _learn(
    subject: Subject, found: adaptive.Decisions, right_GxN: np.ndarray, confidence: str, learn_rows: int
) -> tuple[Policy, pathlib.Path]:
    """A policy learned on one random part of the test rows, saved; what it says of itself is of the other rows."""
    order = np.random.default_rng(subject.seed).permutation(right_GxN.shape[1])
    learn, test = order[:learn_rows], order[learn_rows:]
    grid = adaptive.sorted_grid(adaptive.GRID)
    bins_PxN = adaptive.bins(found.confidence_GxN[:, learn], grid)
    thresholds = adaptive.best_thresholds(bins_PxN, adaptive.gains(right_GxN[:, learn]), grid)
    level_N = adaptive.levels(found.confidence_GxN[:, test], thresholds)
    about = {
        "data": dict(subject.pair.test.info.identity),
        "answered_by": subject.answered_by,
        "rows": learn_rows,
        "seed": subject.seed,
        "accuracy_on_other_rows": float(right_GxN[level_N, test].mean()),
        "expected_dim": {cost: adaptive.expected_dim(level_N, subject.dims, cost) for cost in adaptive.COSTS},
    }
    made = Policy(subject.dims, tuple(thresholds), confidence, about)
    step = "" if subject.step is None else f"-{subject.step}"
    path = subject.out / "policies" / f"{named(f'{confidence}{step}', subject.views > 1)}.json"
    made.save(path)
    return made, path


def policy(subject: Subject, *, policy: str) -> Finding:
    """What the policy in the file of this name does on all test rows, at its own dims.

    Raises:
      FileNotFoundError, ValueError: if it is none, or was learned with another checkpoint.
    """
    found_policy = Policy.load(policy)
    dims, data = dims_of(subject.pair.nesting, found_policy.dims), found_policy.calibrated_on.get("data")
    ours = subject.pair.test.info.identity
    if data and ours and data["checkpoint"] != ours["checkpoint"]:
        # Of an export the width may be all that differs.
        learned, own = (
            f"step {c['step']} (manifest {c['manifest_sha256'][:8]}, width {c.get('width', 1):g})"
            for c in (data["checkpoint"], ours["checkpoint"])
        )
        raise ValueError(
            f"--policy={policy} was learned with {learned}, not with {own}: learn one with `python -m mrl_jax.study "
            "adaptive`"
        )
    if data and ours and views_of(data) != subject.views:
        raise ValueError(
            f"--policy={policy} was learned of {views_of(data)} views of each image, these features are of "
            f"{subject.views}: study with{'' if subject.views == 1 else 'out'} --flips"
        )
    found = answers.decide(subject.pair.test.z, heads_at(subject, dims), found_policy.confidence)
    right = adaptive.correct(found.predicted_GxN, subject.labels)
    level_N = adaptive.levels(found.confidence_GxN, np.asarray(found_policy.thresholds))
    accuracy = float(np.take_along_axis(right, level_N[None], axis=0).mean())
    cost = {name: adaptive.expected_dim(level_N, dims, name) for name in adaptive.COSTS}
    share = np.bincount(level_N, minlength=len(dims)) / len(level_N)
    values = by_dim("one_dim_top1", dims, right.mean(axis=1)) | by_dim("answered_here", dims, share)
    text = (
        f"The policy answers {100 * accuracy:.2f} % right, at an expected dim of {cost['final']:.2f} (final dim "
        f"counted) or {cost['cumulative']:.2f} (all dims on the way)."
    )
    return Finding(
        values, {"accuracy": accuracy, "expected_dim": cost, "policy": dataclasses.asdict(found_policy)}, [text], []
    )


def _spread(values: np.ndarray) -> dict[str, list[float]]:
    return {"mean": values[0].tolist(), "std": values[1].tolist()}


def _table(curve: Curve, made: Policy, path: pathlib.Path) -> list[str]:
    lines = ["Cascades from the smallest dim up to a cap, mean and standard deviation over the splits:"]
    lines.append("    cap  expected dim (final)  expected dim (cumulative)     top-1, %  threshold below")
    for i, cap in enumerate(curve.caps):
        final, cumulative = (curve.expected_dim[cost][:, i] for cost in adaptive.COSTS)
        lines.append(
            f"{cap:7d}  {_pm(final):>20}  {_pm(cumulative):>25}  {_pm(100 * curve.accuracy[:, i]):>11}  "
            f"{_pm(curve.thresholds[:, i]):>15}"
        )
    on = made.calibrated_on
    lines.append(
        f"Policy {path}: {100 * on['accuracy_on_other_rows']:.2f} % at an expected dim of "
        f"{on['expected_dim']['final']:.2f}, on the rows it was not learned on."
    )
    return lines


def _pm(mean_std: np.ndarray) -> str:
    return f"{mean_std[0]:.2f} ± {mean_std[1]:.2f}"


def _figure(subject: Subject, right_GxN: np.ndarray, curve: Curve) -> results.Lines:
    series = {"one dim for all": (subject.dims, 100 * right_GxN.mean(axis=1))}
    for cost, name in zip(adaptive.COSTS, ("cascade, final dim counted", "cascade, all dims on the way counted")):
        series[name] = (curve.expected_dim[cost][0], 100 * curve.accuracy[0])
    return results.Lines("adaptive", "expected dim", "top-1 accuracy, %", series)

"""Time to learn the thresholds of a cascade on 30 splits of 50,000 examples at 9 dims.

python -m experiments.benchmarks.cascade --out=experiments/results/benchmark_cascade_cpu.json

From softmax rows: the pass over them (once) and the 30 splits, each learned on 10,000 examples and tested on the
others under every cap. "loop" is the obvious search, every threshold tried on every pair, from the same confidences.
"""

import sys
import time

import numpy as np
from absl import app, flags

from experiments.provenance import provenance
from mrl_jax import writers
from mrl_jax.evals import adaptive, cascade_curve
from mrl_jax.nesting import Nesting

OUT = flags.DEFINE_string("out", None, "JSON file to write.")
ROWS = flags.DEFINE_integer("rows", 50_000, "Examples.")
CLASSES = flags.DEFINE_integer("classes", 1000, "Classes.")
SPLITS = flags.DEFINE_integer("splits", 30, "Random splits.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs, of which the median counts.")
DIMS = Nesting.halving(2048, 8).dims


def softmax_rows(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (9, N, C) float32 that get better with the dim, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, rows)
    probs = np.empty((len(DIMS), rows, classes), np.float32)
    for g in range(len(DIMS)):
        logits = rng.standard_normal((rows, classes), np.float32)
        logits[np.arange(rows), labels] += 2 + 0.5 * g
        np.exp(2 * logits, out=probs[g])
        probs[g] /= probs[g].sum(axis=1, keepdims=True)
    return probs, labels


def seconds(function, repeats: int) -> float:
    """The median time of a call."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def by_loop(confidence_GxN: np.ndarray, correct_GxN: np.ndarray) -> list[float]:
    """Every threshold on every pair."""
    found = []
    for g in range(len(confidence_GxN) - 1):
        right = [np.where(confidence_GxN[g] > t, correct_GxN[g], correct_GxN[g + 1]).sum() for t in adaptive.GRID]
        found.append(adaptive.GRID[int(np.argmax(right))])
    return found


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    probs, labels = softmax_rows(ROWS.value, CLASSES.value)
    found = adaptive.decide(probs)
    right = adaptive.correct(found.predicted_GxN, labels)
    learn = min(10_000, ROWS.value // 5)

    def splits():
        return cascade_curve.curve(found.confidence_GxN, right, DIMS, splits=SPLITS.value, learn_rows=learn)

    def loop():
        for seed in range(SPLITS.value):
            order = np.random.default_rng(seed).permutation(ROWS.value)[:learn]
            by_loop(found.confidence_GxN[:, order], right[:, order])

    once, repeated = seconds(lambda: adaptive.decide(probs), REPEATS.value), seconds(splits, REPEATS.value)
    order = np.random.default_rng(1).permutation(ROWS.value)[:learn]
    grid = adaptive.sorted_grid(adaptive.GRID)
    ours = adaptive.best_thresholds(
        adaptive.bins(found.confidence_GxN[:, order], grid), adaptive.gains(right[:, order]), grid
    )
    record = {
        "command": " ".join(["python", "-m", "experiments.benchmarks.cascade", *sys.argv[1:]]),
        **provenance(),
        "rows": ROWS.value,
        "classes": CLASSES.value,
        "dims": DIMS,
        "splits": SPLITS.value,
        "seconds": {
            "confidences of all softmax rows, once": round(once, 3),
            "all splits, learned and tested": round(repeated, 3),
            "together": round(once + repeated, 3),
            "all splits by the loop, learned only": round(seconds(loop, 1), 3),
        },
        "same_thresholds_as_the_loop": ours.tolist() == by_loop(found.confidence_GxN[:, order], right[:, order]),
    }
    for name, value in record.items():
        print(f"{name}: {value}", flush=True)
    if OUT.value:
        writers.write_json(OUT.value, record)


if __name__ == "__main__":
    app.run(main)

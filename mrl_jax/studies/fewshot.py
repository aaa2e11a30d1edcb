"""Few-shot trials on the test rows."""

from collections.abc import Sequence

from mrl_jax import results
from mrl_jax.choices import choose
from mrl_jax.evals import fewshot
from mrl_jax.studies.subject import Finding, Subject, by_dim


def run(
    subject: Subject,
    *,
    shots: Sequence[int] = (1, 3, 5, 7, 9),
    ways: int = 10,
    trials: int = 600,
    queries: int = fewshot.QUERIES,
    classifiers: Sequence[str] = ("nearest_mean",),
    penalty: float = fewshot.RIDGE_PENALTY,
) -> Finding:
    """Accuracy of n-shot k-way trials at every dim, support and queries both drawn from the test rows.

    Args:
      subject: what it is about.
      shots: support rows of a class, each number in turn.
      ways: classes of a trial; 0: all that have rows enough.
      trials: of each number of shots.
      queries: rows of a class that are asked, at most.
      classifiers: keys of `fewshot.METHODS`.
      penalty: of ridge, in units of the mean diagonal element of the support's Gram matrix.
    """
    for name in classifiers:
        choose("--classifiers", name, fewshot.METHODS)
    values, halves, drawn = {}, {}, {}
    for n in shots:
        episodes = fewshot.draw(subject.labels, ways=ways, shots=n, trials=trials, queries=queries, seed=subject.seed)
        drawn[n] = {"ways": episodes.query_TxKxQ.shape[1], "queries": episodes.query_TxKxQ.shape[2]}
        for name in classifiers:
            options = {"penalty": penalty} if name == "ridge" else {}
            mean, half = fewshot.summary(fewshot.METHODS[name](subject.pair.test.z, episodes, subject.dims, **options))
            values |= by_dim(f"{name}_{n}_shot", subject.dims, mean)
            halves |= by_dim(f"{name}_{n}_shot", subject.dims, half)
    details = {"trials": trials, "episodes": drawn, "half_width_of_95_percent_interval": halves}
    details |= {"ridge_penalty": penalty} if "ridge" in classifiers else {}
    # Intervals are not known of a single trial.
    text = [f"The 95 % intervals are at most ± {100 * max(halves.values()):.2f}."] if halves else []
    series = {
        metric.removeprefix("fewshot "): (list(curve), [100 * v for v in curve.values()])
        for metric, curve in results.curves({"fewshot": values}).items()
    }
    ways = next(iter(drawn.values()))["ways"]
    figure = results.Lines("fewshot", "embedding dim", f"accuracy, {ways}-way, %", series)
    return Finding(values, details, text, [figure])

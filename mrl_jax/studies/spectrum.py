"""How much of the embedding each prefix holds."""

from mrl_jax import results
from mrl_jax.evals import spectrum
from mrl_jax.evals.moments import accumulate
from mrl_jax.evals.streams import Stream
from mrl_jax.studies.subject import Finding, Subject, by_dim


def run(subject: Subject) -> Finding:
    """Rank, variance and similarity to the whole of every prefix, on the test rows."""
    test = subject.pair.test
    covariance, _ = accumulate(Stream(test.z, test.labels), subject.classes).centred()
    found = spectrum.measure(covariance, subject.dims)
    shares = {"own_variance": found.own_variance, "explained": found.explained, "cka": found.cka}
    values = {}
    for metric, curve in shares.items():
        values |= by_dim(metric, subject.dims, curve)
    text = ["    dim  effective rank  participation ratio"]
    text += [
        f"{m:7d}  {rank:14.2f}  {ratio:19.2f}"
        for m, rank, ratio in zip(subject.dims, found.effective_rank, found.participation)
    ]
    details = {
        "effective_rank": by_dim("effective_rank", subject.dims, found.effective_rank),
        "participation": by_dim("participation", subject.dims, found.participation),
        "rows": len(test.z),
    }
    series = {metric: (subject.dims, 100 * curve) for metric, curve in shares.items()}
    ranks = {"effective rank": (subject.dims, found.effective_rank), "the dim itself": (subject.dims, subject.dims)}
    figures = [
        results.Lines("spectrum", "embedding dim", "share of the whole embedding, %", series),
        results.Lines("effective_rank", "embedding dim", "effective rank", ranks),
    ]
    return Finding(values, details, text, figures)

import numpy as np
import pytest

from mrl_jax.evals import retrieval, retrieval_study


@pytest.fixture
def data():
    rng, feature = np.random.default_rng(0), np.arange(1, 257) ** 0.7
    centres = rng.normal(size=(12, 256)) / feature
    labels, query_labels = rng.integers(0, 12, 420), rng.integers(0, 12, 25)
    draw = lambda y: (centres[y] + 0.6 * rng.normal(size=(len(y), 256)) / feature).astype(np.float32)  # noqa: E731
    return draw(labels), labels, draw(query_labels), query_labels


def test_equals_searching_one_setting_at_a_time(data):
    gallery, labels, queries, query_labels = data
    found = dict(retrieval_study.run(*data, (8, 32, 256), ks=(10, 50)))
    relevant = np.array([(labels == label).sum() for label in query_labels])

    def metrics(dim, rerank=(), k=10):
        rows = retrieval.adaptive_search(queries, gallery, dim, rerank, k=k)[1]
        return retrieval.metrics(labels[rows], query_labels, k, relevant)

    for k in (10, 50):
        for name, value in metrics(32, k=k).items():
            assert found[f"{name}@{k}@32"] == pytest.approx(value)
    assert found["mflops@32"] == 420 * 32 / 1e6
    pairs = {name.rsplit("/", 1)[1] for name in found if name.startswith("adaptive/")}
    assert pairs == {"8-8", "8-32", "8-256", "32-32", "32-256", "256-256"}
    assert found["adaptive/map_paper@10/8-256"] == pytest.approx(metrics(8, ((200, 256),))["map_paper"])
    assert found["adaptive/mflops/8-256"] == retrieval.mflops_per_query(420, 8, ((200, 256),))
    funnel = ((400, 16), (200, 32), (50, 64), (25, 128), (10, 256))
    assert found["funnel/map@10/8:400-200-50-25-10"] == pytest.approx(metrics(8, funnel)["map"])
    assert not any("800" in name for name in found)  # longer than the gallery
    assert found["map@10@256"] > found["map@10@8"]


def test_the_clock_is_of_one_warm_search_of_the_dim_alone_by_query(data, monkeypatch):
    searches, ticks = [], iter([0, 10, 10, 12, 12, 13, 13, 33] * 2)
    monkeypatch.setattr(retrieval_study, "REPEATS", 4)
    monkeypatch.setattr(retrieval_study, "TIMED_QUERIES", 20)
    monkeypatch.setattr(retrieval_study.exact, "search", lambda q, g, dims, k: searches.append((q, g, dims, k)))
    monkeypatch.setattr(retrieval_study.timing.time, "perf_counter", lambda: next(ticks))
    gallery, _, queries, _ = data
    found = dict(retrieval_study.milliseconds(gallery, queries, (8, 32), 10))
    assert found == {f"ms_per_query@{m}": 1e3 * 6 / 20 for m in (8, 32)}, "the median of 10, 2, 1 and 20 seconds"
    assert len(searches) == 2 * 5, "the first of each dim is not timed"
    q, g, dims, k = searches[-1]
    assert (q.tolist(), g.tolist()) == (queries[:20, :32].tolist(), gallery[:, :32].tolist())
    assert (dims, k) == ((32,), 10)


def test_bad_input(data):
    gallery, labels, queries, query_labels = data
    with pytest.raises(ValueError, match=r"gallery labels have shape \(419,\) for 420 rows"):
        next(retrieval_study.run(gallery, labels[1:], queries, query_labels, (8,)))
    with pytest.raises(ValueError, match="query labels must be integers"):
        next(retrieval_study.run(gallery, labels, queries, query_labels.astype(np.float16), (8,)))
    with pytest.raises(ValueError, match="k=421 neighbours of a gallery of 420"):
        next(retrieval_study.run(*data, (8,), ks=(421,)))
    with pytest.raises(ValueError, match="the same D"):
        next(retrieval_study.run(gallery[:, :128], labels, queries, query_labels, (8,)))

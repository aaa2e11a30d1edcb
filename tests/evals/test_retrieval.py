import numpy as np
import pytest

from mrl_jax import indexes
from mrl_jax.evals import retrieval
from mrl_jax.evals.gallery import Gallery

NEEDS_FAISS = pytest.mark.skipif(not indexes.available(), reason="needs faiss")


def one_query(neighbors, label, k, relevant):
    """The definitions, written as loops."""
    hits, total = 0, 0.0
    for i, neighbor in enumerate(neighbors[:k], 1):
        if neighbor == label:
            hits += 1
            total += hits / i
    values = {"map": total / min(k, relevant) if relevant else 0.0, "map_paper": total / k, "precision": hits / k}
    values |= {"recall": hits / relevant if relevant else 0.0, "recall_paper": hits / 1300}
    return values | {"top1": float(neighbors[0] == label), "topk": float(hits > 0)}


@pytest.mark.parametrize("k", [1, 10, 50])
@pytest.mark.parametrize("counted", [False, True])
def test_metrics_equal_the_loop(k, counted):
    rng = np.random.default_rng(k)
    neighbors, labels = rng.integers(-1, 8, (40, 50)), rng.integers(0, 9, 40)
    relevant = (neighbors == labels[:, None]).sum(axis=1) + (rng.integers(0, 60, 40) if counted else 0)
    expected = [one_query(*row, k, r) for *row, r in zip(neighbors.tolist(), labels.tolist(), relevant.tolist())]
    found = retrieval.metrics(neighbors, labels, k, relevant if counted else None)
    assert found.keys() == expected[0].keys()
    for name, value in found.items():
        assert value == pytest.approx(np.mean([e[name] for e in expected]), abs=1e-12), name


def test_standard_and_paper_map_differ_where_few_are_relevant():
    found = retrieval.metrics(np.array([[1, 1, 2, 2]]), np.array([1]), 4)
    assert (found["map"], found["map_paper"]) == (1.0, 0.5)


@pytest.mark.parametrize("arguments", [([[1, 2]], [1, 2], 1), ([[1, 2]], [1], 3), ([[1, 2]], [1], 0), ([1], [1], 1)])
def test_metrics_of_nonsense(arguments):
    with pytest.raises(ValueError, match=r"\(Q, N\) and \(Q,\)|is not in 1\.\."):
        retrieval.metrics(*map(np.asarray, arguments[:2]), arguments[2])


@pytest.mark.parametrize(
    ("neighbors", "labels", "relevant", "message"),
    [
        ([[1, 1], [2, 2]], [1, 2], [2, 1], r"relevant_Q\[1\]=1 for 2 hits"),
        ([[1, 1], [2, 2]], [1, 2], [2, np.nan], r"relevant_Q\[1\]=nan for 2 hits"),
        ([[1.0, np.nan]], [1], None, "neighbor_labels_QxN are float64: give integers"),
        ([[1, 2]], np.float16([1]), None, "query_labels_Q are float16: give integers"),
    ],
)
def test_labels_and_counts_that_cannot_be(neighbors, labels, relevant, message):
    with pytest.raises(ValueError, match=message):
        retrieval.metrics(np.asarray(neighbors), np.asarray(labels), 2, relevant)


@pytest.mark.parametrize(
    ("size", "dim", "rerank", "published"),
    [
        (1_281_167, 16, ((200, 2048),), 20.91),
        (1_281_167, 8, ((200, 8),), 10.25),
        (1_281_167, 2048, (), 2623.83),
        (1_281_167, 8, ((800, 16), (400, 32), (200, 64), (50, 128), (10, 2048)), 10.31),
        (1_281_167, 32, ((200, 64), (100, 128), (50, 256), (25, 512), (10, 2048)), 41.07),
        (4_202_000, 64, ((800, 128), (400, 256), (200, 512), (50, 1024), (10, 2048)), 269.31),
        (4_202_000, 8, ((200, 2048),), 34.03),
    ],
)
def test_cost_is_the_published_one(size, dim, rerank, published):
    assert retrieval.mflops_per_query(size, dim, rerank) == pytest.approx(published, abs=0.006)


def naive(queries, gallery, dim, rerank, k):
    """One query after the other, with sorts of everything."""
    found = []
    for query in queries.astype(np.float64):
        order = list(range(len(gallery)))
        for length, m in ((len(gallery), dim), *rerank):
            q = query[:m] / np.linalg.norm(query[:m])
            g = {i: gallery[i, :m] / np.linalg.norm(gallery[i, :m]) for i in order[:length]}
            order = sorted(order[:length], key=lambda i: ((q - g[i]) ** 2).sum())
        found.append(order[:k])
    return np.array(found)


@pytest.fixture
def vectors():
    rng = np.random.default_rng(1)
    scale = np.exp(-np.arange(32) / 8)
    gallery = (rng.normal(size=(400, 32)) * scale * rng.uniform(0.2, 5, (400, 1))).astype(np.float32)
    return (rng.normal(size=(30, 32)) * scale).astype(np.float32), gallery


STEPS = [(), ((40, 32),), ((40, 11),), ((100, 8), (50, 16), (20, 32)), ((100, 16), (50, 5), (20, 32))]


@pytest.mark.parametrize("rerank", STEPS)
@pytest.mark.parametrize("library", ["faiss", "none"])
def test_adaptive_and_funnel_search_equal_the_naive_one(vectors, rerank, library, monkeypatch):
    if library == "none":
        monkeypatch.setattr(indexes, "available", lambda: False)
        monkeypatch.setattr(retrieval, "GATHER_BYTES", 4096)
    distances, found = retrieval.adaptive_search(*vectors, 4, rerank, k=10)
    np.testing.assert_array_equal(found, naive(*vectors, 4, rerank, 10))
    last = rerank[-1][1] if rerank else 4
    q, g = (x[:, :last] / np.linalg.norm(x[:, :last], axis=1, keepdims=True) for x in vectors)
    np.testing.assert_allclose(distances, ((q[:, None] - g[found]) ** 2).sum(axis=2), atol=2e-6)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_funnels_do_not_depend_on_what_ran_before_and_change_nothing(vectors):
    before = [x.copy() for x in vectors]
    for x in vectors:
        x.flags.writeable = False
    gallery = Gallery(vectors[1])
    first = [retrieval.adaptive_search(vectors[0], gallery, 4, rerank)[1] for rerank in STEPS]
    again = [retrieval.adaptive_search(*vectors, 4, rerank)[1] for rerank in reversed(STEPS)]
    assert all((a == b).all() for a, b in zip(first, reversed(again)))
    assert all((a == b).all() for a, b in zip(before, vectors))


def test_features_in_half_precision_and_memory_mapped(vectors, tmp_path):
    np.save(tmp_path / "z.npy", vectors[1].astype(np.float16))
    gallery = np.load(tmp_path / "z.npy", mmap_mode="r")
    found = retrieval.adaptive_search(vectors[0], gallery, 4, ((40, 32),))[1]
    np.testing.assert_array_equal(found, naive(vectors[0], np.asarray(gallery, np.float64), 4, ((40, 32),), 10))


def test_an_index_that_finds_too_few(vectors):
    class Three:
        def search(self, unit, k):
            rows = np.full((len(unit), k), -1)
            rows[:, :3] = [7, 5, 9]
            return np.zeros((len(unit), k), np.float32), rows

    distances, found = retrieval.adaptive_search(*vectors, 4, ((20, 32),), index=Three(), k=5)
    assert (np.sort(found[:, :3]) == [5, 7, 9]).all()
    assert (found[:, 3:] == -1).all()
    assert np.isinf(distances[:, 3:]).all()
    assert (retrieval.adaptive_search(*vectors, 4, index=Three(), k=5)[1][0] == [7, 5, 9, -1, -1]).all()


@NEEDS_FAISS
def test_an_index_of_the_library_itself(vectors):
    import faiss

    index = faiss.IndexFlatL2(4)
    index.add(indexes.unit(vectors[1], 4))
    found = retrieval.adaptive_search(*vectors, 4, ((40, 32),), index=index)[1]
    np.testing.assert_array_equal(found, naive(*vectors, 4, ((40, 32),), 10))
    with pytest.raises(ValueError, match="the index, of 400 rows, was built for another gallery than these 399"):
        retrieval.adaptive_search(vectors[0], vectors[1][1:], 4, index=index)
    for other in (index, indexes.build("flat", vectors[1], 4)):
        with pytest.raises(ValueError, match="shortlist_dim=8 with an index of dim 4"):
            retrieval.adaptive_search(*vectors, 8, index=other)


@NEEDS_FAISS
def test_an_index_of_other_vectors_is_refused(vectors):
    index = indexes.build("flat", vectors[1][::-1], 4)
    with pytest.raises(ValueError, match="was built for another gallery"):
        retrieval.adaptive_search(*vectors, 4, index=index)


@pytest.mark.parametrize(
    ("dim", "rerank", "k", "message"),
    [
        (33, (), 10, "in 1..32"),
        (4, ((40, 64),), 10, "in 1..32"),
        (4, ((401, 32),), 10, "must not grow"),
        (4, ((40, 16), (50, 32)), 10, "must not grow"),
        (4, ((8, 32),), 10, "must not grow"),
        (4, (), 401, "k=401 neighbours of a gallery of 400"),
    ],
)
def test_steps_that_cannot_be_done(vectors, dim, rerank, k, message):
    with pytest.raises(ValueError, match=message):
        retrieval.adaptive_search(*vectors, dim, rerank, k=k)


def test_nan_in_the_gallery(vectors):
    vectors[1][33, 30] = np.nan
    with pytest.raises(ValueError, match="row 33"):
        retrieval.adaptive_search(*vectors, 4, ((40, 32),))

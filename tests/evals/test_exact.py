import jax
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors as Reference

from mrl_jax import indexes, sharding
from mrl_jax.evals import exact

ENGINES = ["jax", pytest.param("faiss", marks=pytest.mark.skipif(not indexes.available(), reason="needs faiss"))]


@pytest.fixture(params=ENGINES)
def search(request, monkeypatch):
    """Each engine, with tiles so small that there are many, not all of them full."""
    monkeypatch.setattr(exact, "QUERY_TILE", 16)
    monkeypatch.setattr(exact, "GALLERY_TILE", 9)
    monkeypatch.setattr(exact, "HOST_TILE", 70)
    return lambda *arguments: exact.search(*arguments, engine=request.param)


@pytest.fixture
def vectors():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 24)).astype(np.float32), rng.normal(size=(300, 24)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_equals_an_independent_search_at_every_dim_in_any_order(search, vectors, k):
    queries, gallery = vectors
    dims = (8, 3, 24)
    cosines, found = search(queries, gallery, dims, k)
    assert found.shape == cosines.shape == (3, 50, k)
    for m, cosine, indices in zip(dims, cosines, found):
        q, g = (x[:, :m] / np.linalg.norm(x[:, :m], axis=1, keepdims=True) for x in (queries, gallery))
        np.testing.assert_array_equal(indices, Reference(n_neighbors=k).fit(g).kneighbors(q)[1])
        np.testing.assert_allclose(cosine, np.take_along_axis(q @ g.T, indices, 1), atol=1e-6)


def test_one_device_finds_what_eight_find_without_those_of_other_hosts(vectors, monkeypatch):
    monkeypatch.setattr(exact, "GALLERY_TILE", 9)
    assert len(jax.devices()) == 8
    queries, gallery = vectors
    gallery[100:110] = gallery[200:210] = gallery[3]  # ties across devices
    score, at = exact.search(queries, gallery, (3, 24), 12, engine="jax")
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    meshes, run = [], exact._update
    monkeypatch.setattr(exact, "_update", lambda mesh, *rest: meshes.append(mesh) or run(mesh, *rest))
    alone, at_alone = exact.search(queries, gallery, (3, 24), 12, engine="jax")
    np.testing.assert_allclose(score, alone, atol=1e-6)
    np.testing.assert_array_equal(at, at_alone)
    assert {mesh.size for mesh in meshes} == {1}


def test_a_run_searches_under_a_mesh_of_its_own(search, vectors):
    score, at = search(*vectors, (3, 24), 5)
    with jax.set_mesh(sharding.make_mesh(4, 2, 1)):
        inside = search(*vectors, (3, 24), 5)
    np.testing.assert_array_equal(inside[0], score)
    np.testing.assert_array_equal(inside[1], at)


def test_of_equal_neighbours_the_first_wins(search):
    gallery = np.ones((500, 3), np.float32)
    assert search(gallery[:2], gallery, (3,), 12)[1][0].tolist() == [list(range(12))] * 2


@pytest.mark.parametrize("k", [1, 2, 10, 77])
def test_of_those_equal_to_the_last_neighbour_the_first_are_kept(search, vectors, k):
    queries, gallery = np.sign(vectors[0]), np.sign(vectors[1])
    dims = (1, 4, 3)  # of whole numbers: as many of equal cosines as there can be, in all tiles
    cosines, found = search(queries, gallery, dims, k)
    for m, cosine, indices in zip(dims, cosines, found):
        expected = queries[:, :m] @ gallery[:, :m].T / m
        np.testing.assert_array_equal(indices, np.argsort(-expected, axis=1, kind="stable")[:, :k])
        np.testing.assert_allclose(cosine, np.take_along_axis(expected, indices, 1), atol=1e-6)


@pytest.mark.parametrize("k", [2, 10, 19])
def test_of_repeated_rows_the_first_are_kept(search, vectors, k, monkeypatch):
    monkeypatch.setattr(exact, "HOST_TILE", 2000)  # of many rows faiss keeps others
    queries, gallery = vectors[0], np.tile(vectors[1], (8, 1))
    found = search(queries, gallery, (24,), k)[1][0]
    each = search(queries, vectors[1], (24,), -(-k // 8))[1][0]
    expected = (each[..., None] + 300 * np.arange(8)).reshape(len(queries), -1)[:, :k]
    np.testing.assert_array_equal(found, expected)


def test_as_many_neighbours_as_rows(search):
    gallery = np.eye(5, dtype=np.float32)
    assert sorted(search(gallery[:1], gallery, (5,), 5)[1][0, 0]) == [0, 1, 2, 3, 4]


def test_zero_vectors_are_nobody_s_neighbour(search):
    gallery = np.array([[0, 0], [1, 1]], np.float32)
    assert search(np.array([[1, 0]], np.float32), gallery, (2,), 1)[1].tolist() == [[[1]]]


def test_inputs_stay_as_they_are(search, vectors):
    before = [x.copy() for x in vectors]
    for x in vectors:
        x.flags.writeable = False
    search(*vectors, (8,), 3)
    assert all((a == b).all() for a, b in zip(before, vectors))


@pytest.mark.parametrize(
    ("dims", "k", "cut", "message"),
    [
        ((8,), 301, None, "k=301 neighbours of a gallery of 300"),
        ((8,), 0, None, "k=0 neighbours"),
        ((25,), 1, None, "in 1..24"),
        ((8,), 1, 20, "the same D"),
    ],
)
def test_what_cannot_be_searched_is_refused(search, vectors, dims, k, cut, message):
    queries, gallery = vectors
    with pytest.raises(ValueError, match=message):
        search(queries[:, :cut], gallery, dims, k)


def test_nan_is_found_and_named(search, vectors):
    queries, gallery = vectors
    gallery[217, 20] = np.nan
    with pytest.raises(ValueError, match="gallery: 1 rows are not finite, the first is row 217"):
        search(queries, gallery, (8,), 1)
    with pytest.raises(ValueError, match="queries hold values that are not finite"):
        search(gallery[217:], queries, (8,), 1)

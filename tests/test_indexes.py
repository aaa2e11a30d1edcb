import numpy as np
import pytest

from mrl_jax import indexes

faiss = pytest.importorskip("faiss")
ROWS, DIM = 10_000, 8  # codebooks of 256 want 9,984 rows


@pytest.fixture(scope="module")
def gallery():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(ROWS, 16)) * np.exp(-np.arange(16) / 6) * rng.uniform(1, 9, (ROWS, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def truth(gallery):
    unit = indexes.unit(gallery, DIM)
    return np.argsort(-(unit[:40] @ unit.T), axis=1)[:, :10]


@pytest.mark.parametrize("kind", [kind for kind in indexes.KINDS if kind not in ("opq", "pq", "ivf_pq")])
def test_every_kind_finds_saves_and_loads(gallery, truth, tmp_path, kind):
    index = indexes.build(kind, gallery, DIM)
    queries = indexes.unit(gallery[:40], DIM)
    distances, found = index.search(queries, 100)
    recall = np.mean([len(set(t) & set(f)) / 10 for t, f in zip(truth, found)])
    exact = kind in ("flat", "flat_panorama", "sq_fp16")
    assert recall > (0.999 if exact else 0.1 if kind == "binary" else 0.85)
    assert (np.diff(distances, axis=1) >= -1e-6).all()
    assert 0 < index.operations(queries, 100) <= ROWS * (2 if kind == "hnsw" else 1.1)
    indexes.save(index, tmp_path / kind)
    assert indexes.size(index) == (tmp_path / kind / "index.faiss").stat().st_size
    assert sorted(p.name for p in (tmp_path / kind).iterdir()) == ["index.faiss", "index.json"]
    again = indexes.load(tmp_path / kind, indexes.fingerprint(gallery))
    np.testing.assert_array_equal(again.search(queries, 100)[1], found)
    assert (again.kind, again.dim, again.rows) == (kind, DIM, ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pq", "opq", "ivf_pq"])
def test_codebooks_of_256(gallery, truth, kind):
    found = indexes.build(kind, gallery, DIM).search(indexes.unit(gallery[:40], DIM), 100)[1]
    assert np.mean([len(set(t) & set(f)) / 10 for t, f in zip(truth, found)]) > 0.9


def test_bits_tell_features_apart_that_are_all_positive(gallery):
    """As they are after a ReLU."""
    positive = np.abs(gallery)
    queries = indexes.unit(positive[:40], 16)
    truth = np.argsort(-(queries @ indexes.unit(positive, 16).T), axis=1)[:, :10]
    found = indexes.build("binary", positive, 16).search(queries, 100)[1]
    assert np.mean([len(set(t) & set(f)) / 10 for t, f in zip(truth, found)]) > 0.3


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_more_effort_finds_and_costs_more(gallery, truth, kind):
    index, queries = indexes.build(kind, gallery, DIM), indexes.unit(gallery[:40], DIM)
    recalls, costs = [], []
    for effort in (1, indexes.KINDS[kind].efforts[-1]):
        index.set_effort(effort)
        found = index.search(queries, 10)[1]
        recalls.append(np.mean([len(set(t) & set(f)) / 10 for t, f in zip(truth, found)]))
        costs.append(index.operations(queries, 10))
    assert recalls[0] < recalls[1]
    assert costs[0] < costs[1]


def test_the_index_of_another_gallery_is_refused(gallery, tmp_path):
    indexes.save(indexes.build("flat", gallery, DIM), tmp_path)
    other = gallery.copy()
    other[-1] += 1
    with pytest.raises(ValueError, match="is an index of another gallery"):
        indexes.load(tmp_path, indexes.fingerprint(other))


def test_every_row_counts_and_only_what_it_holds(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(indexes, "BLOCK_ROWS", 64)
    some = gallery[:300]
    found = {indexes.fingerprint(some), indexes.fingerprint(some[::-1]), indexes.fingerprint(some.astype(np.float16))}
    for row in range(300):
        other = some.copy()
        other[row, 3] = np.nextafter(other[row, 3], np.float32(9))
        found.add(indexes.fingerprint(other))
    assert len(found) == 303
    np.save(tmp_path / "z.npy", some)
    for same in (np.load(tmp_path / "z.npy", mmap_mode="r"), np.asfortranarray(some)):
        assert indexes.fingerprint(same) == indexes.fingerprint(some)


def test_no_row_of_a_large_gallery_is_left_out(gallery):
    other = gallery.copy()
    other[1] += 1  # between two of 4,096 evenly spaced rows
    assert indexes.fingerprint(other) != indexes.fingerprint(gallery)


def test_a_damaged_index_is_refused(gallery, tmp_path):
    indexes.save(indexes.build("flat", gallery, DIM), tmp_path)
    whole = (tmp_path / "index.faiss").read_bytes()
    (tmp_path / "index.faiss").write_bytes(whole[:-7])
    with pytest.raises(ValueError, match=f"should have {len(whole)} bytes"):
        indexes.load(tmp_path, indexes.fingerprint(gallery))
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match="does not describe an index"):
        indexes.load(tmp_path, indexes.fingerprint(gallery))
    with pytest.raises(FileNotFoundError, match="no finished index"):
        indexes.load(tmp_path / "nowhere", indexes.fingerprint(gallery))


@pytest.mark.parametrize(
    ("kind", "dim", "rows", "message"),
    [
        ("hsnw", 8, 100, "did you mean 'hnsw'"),
        ("flat", 17, 100, r"dim=17 is not in 1\.\.16"),
        ("pq_fast", 5, 1000, "a dim that 2 divides"),
        ("pq_fast", 8, 500, "needs 624 rows to train, not 500: use 'flat'"),
    ],
)
def test_what_cannot_be_built_is_refused(gallery, kind, dim, rows, message):
    with pytest.raises(ValueError, match=message):
        indexes.build(kind, gallery[:rows], dim)


@pytest.mark.parametrize("kind", ["flat", "binary", "ivf"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_values_that_are_not_finite_are_refused_before_any_training(gallery, monkeypatch, kind, value):
    broken = gallery.copy()
    broken[7531, DIM - 1] = value
    monkeypatch.setattr(indexes, "BLOCK_ROWS", 1000)
    with pytest.raises(ValueError, match="gallery: row 7531 is not finite"):
        indexes.build(kind, broken, DIM)


def test_inner_products_without_copies(gallery):
    rows = np.array([[3, -1, 9999], [0, 5, 5]])
    found = indexes.products_of(gallery[:2], gallery, rows, 4)
    assert found[0, 1] == -np.inf
    expected = np.einsum("qm,qkm->qk", gallery[:2, :4], gallery[rows][..., :4])
    np.testing.assert_allclose(np.delete(found.ravel(), 1), np.delete(expected.ravel(), 1), rtol=1e-5, atol=1e-5)


def test_without_the_library_the_remedy_is_named(gallery, monkeypatch):
    monkeypatch.setattr(indexes, "available", lambda: False)
    with pytest.raises(ImportError, match=r"pip install 'mrl_jax\[retrieval\]'"):
        indexes.build("flat", gallery, DIM)

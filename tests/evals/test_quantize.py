import numpy as np
import pytest

from mrl_jax import indexes
from mrl_jax.evals import quantize, retrieval
from mrl_jax.evals.gallery import Gallery


@pytest.fixture
def vectors():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(520, 32)) * np.exp(-np.arange(32) / 10) + 0.1
    return z[:20].astype(np.float32), z[20:].astype(np.float32)


@pytest.mark.parametrize("dim", [1, 7, 32])
def test_int8_is_off_by_half_a_step_at_most(vectors, dim):
    code = quantize.calibrate(vectors[1], dim, quantile=1.0)
    unit = indexes.unit(vectors[1], dim)
    codes = code.encode(vectors[1])
    assert (codes.dtype, codes.shape) == (np.int8, (500, dim))
    assert (np.abs(code.decode(codes) - unit) <= code.scale / 2 + 1e-6).all()
    assert dim == 1 or (np.ptp(codes.astype(int), axis=0) >= 253).all()  # the whole range is used


def test_what_lies_outside_the_calibrated_range_is_cut_off(vectors):
    code = quantize.calibrate(vectors[1], 8, quantile=0.5)
    codes = code.encode(vectors[1])
    assert 0.3 < (np.abs(codes) == 127).mean() < 0.6


def test_bits_split_every_feature_in_the_middle(vectors):
    z = np.abs(vectors[1])
    bits = np.unpackbits(quantize.bits_above(z, quantize.thresholds(z, 9)), axis=1)[:, :9]
    np.testing.assert_allclose(bits.mean(axis=0), 0.5, atol=0.01)
    assert quantize.bits_above(np.eye(9, dtype=np.float32), np.full(9, 0.5)).tolist()[0] == [128, 0]


@pytest.mark.parametrize("dim", [5, 16, 32])
def test_hamming_search_equals_the_naive_one_ties_included(vectors, dim, monkeypatch):
    monkeypatch.setattr(quantize, "BLOCK_ROWS", 64)
    monkeypatch.setattr(quantize, "QUERY_ROWS", 7)
    queries, gallery = vectors
    gallery = np.abs(gallery)  # as after a ReLU: zero tells none of these apart
    codes = quantize.Codes(Gallery(gallery), dim, 1)
    distances, rows = codes.search(indexes.unit(queries, dim), 30)
    above = [indexes.unit(z, dim) > codes.thresholds for z in (queries, gallery)]
    differing = (above[0][:, None] != above[1][None]).sum(axis=2)
    expected = np.argsort(differing, axis=1, kind="stable")[:, :30]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(distances, np.take_along_axis(differing, expected, 1))


def test_int8_search_equals_search_of_what_the_codes_stand_for(vectors):
    queries, gallery = vectors
    codes = quantize.Codes(Gallery(gallery), 16, 8)
    decoded = codes.calibration.decode(codes.codes)
    rows = codes.search(indexes.unit(queries, 16), 5)[1]
    cosines = indexes.unit(queries, 16) @ indexes.unit(decoded, 16).T
    np.testing.assert_array_equal(rows, np.argsort(-cosines, axis=1, kind="stable")[:, :5])


@pytest.mark.parametrize(("bits", "dim", "size"), [(8, 32, 32), (8, 8, 8), (1, 32, 4), (1, 12, 2)])
def test_rescoring_by_floats_mends_what_codes_misorder(vectors, bits, dim, size):
    queries, gallery = vectors[0], Gallery(vectors[1])
    codes = quantize.Codes(gallery, dim, bits)
    assert codes.bytes_per_row == size
    truth = retrieval.adaptive_search(queries, gallery, 32, k=5)[1]
    share = lambda rows: np.mean([len(set(a) & set(b)) / 5 for a, b in zip(truth, rows)])  # noqa: E731
    plain = retrieval.adaptive_search(queries, gallery, dim, index=codes, k=5)[1]
    rescored = retrieval.adaptive_search(queries, gallery, dim, ((100, 32),), index=codes, k=5)[1]
    assert share(rescored) >= share(plain)
    assert share(rescored) > (0.95 if bits == 8 else 0.6)
    whole = retrieval.adaptive_search(queries, gallery, dim, ((500, 32),), index=codes, k=5)[1]
    np.testing.assert_array_equal(whole, truth)


def test_bad_input(vectors):
    gallery = Gallery(vectors[1])
    with pytest.raises(ValueError, match="bits=4 a feature"):
        quantize.Codes(gallery, 8, 4)
    with pytest.raises(ValueError, match="dim=33"):
        quantize.Codes(gallery, 33, 8)
    with pytest.raises(ValueError, match="dim=33"):
        quantize.Codes(gallery, 33, 1)
    with pytest.raises(ValueError, match="k=501"):
        quantize.Codes(gallery, 8, 1).search(vectors[0][:, :8], 501)
    with pytest.raises(ValueError, match="quantile=0"):
        quantize.calibrate(vectors[1], 8, 0)
    for bits in quantize.BITS:
        with pytest.raises(ValueError, match="for codes of dim 8"):
            quantize.Codes(gallery, 8, bits).search(vectors[0][:, :9], 5)
    vectors[1][3, 2] = np.nan
    with pytest.raises(ValueError, match="sample: 1 rows are not finite, the first is row 3"):
        quantize.calibrate(vectors[1], 8)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("bits", quantize.BITS)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_values_that_are_not_finite_are_refused_and_never_coded(vectors, monkeypatch, bits, value):
    queries, gallery = vectors
    monkeypatch.setattr(quantize, "BLOCK_ROWS", 100)  # calibration reads as many rows, and row 4 is none of them
    codes = quantize.Codes(Gallery(gallery), 8, bits)
    queries[7, 5] = gallery[4, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        codes.search(queries[:, :8], 5)
    with pytest.raises(ValueError, match="features: 1 rows are not finite, the first is row 4"):
        quantize.Codes(Gallery(gallery), 8, bits)
    with pytest.raises(ValueError, match="sample: 1 rows are not finite, the first is row 4"):
        quantize.thresholds(gallery, 8)

"""Search of pairs and zero-shot classification, on embeddings made up for it."""

import numpy as np
import pytest

from mrl_jax.evals import pair_retrieval
from mrl_jax.evals.features import Features
from mrl_jax.evals.pair_retrieval import PairRetrieval
from mrl_jax.evals.zero_shot import ZeroShot
from mrl_jax.nesting import Nesting


class Store:
    """The features given, as evaluators see them."""

    nesting = Nesting((2, 8))

    def __init__(self, features, names=None, prompts=None):
        self._features, self._names, self._prompts = features, names, prompts

    def __call__(self, split):
        return self._features

    def label_names(self, split):
        return self._names

    def tokenize(self, texts):
        return np.array([[self._prompts.index(text)] for text in texts]), 0

    def embed(self, batch):
        return np.eye(8, dtype=np.float32)[batch["tokens"][:, 0]]


def features(**more):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40, 8)).astype(np.float32)
    pair = z.copy()
    pair[:, :2] += rng.normal(size=(40, 2))  # the first dims tell less
    return Features(z, np.arange(40, dtype=np.int32), pair, np.arange(40, dtype=np.int32), **more)


def by_hand(queries, gallery, captions, dim, k):
    a, b = (x[:, :dim] / np.linalg.norm(x[:, :dim], axis=1, keepdims=True) for x in (queries, gallery))
    best = np.argsort(-(a @ b.T), axis=1)[:, :k]
    return np.mean([captions[i] in captions[row] for i, row in enumerate(best)])


def test_recall_is_that_of_a_sort_in_both_directions():
    found = features()
    values = dict(PairRetrieval(dims=(2, 5, 8)).run(Store(found)))
    for dim in (2, 5, 8):
        for k in (1, 5, 10):
            expected = by_hand(found.z_NxD, found.pair_NxD, found.caption_N, dim, k)
            np.testing.assert_allclose(values[f"to_pair_r{k}@{dim}"], expected)
            expected = by_hand(found.pair_NxD, found.z_NxD, found.caption_N, dim, k)
            np.testing.assert_allclose(values[f"from_pair_r{k}@{dim}"], expected)
    assert values["to_pair_r1@2"] < values["to_pair_r1@8"]


def test_an_equal_caption_is_right_too():
    found = features()
    captions = np.repeat(np.arange(20, dtype=np.int32), 2)
    # Each caption is nearest to the picture of the next row: that of an equal one in every other row.
    z, pair = np.roll(found.z_NxD, 1, axis=0), found.pair_NxD
    one = dict(PairRetrieval(dims=(8,)).run(Store(found._replace(z_NxD=z, pair_NxD=pair))))
    two = dict(PairRetrieval(dims=(8,)).run(Store(found._replace(z_NxD=z, pair_NxD=pair, caption_N=captions))))
    assert one["from_pair_r1@8"] < two["from_pair_r1@8"]


def of_several_captions(images, captions):
    """Orthogonal images with several captions each, in an order that mixes them; a caption is where its image is."""
    image_N = np.random.default_rng(1).permutation(np.repeat(np.arange(images, dtype=np.int32), captions))
    z, own = np.eye(8, dtype=np.float32)[image_N], np.arange(len(image_N), dtype=np.int32)
    return Features(z, own, z.copy(), own, picture_N=image_N)


def test_all_captions_of_an_image_are_right():
    values = dict(PairRetrieval(dims=(8,)).run(Store(of_several_captions(8, 5))))
    assert {name: value for name, value in values.items() if value != 1} == {}


def test_what_comes_several_times_stands_in_the_gallery_once():
    found = of_several_captions(8, 6)
    astray = found.z_NxD.copy()
    astray[found.picture_N == 0, :2] = 0.6, 0.8  # image 1 is nearer to the captions of image 0
    rest = 1 - 1 / 8
    values = dict(PairRetrieval(dims=(8,)).run(Store(found._replace(pair_NxD=astray))))
    assert values["from_pair_r1@8"] == rest
    assert values["from_pair_r5@8"] == 1  # six rows of image 1 are one rival
    turned = Features(astray, found.label_N, found.z_NxD, found.picture_N, picture_N=found.caption_N)
    values = dict(PairRetrieval(dims=(8,)).run(Store(turned)))  # a caption of several images
    np.testing.assert_allclose([values["to_pair_r1@8"], values["mrr10@8"]], [rest, rest + 0.5 / 8])
    np.testing.assert_allclose(values["ndcg10@8"], rest + 1 / np.log2(3) / 8)


def test_a_text_on_both_sides_does_not_find_itself_unless_it_is_its_own_pair():
    first, second = np.array([0, 1, 2, 3, 4], np.int32), np.array([1, 0, 3, 2, 4], np.int32)
    place = np.eye(5, dtype=np.float32) + 0.1 * np.eye(5, dtype=np.float32)[second]  # next to itself, its pair
    found = Features(place[first], first, place[second], second, np.full(5, np.nan, np.float32), first)
    values = dict(PairRetrieval(dims=(5,)).run(Store(found)))
    assert {name: value for name, value in values.items() if value != 1 and "spearman" not in name} == {}
    values = dict(PairRetrieval(dims=(5,)).run(Store(found._replace(score_N=None))))
    assert values["to_pair_r1@5"] == 1 / 5


def test_gain_and_rank_by_hand():
    hits = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]], bool)
    np.testing.assert_allclose(pair_retrieval.mrr(hits), [0.5, 0, 1])
    first = (1 / np.log2(3) + 1 / 2) / (1 + 1 / np.log2(3))
    np.testing.assert_allclose(pair_retrieval.ndcg(hits, np.array([2, 1, 1])), [first, 0, 1])


def test_correlation_is_one_for_scores_that_are_the_cosines():
    found = features()
    score = np.sum(found.z_NxD * found.pair_NxD, 1)
    score = score / np.linalg.norm(found.z_NxD, axis=1) / np.linalg.norm(found.pair_NxD, axis=1)
    values = dict(PairRetrieval(dims=(2, 8)).run(Store(features(score_N=score))))
    np.testing.assert_allclose(values["spearman@8"], 1.0, atol=1e-3)
    assert values["spearman@2"] < 0.9
    assert "spearman@8" not in dict(PairRetrieval(dims=(8,)).run(Store(features(score_N=score * np.nan))))


def test_sides_that_do_not_match_are_refused():
    z = np.ones((4, 8), np.float32)
    with pytest.raises(ValueError, match=r"\(4, 8\) and gallery \(4, 6\).*the same dims"):
        pair_retrieval.ranked_hits(z, z[:, :6], np.arange(4), (2,))
    with pytest.raises(ValueError, match="has no pairs"):
        list(PairRetrieval().run(Store(features()._replace(pair_NxD=None))))


def test_zero_shot_takes_the_nearest_name_among_the_classes_shown():
    names = tuple(f"c{i}" for i in range(6))
    label = np.array([0, 2, 2, 5], np.int32)
    prompts = [f"a {n}" for n in names] + ["x", "y"]
    z = np.eye(8, dtype=np.float32)[[0, 2, 5, 5]] + 0.01
    store = Store(Features(z, label), names, prompts)
    values = dict(ZeroShot(templates=("a {}",), dims=(3, 8)).run(store))
    assert values["top1@8"] == 0.75
    assert values["top5@8"] == 1.0
    assert values["top1@3"] <= 0.75  # class 5 has nothing in its first three dims
    with pytest.raises(ValueError, match="needs names of classes"):
        list(ZeroShot().run(Store(Features(z, label))))
    with pytest.raises(ValueError, match=r"needs one \{\}"):
        ZeroShot(templates=("a photo",))

"""The study of pictures and texts: the cuts of a model that was not nested, its captions, and what it prints."""

import numpy as np
import pytest
from command import finish, start

from experiments import found_pictures, linear_maps, seeds
from mrl_jax.data import sources
from mrl_jax.data.text.tokenizer import Tokenizer
from mrl_jax.evals.features import Features
from mrl_jax.nesting import Nesting

DIM = 8
NESTING = Nesting((2, 4, DIM))


class Store:
    """Embeddings of pictures and texts that lie in a plane, all but a little, and apart."""

    nesting, label_names, tokenize = Nesting((DIM,)), None, staticmethod(len)

    def __init__(self):
        rng = np.random.default_rng(0)
        self.plane_2xD = np.linalg.qr(rng.normal(size=(DIM, 2)))[0].T
        z_NxD = rng.normal(size=(64, 2)) @ self.plane_2xD + 0.01 * rng.normal(size=(64, DIM))
        noise_NxD = 0.01 * rng.normal(size=(64, DIM))
        self.z_NxD, self.pair_NxD = (x.astype(np.float32) for x in (z_NxD, z_NxD + noise_NxD))

    def __call__(self, split):
        return Features(self.z_NxD, np.zeros(64, np.int32), pair_NxD=self.pair_NxD)

    def embed(self, batch):
        return self.pair_NxD[batch["rows"]]


@pytest.fixture(scope="module")
def stores():
    return linear_maps.of_pairs(Store(), NESTING, seed=0)


def unit(z_NxD):
    return z_NxD / np.linalg.norm(z_NxD, axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["prefix", "random", "pca"])
def test_a_cut_keeps_everything_at_full_size_and_treats_queries_as_it_does_the_texts_of_a_split(stores, name):
    found, given = stores[name]("test"), Store()
    means = [0.0, 0.0] if name != "pca" else [unit(z).mean(axis=0) for z in (given.z_NxD, given.pair_NxD)]
    products = (unit(given.z_NxD) - means[0]) @ (unit(given.pair_NxD) - means[1]).T
    np.testing.assert_allclose(found.z_NxD @ found.pair_NxD.T, products, atol=1e-5)
    np.testing.assert_array_equal(stores[name].embed({"rows": [3, 5]}), found.pair_NxD[[3, 5]])
    assert stores[name].nesting == NESTING


def test_principal_components_hold_in_two_dims_what_lies_in_a_plane(stores):
    def kept(name):
        z_NxD = stores[name]("test").z_NxD
        return (z_NxD[:, :2] ** 2).sum() / (z_NxD**2).sum()

    assert kept("pca") > 0.99 > 0.9 > kept("prefix")
    np.testing.assert_allclose(stores["prefix"]("test").z_NxD, unit(Store().z_NxD), atol=1e-6)
    first, shuffled = (stores[name]("test").z_NxD[0] for name in ("prefix", "random"))
    assert sorted(first) == sorted(shuffled)
    assert first.tolist() != shuffled.tolist()


def test_texts_find_the_nearest_pictures_at_each_dim():
    class Reversed(Store):
        def __init__(self):
            self.z_NxD = np.eye(DIM, dtype=np.float32)
            self.pair_NxD = self.z_NxD + 0.1 * self.z_NxD[:1]

        tokenize = staticmethod(lambda texts: ([int(text) for text in texts], 0))

        def embed(self, batch):
            return self.pair_NxD[batch["tokens"]]

    rows = found_pictures.search(Reversed(), ["3", "1"], (2, DIM), 2)
    assert rows.shape == (2, 2, 2)
    assert rows[0].tolist() == [[0, 1], [3, 0]]  # of the 3 nothing is left in 2 dims
    assert rows[1, 1].tolist() == [1, 0]


def test_emoji_are_split_by_vendor_and_captions_of_training_have_keywords_by_turns(tmp_path):
    np.savez(
        tmp_path / "emoji.npz",
        x=np.arange(7, dtype=np.uint8)[:, None, None, None] * np.full((1, 4, 4, 3), 30, np.uint8),
        y=np.array([0, 0, 1, 2, 0, 3, 0]),
        vendor=np.array([0, 1, 1, 0, 0, 0, 2]),
        skin=np.array([0, 0, 0, 0, 1, 0, 0]),
        label=np.array(["red heart", "dog", "sun", "flag: Chad"]),
        tags=np.array(["heart|love|emotion", "pet", "sun", "flag"]),
        sets=np.array(["apple", "noto", "twemoji"]),
    )
    made = tmp_path / "made"
    finish(start("experiments.emoji_captions", f"--npz={tmp_path / 'emoji.npz'}", f"--data_dir={made}"))

    def rows(split):
        source = sources.load("array_record:made", split, data_dir=tmp_path)
        records = [source.records[i] for i in range(len(source.records))]
        decode = Tokenizer(source.vocabulary.path)._inner.decode
        return sorted((decode(row["tokens"]), source.label_names[row["label"]]) for row in records)

    # Neither skin tones nor flags; "heart" is in the name already.
    assert rows("train") == [("red heart, love", "red heart")] * 2 + [("sun", "sun")]
    assert rows("test") == [("red heart", "red heart")]  # nobody else drew the dog


def test_tables_have_the_mean_over_seeds_and_gaps_where_a_model_has_no_such_dim():
    values = [{"mrl": {"knn/top1@8": value, "knn/top1@16": 1.0}, "ff": {"knn/top1@8": 0.5}} for value in (0.0, 1.0)]
    found = seeds.by_dim(values, (8, 16))
    assert found["knn/top1"]["mrl"]["8"] == {"mean": 50.0, "std": 70.71}
    head, nested, alone = seeds.table(found["knn/top1"], (8, 16))
    assert head.split() == ["dims", "8", "16"]
    assert nested.split() == ["mrl", "50.00±70.71", "100.00±", "0.00"]
    assert alone.split() == ["ff", "50.00±", "0.00"]
    once = seeds.by_dim(values[:1], (8, 16))["knn/top1"]
    assert once["mrl"]["16"] == {"mean": 100.0, "std": None}  # one seed has no spread
    assert seeds.table(once, (8, 16))[1].split() == ["mrl", "0.00", "100.00"]

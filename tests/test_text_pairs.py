"""A run on pairs of texts, to the values of its evaluation."""

import tiny

from mrl_jax import config as defaults
from mrl_jax import results, train

DATA = "synthetic:size=8,channels=1,classes=20,examples=48,context=8,vocabulary=40"


def test_sentence_embeddings_are_trained_and_searched(tmp_path):
    config = tiny.config(
        data__name=DATA,
        data__kind="text_pair",
        head="none",
        model=defaults.bert("mu") | {"dropout": 0.0, "pool": "mean"},
        loss={"name": "contrastive", "chunk": 0, "duplicates": "negatives"},
        evals={"pairs": {"name": "pair_retrieval", "every": 0, "split": "test", "dims": ()}},
        total_steps=2,
    )
    assert train.train(config, tmp_path)
    values = results.read(tmp_path)["pairs"]["values"]
    assert {"to_pair_r1@4", "from_pair_r10@32", "ndcg10@8", "mrr10@8"} <= values.keys()
    assert not any(name.startswith("spearman") for name in values), "the data have no scores"

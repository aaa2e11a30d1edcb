"""Masked language modelling (Table 7)."""

from experiments.entry import Column, Ours, Published, Setting, Table, dims

_SETTING = Setting(
    "BERT-Base on Wikipedia and BookCorpus", "array_record:wikipedia_bookcorpus", {"name": "bert", "variant": "Base"}
)


def _column(name: str, run: str) -> Column:
    published = Published("Table 7", "mlm_top1_%", name)
    return Column(name, "masked pieces guessed, %", published, Ours(run, "masked_lm", dims("top1")))


TABLES = {
    "table7": Table(
        title="Table 7: masked language modelling",
        setting=_SETTING,
        row="dim",
        columns=(_column("BERT-MRL", "mrl_e"), _column("BERT-FF", "ff")),
        train=("bert_mrl_e", "bert_ff"),
        measure=("python -m mrl_jax.evaluate --workdir={runs}/bert_mrl_e",),
        note="The head is tied to the embeddings of the pieces, so that MRL is MRL-E. How long the paper's texts are "
        "is not stated; ours compare with it where such a corpus is prepared as wikipedia_bookcorpus.",
    ),
}

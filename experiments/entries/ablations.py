"""Fine-tuning, loss weights, smallest dim and granularity (appendix K)."""

from experiments.entries.settings import R50
from experiments.entry import Column, Ours, Published, Table, dims

_UNFROZEN = {
    "fc": "fc",
    "conv3": "",
    "conv2": "layer4.2 conv2,conv3 + fc",
    "block": "layer4.2 full + fc",
}


def _head(name: str, run: str, published: Published | None = None) -> Column:
    return Column(name, "top-1 %", published, Ours(run, "classification", dims("top1")))


def _knn(name: str, run: str, published: Published | None = None) -> Column:
    return Column(name, "1-NN top-1 %", published, Ours(run, "knn", dims("top1")))


def _tuned(run: str, unfrozen: str) -> Column:
    setting = f"finetune MRL heads on FF-2048, unfrozen: {unfrozen}"
    published = Published("Table 26", "top1_%", "MRL-finetune", setting) if unfrozen else None
    return _head(f"MRL heads on FF, trained: {run}", run, published)


def _evaluate(*runs: str) -> tuple[str, ...]:
    return tuple(f"python -m mrl_jax.evaluate --workdir={{runs}}/{run}" for run in runs)


_MRL = Published("Table 1 / Fig 2", "top1_%", "MRL")

TABLES = {
    "table26": Table(
        title="Table 26: nested heads fine-tuned on a fixed-feature model",
        setting=R50,
        row="dim",
        columns=(*(_tuned(run, unfrozen) for run, unfrozen in _UNFROZEN.items()), _head("MRL", "equal", _MRL)),
        train=("ff_full", *_UNFROZEN, "mrl"),
        measure=_evaluate(*_UNFROZEN, "mrl"),
    ),
    "table27": Table(
        title="Table 27: weights of the dims in the loss",
        setting=R50,
        row="dim",
        columns=(
            _head("MRL-8boost", "8boost", Published("Table 27", "top1_%", "MRL-8boost")),
            _head("MRL-8+16boost", "8+16boost"),
            _head("MRL", "equal", _MRL),
        ),
        train=("8boost", "8+16boost", "mrl"),
        measure=_evaluate("8boost", "8+16boost", "mrl"),
    ),
    "table28": Table(
        title="Table 28: the smallest dim",
        setting=R50,
        row="dim",
        columns=(
            _head("MRL-4", "smallest=4", Published("Table 28", "top1_%", "MRL-4")),
            _head("MRL-6", "smallest=6"),
            _head("MRL-8", "equal", _MRL),
        ),
        train=("smallest=4", "smallest=6", "mrl"),
        measure=_evaluate("smallest=4", "smallest=6", "mrl"),
    ),
    "table29": Table(
        title="Table 29: uniform instead of halving dims",
        setting=R50,
        row="dim",
        columns=(
            _knn("MRL-Uniform", "uniform", Published("Table 29", "top1_1nn_%", "MRL-Uniform")),
            _knn("MRL-Log", "equal", Published("Table 2 / Fig 3", "top1_1nn_%", "MRL")),
            _head("MRL-Uniform", "uniform"),
            _head("MRL-Log", "equal", _MRL),
        ),
        train=("uniform", "mrl"),
        measure=(
            "python -m mrl_jax.evaluate --workdir={runs}/uniform --dims={halving_to_256}",
            "python -m mrl_jax.evaluate --workdir={runs}/mrl --dims={halving_to_256}",
        ),
    ),
}

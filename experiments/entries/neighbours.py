"""1-NN of ViTs pretrained on much more data (Tables 4 and 5)."""

from experiments.entries.settings import JFT
from experiments.entry import Column, Ours, Published, Table, dims

_OURS = {"JFT-ViT-MRL": "mrl", "JFT-ViT-MRL-E": "mrl_e", "JFT-ViT (random features)": "ff_full"}
_METHOD = {"mrl": "knn", "mrl_e": "knn", "ff_full": "random_features_knn"}


def _column(name: str) -> Column:
    run = _OURS.get(name)
    ours = Ours(run, "imagenet_knn", dims(f"{_METHOD[run]}_top1")) if run else None
    return Column(name, "1-NN top-1 %", Published("Table 4 / Fig 4", "top1_1nn_%", name), ours)


def _between(name: str) -> Column:
    """Of the model of this name, at powers of two, which it was not trained for."""
    pattern = r"knn_top1@(?P<dim>16|32|64|128|256|512)"
    ours = Ours(_OURS[name], "imagenet_knn", pattern) if name in _OURS else None
    return Column(f"{name}, between", "1-NN top-1 %", Published("Table 5 / Fig 5", "top1_1nn_%", name), ours)


def _measure(run: str, method: str) -> tuple[str, str]:
    embed = (
        f"python -m mrl_jax.embed --workdir={{runs}}/{run} --dataset={{test}} --split={{train_split}},{{test_split}} "
        f"--out={{runs}}/{run}/features/imagenet --data_dir={{data}}"
    )
    probe = (
        f"python -m mrl_jax.probe --train={{runs}}/{run}/features/imagenet/{{train_split}} "
        f"--test={{runs}}/{run}/features/imagenet/{{test_split}} --out={{runs}}/{run} --name=imagenet_knn "
        f"--methods={method} --dims={{vit_dims}}"
    )
    return embed, probe


TABLES = {
    "table4": Table(
        title="Tables 4 and 5, Figure 4: 1-NN of ViT-B/16 pretrained on JFT-300M or ALIGN",
        setting=JFT,
        row="dim",
        columns=(
            *(_column(name) for name in (*_OURS, "ALIGN-MRL", "ALIGN (random features)")),
            *(_between(name) for name in ("JFT-ViT-MRL", "ALIGN-MRL")),
        ),
        train=("jft_mrl", "jft_mrl_e", "jft_ff"),
        measure=(
            *_measure("jft_mrl", "knn"),
            *_measure("jft_mrl_e", "knn"),
            *_measure("jft_ff", "random_features_knn"),
        ),
        note="JFT-300M and ALIGN are not public; the runs here are of classifiers alone, not of image-text pairs.",
    ),
}

"""1-NN of ViTs pretrained on much more data (Tables 4 and 5)."""

from experiments.entries.settings import ALIGN, JFT
from experiments.entry import Column, Ours, Published, Setting, Table, dims

# The run of each method as its config tells it, and what is measured of it.
_OURS = {
    "JFT-ViT-MRL": ("mrl", "knn"),
    "JFT-ViT-MRL-E": ("mrl_e", "knn"),
    "JFT-ViT (random features)": ("ff_full", "random_features_knn"),
    "ALIGN-MRL": ("pairs", "knn"),
    "ALIGN (random features)": ("pairs_ff_full", "random_features_knn"),
}


def _column(name: str) -> Column:
    run, method = _OURS[name]
    ours = Ours(run, "imagenet_knn", dims(f"{method}_top1"))
    return Column(name, "1-NN top-1 %", Published("Table 4 / Fig 4", "top1_1nn_%", name), ours, _setting(name))


def _between(name: str) -> Column:
    """Of the model of this name, at powers of two, which it was not trained for."""
    pattern = r"knn_top1@(?P<dim>16|32|64|128|256|512)"
    published = Published("Table 5 / Fig 5", "top1_1nn_%", name)
    ours = Ours(_OURS[name][0], "imagenet_knn", pattern)
    return Column(f"{name}, between", "1-NN top-1 %", published, ours, _setting(name))


def _setting(name: str) -> Setting | None:
    return ALIGN if name.startswith("ALIGN") else None


def _measure(run: str, method: str, dims: str) -> tuple[str, str]:
    embed = (
        f"python -m mrl_jax.embed --workdir={{runs}}/{run} --dataset={{test}} --split={{train_split}},{{test_split}} "
        f"--out={{runs}}/{run}/features/imagenet --data_dir={{data}}"
    )
    probe = (
        f"python -m mrl_jax.probe --train={{runs}}/{run}/features/imagenet/{{train_split}} "
        f"--test={{runs}}/{run}/features/imagenet/{{test_split}} --out={{runs}}/{run} --name=imagenet_knn "
        f"--methods={method} --dims={dims}"
    )
    return embed, probe


TABLES = {
    "table4": Table(
        title="Tables 4 and 5, Figure 4: 1-NN of ViT-B/16 pretrained on JFT-300M or ALIGN",
        setting=JFT,
        row="dim",
        columns=(
            *(_column(name) for name in _OURS),
            *(_between(name) for name in ("JFT-ViT-MRL", "ALIGN-MRL")),
        ),
        train=("jft_mrl", "jft_mrl_e", "jft_ff", "align_mrl", "align_ff"),
        measure=(
            *_measure("jft_mrl", "knn", "{vit_dims}"),
            *_measure("jft_mrl_e", "knn", "{vit_dims}"),
            *_measure("jft_ff", "random_features_knn", "{vit_dims}"),
            *_measure("align_mrl", "knn", "{pairs_dims}"),
            *_measure("align_ff", "random_features_knn", "{pairs_dims}"),
        ),
        note="JFT-300M and ALIGN are not public. Ours compare where such data are prepared as jft, and as align with "
        "--config.data.name=array_record:align in training.",
    ),
}

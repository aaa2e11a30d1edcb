"""Linear classification (Table 1) and what it is compared with, and 1-NN (Table 2)."""

from experiments.entries.settings import NO_SLIM, R50
from experiments.entry import Column, Ours, Published, Table, dims

_OF_WIDTH = rf"(w[\d.e-]+/)?{dims('top1')}"  # each width has a dim of its own


def _top1(name: str, ours: Ours | None) -> Column:
    return Column(name, "top-1 %", Published("Table 1 / Fig 2", "top1_%", name), ours)


def _nearest(name: str, ours: Ours | None) -> Column:
    return Column(name, "1-NN top-1 %", Published("Table 2 / Fig 3", "top1_1nn_%", name), ours)


def _baseline(name: str, file: str, method: str, unit: str) -> Column:
    """A baseline that the paper does not have."""
    return Column(name, unit, None, Ours("ff_full", file, dims(f"{method}_top1")))


def _head(run: str) -> Ours:
    return Ours(run, "classification", dims("top1"))


def _knn(run: str) -> Ours:
    return Ours(run, "knn", dims("top1"))


def _of_ff(file: str, method: str) -> Ours:
    return Ours("ff_full", file, dims(f"{method}_top1"))


_LINEAR = "head_svd,random_features_sgd,pca_sgd,random_projection_sgd,sgd,learned_head,learned_apart_head"
_NEAREST = "knn,svd_knn,pca_knn,random_features_knn,random_projection_knn,learned_knn,learned_apart_knn"
_EVALUATE = (
    "python -m mrl_jax.evaluate --workdir={runs}/mrl --dims={dims}",
    "python -m mrl_jax.evaluate --workdir={runs}/mrl_e --dims={dims}",
)

TABLES = {
    "table1": Table(
        title="Table 1, Figure 2: linear classification",
        setting=R50,
        row="dim",
        columns=(
            _top1("MRL", _head("mrl")),
            _top1("MRL-E", _head("mrl_e")),
            _top1("FF", _head("ff")),
            _top1("SVD", _of_ff("linear_baselines", "head_svd")),
            _top1("Rand. LP", _of_ff("linear_baselines", "random_features_sgd")),
            _top1("Slim. Net", Ours("slimmable", "classification", _OF_WIDTH)),
            _baseline("First dims of FF, SGD probe", "linear_baselines", "sgd", "top-1 %"),
            _baseline("PCA of FF, SGD probe", "linear_baselines", "pca_sgd", "top-1 %"),
            _baseline("Random projection of FF, SGD probe", "linear_baselines", "random_projection_sgd", "top-1 %"),
            _baseline("Learned projection of FF, nested", "linear_baselines", "learned_head", "top-1 %"),
            _baseline("Learned projection of FF, one per dim", "linear_baselines", "learned_apart_head", "top-1 %"),
        ),
        train=("mrl", "mrl_e", "slimmable", "ff", "ff_full"),
        measure=(
            *_EVALUATE,
            "python -m mrl_jax.probe --workdir={runs}/ff_full --dims={dims} --name=linear_baselines "
            f"--methods={_LINEAR}",
        ),
        note=f"How the paper fitted Rand. LP is not published; ours is the SGD probe. {NO_SLIM}",
    ),
    "table2": Table(
        title="Table 2, Figure 3: 1-NN classification",
        setting=R50,
        row="dim",
        columns=(
            _nearest("MRL", _knn("mrl")),
            _nearest("MRL-E", _knn("mrl_e")),
            _nearest("FF", _knn("ff")),
            _nearest("Rand. FS", _of_ff("knn_baselines", "knn")),
            _nearest("SVD", _of_ff("knn_baselines", "svd_knn")),
            _nearest("Slim. Net", Ours("slimmable", "knn", _OF_WIDTH)),
            _baseline("PCA of FF", "knn_baselines", "pca_knn", "1-NN top-1 %"),
            _baseline("Random features of FF", "knn_baselines", "random_features_knn", "1-NN top-1 %"),
            _baseline("Random projection (JL) of FF", "knn_baselines", "random_projection_knn", "1-NN top-1 %"),
            _baseline("Learned projection of FF, nested", "knn_baselines", "learned_knn", "1-NN top-1 %"),
            _baseline("Learned projection of FF, one per dim", "knn_baselines", "learned_apart_knn", "1-NN top-1 %"),
        ),
        train=("mrl", "mrl_e", "slimmable", "ff", "ff_full"),
        measure=(
            *_EVALUATE,
            f"python -m mrl_jax.probe --workdir={{runs}}/ff_full --dims={{dims}} --name=knn_baselines "
            f"--methods={_NEAREST}",
        ),
        note=f"The paper's Rand. FS are the first dims of FF at full dim. {NO_SLIM}",
    ),
    "table5": Table(
        title="Table 5, Figure 5: 1-NN at dims between the trained ones",
        setting=R50,
        row="dim",
        columns=(
            Column(
                "MRL",
                "1-NN top-1 %",
                Published("Fig 5 / Table 8", "top1_1nn_%", "MRL-Interpolated"),
                Ours("mrl", "knn", dims("top1")),
            ),
        ),
        train=("mrl",),
        measure=("python -m mrl_jax.evaluate --workdir={runs}/mrl --evals=knn",),
        note="Those of the ViTs stand in table4.",
    ),
}

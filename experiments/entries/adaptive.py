"""Adaptive classification (Table 3), and what routing could gain at best (Tables 22, 23)."""

from experiments.entries.settings import R50_FLIPS, of_flips
from experiments.entry import Column, Ours, Published, Table, dims

_PLOTTED, _RERUN = "Table 3 / Fig 6", "Repo notebook (cf. Table 3)"


def _cascade(metric: str, details: str, unit: str, scale: float) -> tuple[Column, Column]:
    """Of the run that the paper plots, and of the repeated splits that the authors' notebook shows."""
    ours = Ours("mrl", "adaptive", row="max={dim}", scale=scale, details=details, of="caps")
    again = "top1_%_mean" if metric == "top1_%" else f"{metric}_mean"
    return (
        Column("MRL-AC, as plotted", unit, Published(_PLOTTED, metric, "MRL-AC"), ours),
        Column("MRL-AC, mean of 30 splits", unit, Published(_RERUN, again, "MRL-AC"), ours),
    )


def _of_images(which: str) -> Published:
    return Published("Table 22", "percent_of_val", "MRL", f"ImageNet-1K images {which}")


def _all(name: str, unit: str, published: Published, details: str, scale: float) -> Column:
    return Column(name, unit, published, Ours("mrl", "oracle", row="all", scale=scale, details=details))


TABLES = {
    "table3": Table(
        title="Table 3, Figure 6: adaptive classification",
        setting=R50_FLIPS,
        row="cap",
        columns=(
            *_cascade("top1_%", "accuracy/mean", "top-1 %", 100.0),
            *_cascade("expected_dim", "expected_dim/final/mean", "expected dim, the final one counted", 1.0),
            Column(
                "MRL-AC",
                "expected dim, all on the way counted",
                None,
                Ours("mrl", "adaptive", row="max={dim}", scale=1.0, details="expected_dim/cumulative/mean", of="caps"),
            ),
            Column(
                "MRL",
                "top-1 % of one dim for all",
                Published("Fig 6 / Table 17 (V1)", "top1_%", "MRL"),
                Ours("mrl", "classification", dims("top1")),
            ),
            Column(
                "FF",
                "top-1 % of one dim for all",
                Published("Fig 6 / Table 17 (V1)", "top1_%", "FF"),
                Ours("ff", "classification", dims("top1")),
            ),
        ),
        train=("mrl", "ff", "ff_full"),
        measure=(
            "python -m mrl_jax.study adaptive --workdir={runs}/mrl --splits=30 {flips}",
            *(of_flips(run) for run in ("mrl", "ff{each_dim}", "ff_full")),
        ),
        note="A cap of max=128 is the cascade from the smallest dim up to 128.",
    ),
    "table22": Table(
        title="Tables 22 and 23: the first dim that is right, the oracle, the vote",
        setting=R50_FLIPS,
        row="dim",
        columns=(
            Column(
                "MRL",
                "first right at this dim, % of the images",
                Published(
                    "Table 22", "percent_of_val", "MRL", "ImageNet-1K images first predicted correctly at this size"
                ),
                Ours("mrl", "oracle", dims("first_correct")),
            ),
            _all(
                "MRL",
                "never right, % of the images",
                _of_images("never predicted correctly"),
                "never_correct",
                100.0,
            ),
            _all("MRL-Oracle", "top-1 %", Published("Table 23", "top1_%", "MRL-Oracle"), "oracle_accuracy", 100.0),
            _all(
                "MRL-Oracle",
                "expected dim",
                Published("Repo notebook", "expected_dim", "MRL-Oracle"),
                "expected_dim",
                1.0,
            ),
            _all(
                "MRL, vote of all dims", "top-1 %", Published("Repo notebook", "top1_%", "MRL"), "majority_vote", 100.0
            ),
        ),
        train=("mrl",),
        measure=(
            "python -m mrl_jax.study oracle --workdir={runs}/mrl {flips}",
            "python -m mrl_jax.study disagreement --workdir={runs}/mrl {flips}",
            "python -m mrl_jax.study trends --workdir={runs}/mrl {flips}",
        ),
    ),
}

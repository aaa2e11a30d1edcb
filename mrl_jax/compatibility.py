"""Can one model's queries search another model's gallery? The table of all pairs, and which of them are compatible.

python -m mrl_jax.compatibility --queries=old:features/a/query,new:features/b/query \\
    --galleries=old:features/a/gallery,new:features/b/gallery --out=studies/upgrade
python -m mrl_jax.compatibility ... --dims=8,64,256 --metrics=map,cmc@1,tar@1e-3 --independent=alone
python -m mrl_jax.compatibility ... --ground_truth=gnd_roxford5k.pkl --difficulty=medium --metrics=map_trapezoid
python -m mrl_jax.compatibility --queries=old:a/query,new:b/query \\
    --galleries=old:a/gallery1+a/gallery2,new:b/gallery1+b/gallery2 --pairs=ijbc_template_pair_label.txt --out=o

Rows are models of the queries, columns models of the gallery, each a folder that `embed` wrote (one per split), from
the oldest or smallest model to the newest or largest; A+B is the rows of two folders. Models may differ in size: their
common prefix is compared. Where both sides have cameras, items of the query's own identity and camera do not count;
identity -1 is junk. With --pairs only the pairs of a file count, its lines GALLERY QUERY SAME.
Metrics: map, map@K, map_trapezoid, minp, cmc@K, r@K, tar@FAR, tpir@FPIR. Writes results/compatibility.json,
plots/compatibility-*.png and report.html below --out.
"""

import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from mrl_jax import commands, matched_sets, report, results
from mrl_jax.choices import whole_numbers
from mrl_jax.evals import compatibility
from mrl_jax.matched_sets import Sets
from mrl_jax.nesting import Nesting

METRICS = ("map", "map@100", "minp", "cmc@1", "cmc@5", "tar@1e-3")
UNKNOWN = "tpir@1e-2"  # added to them where some queries have nothing to find
VERIFICATION = ("tar@1e-4", "tar@1e-5", "tar@1e-3")  # in their place where pairs are given
LINE = 110  # characters
Matrices = Mapping[str, Mapping[int, np.ndarray]]  # by metric and dim: (models of queries, models of galleries)


def matrices(sets: Sets, metrics: Sequence[str], dims: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
    """Every metric at every dim for every pair of models, each pair ranked once a dim."""
    found = {metric: {dim: np.zeros((len(sets.queries), len(sets.galleries))) for dim in dims} for metric in metrics}
    for dim in dims:
        for i, (name, queries) in enumerate(sets.queries.items()):
            for j, (other, gallery) in enumerate(sets.galleries.items()):
                measured = compatibility.measure(queries, gallery, sets.matching, metrics, dim)
                for metric, value in measured.items():
                    found[metric][dim][i, j] = value
                print(f"{name} in {other} at {dim} dims", file=sys.stderr, flush=True)
    return found


def dims_of(sets: Sets, asked: Sequence[int]) -> tuple[int, ...]:
    """The dims to compare: those asked for, by default those that all models were trained at and have.

    Raises:
      ValueError: for a dim that not every model has.
    """
    sizes = {name: z.shape[1] for side in (sets.queries, sets.galleries) for name, z in side.items()}
    most = min(z.shape[1] for side in (sets.queries, sets.galleries) for z in side.values())
    wrong = [dim for dim in asked if not 1 <= dim <= most]
    if wrong:
        raise ValueError(f"--dims={','.join(map(str, asked))}: {wrong} are not in 1..{most}, as the sizes are {sizes}")
    return tuple(sorted(set(asked))) or tuple(dim for dim in sets.dims if dim <= most) or (most,)


def judge(sets: Sets, matrix: np.ndarray, independent: str) -> dict[str, Any] | None:
    """Which pairs hold BCT's criterion, and the update gains; None unless both sides are the same models.

    The gain of a pair is (new in old - old in old) / (reference - old in old). The reference is the self-test of the
    model `independent`, which was trained without regard to the old one, or that of the new model itself. None where
    the reference is no better than the old model: there is no gain to have a part of. With `independent` each pair has
    AdvBCT's scores too.
    """
    names = tuple(sets.queries)
    if names != tuple(sets.galleries) or len(names) < 2:
        return None
    kept = [i for i, name in enumerate(names) if name != independent]
    found = compatibility.compatible_pairs(matrix[np.ix_(kept, kept)])
    gains: dict[str, float | None] = {}
    scores: dict[str, dict[str, float]] = {}
    for new in kept:
        for old in kept[: kept.index(new)]:
            reference = names.index(independent) if independent else new
            values = matrix[new, old], matrix[old, old], matrix[reference, reference]
            possible = values[2] > values[1]
            pair = f"{names[new]} in {names[old]}"
            gains[pair] = compatibility.update_gain(*values) if possible else None
            if independent and possible:
                four = ([matrix[new, new]], *([value] for value in values))
                scores[pair] = compatibility.upgrade_scores(*four)._asdict()

    def pairs(indices):
        return [f"{names[kept[i]]} in {names[kept[j]]}" for i, j in indices]

    return {
        "upgraded": pairs(found.upgraded),
        "served": pairs(found.served),
        "pairs": found.pairs,
        "update_gain": gains,
        "upgrade_scores": scores,
    }


def text(sets: Sets, found: Matrices, judged: Mapping[str, Any]) -> list[str]:
    """The tables, in percent, and what they say of compatibility."""
    lines = []
    for dim in next(iter(found.values())):
        lines.append(f"{dim} dims, in percent (rows: models of the queries, columns: of the gallery)")
        lines += _beside(sets, {metric: by_dim[dim] for metric, by_dim in found.items()})
    for dim, verdict in judged.items():
        lines.append(
            f"At {dim} dims by {next(iter(found))}: new queries beat the old model in its own gallery in "
            f"{len(verdict['upgraded'])} of {verdict['pairs']} pairs, old queries gain from the new gallery in "
            f"{len(verdict['served'])} of {verdict['pairs']}."
        )
        gains = (f"{pair} {'none to have' if g is None else f'{g:.3f}'}" for pair, g in verdict["update_gain"].items())
        lines.append(f"  update gain: {', '.join(gains)}")
        for pair, score in verdict["upgrade_scores"].items():
            lines.append("  {}: P_up {up:.3f}, P_comp {comp:.3f}, P_1 {both:.3f}".format(pair, **score))
    return lines


def _beside(sets: Sets, matrices: Mapping[str, np.ndarray]) -> list[str]:
    """The matrices of one dim, as many beside each other as a line holds."""
    width = max(6, *(len(name) for name in sets.galleries))
    first = max(len(name) for name in sets.queries)
    block = (width + 2) * len(sets.galleries)
    each = max((LINE - first) // (block + 3), 1)
    lines, names = [], list(matrices)
    for start in range(0, len(names), each):
        some = names[start : start + each]
        header = "".join(f"{name:>{width + 2}}" for name in sets.galleries)
        lines.append(" " * first + "".join(f"   {name:^{block}}" for name in some).rstrip())
        lines.append(" " * first + "".join(f"   {header}" for _ in some))
        for row, name in enumerate(sets.queries):
            cells = ("".join(f"{100 * value:{width + 2}.2f}" for value in matrices[metric][row]) for metric in some)
            lines.append(f"{name:>{first}}" + "".join(f"   {part}" for part in cells))
    return lines


def write(out: pathlib.Path, sets: Sets, found: Matrices, judged: Mapping[str, Any], independent: str) -> list[str]:
    """Writes JSON, a heat map of the first metric at each dim, and the page; returns their paths."""
    dims = tuple(next(iter(found.values())))
    values = {
        f"{metric} {query} in {gallery}@{dim}": float(matrix[i, j])
        for metric, by_dim in found.items()
        for dim, matrix in by_dim.items()
        for i, query in enumerate(sets.queries)
        for j, gallery in enumerate(sets.galleries)
    }
    percent = {m: {str(dim): (100 * x).tolist() for dim, x in by_dim.items()} for m, by_dim in found.items()}
    details = {"queries": list(sets.queries), "galleries": list(sets.galleries), "facts": "; ".join(sets.facts)}
    details |= {"made_by": sets.made_by, "independent": independent, "compatible": dict(judged), "percent": percent}
    results.write(
        out,
        {"compatibility": values},
        step=None,
        nesting=Nesting(tuple(dim for dim in dims if dim in sets.dims) or dims),
        head=None,
        command=shlex.join(["python", "-m", "mrl_jax.compatibility", *sys.argv[1:]]),
        details={"compatibility": details},
    )
    metric = next(iter(found))
    maps = [
        results.HeatMap(
            f"compatibility-{metric.replace('@', '_at_')}-{dim}",
            f"{metric}, %, {dim} dims",
            list(sets.queries),
            list(sets.galleries),
            (100 * matrix).tolist(),
            "model of the gallery",
            "model of the queries",
        )
        for dim, matrix in found[metric].items()
    ]
    pictures = [results.draw(out / "plots", picture) for picture in maps]
    return [str(path) for path in (out / "results" / "compatibility.json", *pictures, report.refresh(out))]


def _check_rules(options: Any) -> None:
    """Raises ValueError for an option that says nothing beside the others."""
    rules = [name for name in ("ground_truth", "pairs") if options[name].value]
    if len(rules) > 1:
        raise ValueError("--ground_truth and --pairs both say what counts: give one")
    for name in ("junk", "camera_rule"):
        if rules and options[name].present:
            raise ValueError(f"--{name} cannot go with --{rules[0]}, whose lists say what counts")
    if options["difficulty"].present and not options.ground_truth:
        raise ValueError("--difficulty needs --ground_truth, whose lists say what counts")


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    queries = matched_sets.parse("--queries", options.queries)
    galleries = matched_sets.parse("--galleries", options.galleries)
    dims = whole_numbers("--dims", options.dims)
    compatibility.check_metrics(options.metrics)
    _check_rules(options)
    results.check(options.out)
    if options.independent and not (options.independent in queries and options.independent in galleries):
        raise ValueError(f"--independent={options.independent} must be one of both --queries and --galleries")
    sets = matched_sets.open_sets(
        queries,
        galleries,
        junk=options.junk,
        camera_rule=options.camera_rule,
        truth=options.ground_truth,
        difficulty=options.difficulty,
        pairs=options.pairs,
        max_queries=options.max_queries,
    )
    dims = dims_of(sets, dims)
    known = compatibility.check_known(sets.matching)
    unknown = int((~known).sum())
    by_default = VERIFICATION if options.pairs else METRICS + ((UNKNOWN,) if unknown else ())
    metrics = tuple(options.metrics) or by_default
    compatibility.check_rates(sets.matching, known, metrics)
    facts = [*sets.facts, *([f"{unknown} queries have nothing to find; only tpir asks them"] if unknown else [])]
    sets = sets._replace(facts=facts)
    print("; ".join(facts) + ".")
    found = matrices(sets, metrics, dims)
    judged = {str(dim): judge(sets, matrix, options.independent) for dim, matrix in found[metrics[0]].items()}
    judged = {dim: verdict for dim, verdict in judged.items() if verdict is not None}
    print("\n".join(text(sets, found, judged)))
    print(f"Wrote {', '.join(write(pathlib.Path(options.out), sets, found, judged, options.independent))}")


if __name__ == "__main__":
    flags.DEFINE_list("queries", [], "NAME:FEATURES of each model's queries, from the oldest or smallest on.")
    flags.DEFINE_list("galleries", [], "NAME:FEATURES of each model's gallery.")
    flags.DEFINE_list("dims", [], "Dims to compare; by default those that all models were trained at.")
    flags.DEFINE_list("metrics", [], f"By default {', '.join(METRICS)}, and {UNKNOWN} where queries are unknown.")
    flags.DEFINE_list("junk", [matched_sets.JUNK], "Identities that do not count in the gallery, by name.")
    flags.DEFINE_enum("camera_rule", "auto", matched_sets.CAMERA_RULES, "Whether same identity and camera is left out.")
    flags.DEFINE_string("ground_truth", "", "gnd_roxford5k.pkl or gnd_rparis6k.pkl, in place of identities.")
    flags.DEFINE_enum("difficulty", "medium", list(matched_sets.DIFFICULTIES), "Which of its lists count.")
    flags.DEFINE_string("pairs", "", "A file of lines GALLERY QUERY SAME, such as ijbc_template_pair_label.txt.")
    flags.DEFINE_integer("max_queries", 0, "Ask a sample of so many queries; 0: all.")
    flags.DEFINE_string("independent", "", "The model that update gains are measured against; by default each new one.")
    flags.DEFINE_string("out", None, "The folder of results/, plots/ and report.html.", required=True)
    commands.run(main)

"""Serves nearest neighbours by adaptive or funnel retrieval, planned from measured cost on first use.

python -m mrl_jax.search --gallery=features/q/train --query=features/q/test --index=indexes/q --target=recall=0.99
python -m mrl_jax.search --gallery=features/q/train --query=features/q/test --index=indexes/q          # from then on
python -m mrl_jax.search --gallery=features/full/train --query=features/small/test --index=indexes/q   # another width
python -m mrl_jax.search --gallery=g.npy --query=q.npy --index=indexes/x --target=latency=0.5 --k=100 --batch=1

The first call tries indexes, shortlists and re-rankings on a sample of the queries, chooses the fastest that meets the
target (or the best within a budget), prints the Pareto front and writes plan.json, the index and pareto.png into
--index. Later calls answer from there. Features of two widths or exports of one checkpoint may differ in size: their
common prefix is searched, if it was trained. Targets: recall=SHARE of the exact full-dim answer, latency=MS a query,
mflops=MILLIONS a query, map_loss=POINTS of mean average precision (with labels).
"""

import pathlib
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from mrl_jax import commands, features_dir, indexes, results, writers
from mrl_jax.choices import whole_numbers
from mrl_jax.evals import planner, plans
from mrl_jax.evals.gallery import Gallery
from mrl_jax.features_dir import Features

PLOT, ANSWERS, DEFAULT_TARGET = "pareto.png", "answers.json", "recall=0.99"


def make_plan(gallery: Gallery, gallery_labels, queries: Features, options, path: pathlib.Path) -> None:
    """Plans on a sample of the queries; prints the front and writes plan, index and picture."""
    if not indexes.available():
        raise ImportError("planning needs faiss: pip install 'mrl_jax[retrieval]'")
    target = planner.parse_target(options.target or DEFAULT_TARGET)
    dims = choose_dims(options.dims, features_dir.trained_dims(queries.info), gallery.shape[1])
    sample = np.sort(np.random.default_rng(options.seed).permutation(len(queries.z))[: options.sample])
    labels = None
    if target.name == "map_loss":
        if queries.labels is None or gallery_labels is None or queries.labels.ndim > 1:
            raise ValueError(
                "--target=map_loss needs one label a row: name features with labels in --gallery and --query"
            )
        labels = np.asarray(queries.labels)[sample], np.asarray(gallery_labels)
    plan = planner.plan(
        np.asarray(queries.z[sample], np.float32),
        gallery,
        target,
        dims=dims,
        kinds=options.kinds or planner.DEFAULT_KINDS,
        k=options.k or 10,
        batch=min(options.batch, len(sample)),
        labels=labels,
        seed=options.seed,
        log=lambda text: print(text, flush=True),
    )
    front = planner.pareto(plan.points)
    print(table(front, plan))
    plans.save(plan, gallery, path)
    quality = "mean average precision" if labels else f"recall of the exact top {plan.k}"
    results.plot_tradeoff(path / PLOT, plan.points, front, plan.chosen, plan.exact_ms, quality)
    print(f"Wrote {path}/{plans.PLAN} and {path}/{PLOT}")


def choose_dims(words: Sequence[str], known: Sequence[int], full: int) -> list[int]:
    """The dims of --dims, or else the default ones; says which are not among the trained, where these are known."""
    dims = list(whole_numbers("--dims", words)) or default_dims(known, full)
    if known and (others := sorted(set(dims) - set(known))):
        print(f"Not trained, tried all the same: dims {others} (trained: {list(known)}).")
    return dims


def default_dims(known: Sequence[int], full: int) -> list[int]:
    """The trained dims of which a shortlist may be worth its while, or those of a halving: 8 to 64, below half."""
    halving = [8 * 2**i for i in range(4)]
    dims = [dim for dim in known or halving if 8 <= dim <= min(64, full // 2)]
    return dims or [full]


def table(front: list[planner.Point], plan: planner.Plan) -> str:
    """The Pareto front, fastest first, the chosen point marked."""
    lines = ["   ms/query  quality   MFLOPs  setting (* chosen; times not marked m are predicted)"]
    shown = front if plan.chosen in front else sorted([*front, plan.chosen], key=lambda p: p.ms)
    for p in shown:
        marks = f"{'*' if p is plan.chosen else ' '}{'m' if p.measured else ' '}"
        lines.append(f"{marks} {p.ms:8.4f}  {p.quality:7.4f} {p.mflops:8.3f}  {p.setting.name}")
    return "\n".join(lines)


def check_k(k: int, served: plans.Served, path: pathlib.Path) -> None:
    """Raises ValueError where the plan has no k neighbours to give."""
    rows, last = len(served.gallery.rows), served.setting.rerank[-1:]
    if k > rows:
        raise ValueError(f"--k={k}: --gallery has {rows} rows, so --k must be in 1..{rows}")
    if last and k > last[0][0]:
        raise ValueError(
            f"--k={k}: the plan in {path} ({served.setting.name}) orders the {last[0][0]} best rows: --k must be in "
            f"1..{last[0][0]}, or plan for it, with --k={k} and another --index"
        )


def serve(served: plans.Served, gallery_labels, queries: Features, k: int, batch: int) -> dict:
    """Answers all queries in batches; the record of it."""
    found, times = [], []
    for first in range(0, len(queries.z), batch):
        rows = np.asarray(queries.z[first : first + batch], np.float32)
        began = time.perf_counter()
        found.append(served.search(rows, k))
        times.append(1e3 * (time.perf_counter() - began) / len(rows))
    distances, neighbors = (np.concatenate(part) for part in zip(*found))
    record = {"setting": served.setting.name, "k": k, "batch": batch, "ms_per_query": float(np.median(times))}
    # JSON has no infinity: a neighbour that was not found is -1 and null.
    shown = [[round(float(d), 6) if np.isfinite(d) else None for d in row] for row in distances]
    record |= {"neighbors": neighbors.tolist(), "squared_distances": shown}
    if gallery_labels is not None:
        record["labels"] = [[np.asarray(gallery_labels[i]).tolist() if i >= 0 else None for i in r] for r in neighbors]
    return record


def show(record: dict, names: tuple[str, ...] | None, count: int) -> str:
    """The first queries with their neighbours, one line each."""
    lines = []
    for q, rows in enumerate(record["neighbors"][:count]):
        labels = record["labels"][q] if "labels" in record else [None] * len(rows)
        named = [names[label] if names and isinstance(label, int) else label for label in labels]
        lines.append(f"query {q}: " + ", ".join(f"{r}" if n is None else f"{r} ({n})" for r, n in zip(rows, named)))
    return "\n".join(lines)


def check_models(gallery: Features, queries: Features, across: bool) -> str:
    """What is known of the models of gallery and queries, in words; empty for those of files that a user brought.

    Sub-models of one checkpoint share a space, whatever their widths. `across` allows any two.

    Raises:
      ValueError: where they cannot be compared.
    """
    own, other = (features_dir.model_of(found.info.identity) for found in (gallery, queries))
    if own and other and not own.shares_space(other) and not across:
        raise ValueError(
            f"--gallery holds features of {own}, --query those of {other}: two models share no space unless they were "
            "trained to. Embed both with one checkpoint, at any width; or, where `python -m mrl_jax.compatibility` "
            "shows that one can search the other's gallery, add --across_models"
        )
    return f"Gallery: {own or 'not known'}; queries: {other or 'not known'}." if own or other else ""


def common_prefix(gallery: Features, queries: Features) -> tuple[Features, Features]:
    """Gallery and queries of as many features: where sub-models of one checkpoint differ in size, the smaller's.

    Raises:
      ValueError: where sizes differ and they are not known to be of one checkpoint, or the prefix was not trained.
    """
    sizes = gallery.z.shape[1], queries.z.shape[1]
    if sizes[0] == sizes[1]:
        return gallery, queries
    own, other = (features_dir.model_of(found.info.identity) for found in (gallery, queries))
    differ = f"--gallery has {sizes[0]} features, --query {sizes[1]}"
    if not (own and other and own.shares_space(other)):
        raise ValueError(
            f"{differ}, and it is not known that both are of one checkpoint, so neither is cut: embed both with one "
            "checkpoint or exports of it, or cut the larger one where the smaller is its prefix"
        )
    dims = features_dir.trained_dims(gallery.info if sizes[0] > sizes[1] else queries.info)
    if min(sizes) not in dims:
        raise ValueError(
            f"{differ}: of the larger ones a prefix of {min(sizes)} was not trained, only {list(dims)}: embed the "
            "smaller ones again, at one of these dims (`python -m mrl_jax.export --dim`) or all of them"
        )
    return tuple(found._replace(z=found.z[:, : min(sizes)]) for found in (gallery, queries))


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options, path = flags.FLAGS, pathlib.Path(flags.FLAGS.index)
    source, queries = features_dir.open_vectors(options.gallery), features_dir.open_vectors(options.query)
    models = check_models(source, queries, options.across_models)
    if models:
        print(models)
    sizes = source.z.shape[1], queries.z.shape[1]
    source, queries = common_prefix(source, queries)
    if sizes[0] != sizes[1]:
        print(f"--gallery has {sizes[0]} features, --query {sizes[1]}: the first {min(sizes)} of both are compared.")
    for name in ("k", "batch", "sample", "show"):
        if getattr(options, name) < 0 or (name == "sample" and not options.sample):
            raise ValueError(f"--{name}={getattr(options, name)} must be positive")
    gallery = Gallery(source.z)
    if not (path / plans.PLAN).exists():
        make_plan(gallery, source.labels, queries, options, path)
    elif options.target or options.dims or options.kinds:
        raise ValueError(
            f"{path} has a plan already; leave --target, --dims and --kinds out to use it, or name another --index"
        )
    served = plans.load(path, gallery)
    k = options.k or served.record["k"]
    check_k(k, served, path)
    record = serve(served, source.labels, queries, k, options.batch or served.record["batch"])
    print(show(record, source.info.label_names, options.show))
    out = pathlib.Path(options.out or path / ANSWERS)
    writers.write_json(out, record)
    print(
        f"{len(queries.z)} queries, {k} neighbours each, {record['ms_per_query']:.4f} ms a query (median of batches of "
        f"{record['batch']}) by {record['setting']}; exact search took {served.record['exact_ms']:.4f} ms. Wrote {out}"
    )


if __name__ == "__main__":
    features = "a folder that embed wrote, FEATURES.npy,LABELS.npy, a .safetensors file, or a .npy file without labels"
    flags.DEFINE_string("gallery", None, f"What is searched: {features}.", required=True)
    flags.DEFINE_string("query", None, "What is looked for, likewise.", required=True)
    flags.DEFINE_bool("across_models", False, "Lets queries of another checkpoint in: one trained to be compatible.")
    flags.DEFINE_string("index", None, "Folder of plan and index; made on first use.", required=True)
    flags.DEFINE_string("target", None, f"What the plan must reach; {DEFAULT_TARGET} by default. Only on first use.")
    flags.DEFINE_integer("k", 0, "Neighbours; by default the plan's, 10 on first use.")
    flags.DEFINE_integer("batch", 0, "Queries that come at once; by default the plan's, the whole sample on first use.")
    flags.DEFINE_integer("sample", 500, "Queries to plan with, at most.")
    flags.DEFINE_list(
        "dims", [], "Dims of shortlists to try; by default the trained ones of 8 to 64. Only on first use."
    )
    flags.DEFINE_list("kinds", [], f"Indexes to try, of {', '.join(indexes.KINDS)}. Only on first use.")
    flags.DEFINE_integer("seed", 0, "Of the sample and of the indexes.")
    flags.DEFINE_integer("show", 10, "Queries whose neighbours are printed.")
    flags.DEFINE_string("out", None, "JSON file of the answers; by default answers.json in --index.")
    commands.run(main)

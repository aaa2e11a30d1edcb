"""Adaptive retrieval against exact search at full dim: 500,000 unit vectors of 2048 features with prefix structure.

python -m experiments.benchmarks.retrieval --data=DIR --out=experiments/results/benchmark_retrieval_cpu.json
python -m experiments.benchmarks.retrieval --data=DIR --stage=measure --out=...   # again, indexes at hand

The vectors are cluster centres plus noise, both of decaying spectrum (feature i has the scale 1 / i in the centres
and --noise / i around them), so that most of what tells clusters apart stands first; labels are clusters. The planner
chooses from a sample of queries (`map_loss`: mean average precision at 10 lost, in points); other queries
measure. Everything takes turns and uses all cores; times are medians over the turns, of all queries in one batch.
"""

import json
import os
import pathlib
import sys
import time

import numpy as np
from absl import app, flags

from experiments.provenance import provenance
from mrl_jax import indexes, writers
from mrl_jax.evals import exact, planner, plans, settings
from mrl_jax.evals.gallery import Gallery
from mrl_jax.evals.settings import Setting

DATA = flags.DEFINE_string("data", None, "Folder for the vectors (4.1 GB) and the indexes.", required=True)
OUT = flags.DEFINE_string("out", None, "JSON file to write.")
STAGE = flags.DEFINE_enum("stage", "all", ["all", "plan", "measure", "hnsw"], "What to do.")
ROWS = flags.DEFINE_integer("rows", 500_000, "Of the gallery.")
DIM = flags.DEFINE_integer("dim", 2048, "Features.")
NOISE = flags.DEFINE_float("noise", 0.25, "Of vectors around their centre: the more, the less a prefix tells.")
CLUSTERS = flags.DEFINE_integer("clusters", 5000, "Labels.")
QUERIES = flags.DEFINE_integer("queries", 300, "For the sample, and as many to measure.")
TARGET = flags.DEFINE_string("target", "map_loss=0.1", "For the planner.")
DIMS = flags.DEFINE_list("dims", ["32", "64"], "Dims of shortlists to try.")
KINDS = flags.DEFINE_list("kinds", ["flat", "ivf"], "Of index to try.")
PART = flags.DEFINE_integer(
    "part", 50_000, "Rows for the comparison of graphs, whose one at full dim is slow to build."
)
K, TURNS = 10, 25


def make(path: pathlib.Path) -> None:
    """Writes gallery.npy and others.npz (labels, queries), once."""
    if (path / "others.npz").exists():
        return
    path.mkdir(parents=True, exist_ok=True)
    rng, feature = np.random.default_rng(0), np.arange(1, DIM.value + 1, dtype=np.float32)
    centres = rng.standard_normal((CLUSTERS.value, DIM.value), np.float32) / feature

    def draw(labels):
        z = rng.standard_normal((len(labels), DIM.value), np.float32) * (NOISE.value / feature) + centres[labels]
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    gallery = np.lib.format.open_memmap(path / "gallery.npy", "w+", np.float32, (ROWS.value, DIM.value))
    labels = rng.integers(0, CLUSTERS.value, ROWS.value)
    for first in range(0, ROWS.value, 16384):
        gallery[first : first + 16384] = draw(labels[first : first + 16384])
    query_labels = rng.integers(0, CLUSTERS.value, 2 * QUERIES.value)
    np.savez(path / "others.npz", labels=labels, queries=draw(query_labels), query_labels=query_labels)


def load(path: pathlib.Path) -> tuple[Gallery, np.ndarray, np.ndarray, np.ndarray]:
    """The gallery, in memory, its labels, the queries (the first half is the planner's sample) and theirs."""
    found = np.load(path / "others.npz")
    gallery = Gallery(np.load(path / "gallery.npy"))
    return gallery, found["labels"], found["queries"], found["query_labels"]


def choose(path: pathlib.Path) -> None:
    """Plans, and saves the plan and every index."""
    gallery, labels, queries, query_labels = load(path)
    half = QUERIES.value
    began = time.perf_counter()
    plan = planner.plan(
        queries[:half],
        gallery,
        planner.parse_target(TARGET.value),
        dims=[int(dim) for dim in DIMS.value],
        kinds=KINDS.value,
        k=K,
        labels=(query_labels[:half], labels),
        log=lambda text: print(text, flush=True),
    )
    record = plans.to_json(plan, gallery) | {"planning_seconds": time.perf_counter() - began}
    for (kind, dim), index in plan.built.items():
        indexes.save(index, path / f"{kind}@{dim}")
    writers.write_json(path / "plan.json", record)


def hand_picked(path: pathlib.Path) -> list[Setting]:
    """What one would try by hand: every index at a few efforts and shortlists, one step to the full dim."""
    found = []
    for kind in KINDS.value:
        efforts = [e for e in indexes.KINDS[kind].efforts if e in (0, 8, 16, 32, 64, 128, 256)]
        for dim, effort, length in [(int(d), e, n) for d in DIMS.value for e in efforts for n in (50, 100, 200, 400)]:
            if (path / f"{kind}@{dim}").exists() and not (kind == "hnsw" and effort < length):
                found.append(Setting(kind, dim, effort, ((length, DIM.value),)))
    return found


def turns(calls: dict, count: int) -> dict[str, float]:
    """Median seconds of each call, all of them in turns."""
    times: dict = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(found)) for name, found in times.items()}


def measure(path: pathlib.Path) -> dict:
    """Times on the queries that the planner has not seen."""
    gallery, labels, queries, query_labels = load(path)
    queries, query_labels = queries[QUERIES.value :], query_labels[QUERIES.value :]
    plan = json.loads((path / "plan.json").read_text())
    chosen = settings.from_json(plan["chosen"]["setting"])
    gallery.inverse_norms(
        *{m for p in [plan["chosen"], *plan["measured"]] for _, m in p["setting"]["rerank"]}, DIM.value
    )
    tried = {
        s.name: s for s in [chosen, *(settings.from_json(p["setting"]) for p in plan["measured"]), *hand_picked(path)]
    }
    built = {(s.index, s.dim): indexes.load(path / f"{s.index}@{s.dim}", gallery.fingerprint) for s in tried.values()}
    score = settings.precision_of(labels, query_labels, K)
    found, at_full = {}, {}

    def answer(setting):
        return planner.run(setting, built[setting.index, setting.dim], queries, gallery, K)[1]

    for name, setting in tried.items():
        found[name] = 100 * float(score(answer(setting)).mean())
    at_full["faiss flat"] = lambda: indexes.largest_products(queries, gallery.rows, K)
    for engine in ("faiss", "jax"):
        name = f"our exact search, {engine}"
        at_full[name] = lambda e=engine: exact.search(queries, gallery.rows, (DIM.value,), K, engine=e)
    truth = 100 * float(score(at_full["faiss flat"]()[1]).mean())
    first = turns({name: lambda s=s: answer(s) for name, s in tried.items()}, 1)
    kept = sorted((n for n in tried if found[n] >= truth - 0.1), key=first.get)[:8]
    seconds = turns({name: lambda s=tried[name]: answer(s) for name in {*kept, chosen.name}}, TURNS)
    whole = turns(at_full, 3)
    best = min(kept, key=seconds.get)
    per_query = {name: 1e3 * value / len(queries) for name, value in (seconds | whole).items()}
    return {
        "map@10_exact": truth,
        "chosen": chosen.name,
        "map@10_chosen": found[chosen.name],
        "ms_per_query": per_query,
        "times_faster_than_faiss_flat": whole["faiss flat"] / seconds[chosen.name],
        "times_faster_than_our_exact_search": whole["our exact search, faiss"] / seconds[chosen.name],
        "our_exact_search_to_faiss_flat": whole["our exact search, faiss"] / whole["faiss flat"],
        "best_within_0.1_point": best,
        "settings_tried": len(tried),
        "settings_within_0.1_point": sum(found[n] >= truth - 0.1 for n in tried),
        "chosen_to_best": seconds[chosen.name] / seconds[best],
        "planning_seconds": plan["planning_seconds"],
    }


def graphs(path: pathlib.Path) -> dict:
    """HNSW32 at 16 dims and re-ranking against HNSW32 at full dim, at equal precision, on a part of the gallery."""
    gallery, labels, queries, query_labels = load(path)
    queries, query_labels = queries[QUERIES.value :], query_labels[QUERIES.value :]
    gallery = Gallery(gallery.rows[: PART.value].copy())
    score = settings.precision_of(labels, query_labels, K)
    truth = 100 * float(score(indexes.largest_products(queries, gallery.rows, K)[1]).mean())
    calls, value, building = {}, {}, {}
    for dim, lengths in ((16, (50, 100, 200, 400)), (DIM.value, (0,))):
        began = time.perf_counter()
        index = indexes.build("hnsw", gallery.rows, dim)
        building[f"hnsw@{dim}"] = time.perf_counter() - began
        for effort, length in [(e, n) for e in (16, 32, 64, 128, 256, 512) for n in lengths if n <= e]:
            setting = Setting("hnsw", dim, effort, ((length, DIM.value),) if length else ())
            calls[setting.name] = lambda s=setting, i=index: planner.run(s, i, queries, gallery, K)[1]
            value[setting.name] = 100 * float(score(calls[setting.name]()).mean())
    seconds = turns(calls, 5)
    best = {}
    for dim in (16, DIM.value):
        equal = [n for n in calls if n.startswith(f"hnsw@{dim}(") and value[n] >= truth - 0.1]
        best[dim] = min(equal, key=seconds.get) if equal else None
    found = {"rows": PART.value, "map@10_exact": truth, "build_seconds": building}
    found |= {f"at_{dim}": {"setting": n, "map@10": value.get(n)} for dim, n in best.items()}
    found["ms_per_query"] = {name: 1e3 * s / len(queries) for name, s in seconds.items()}
    if all(best.values()):
        found["times_faster"] = seconds[best[DIM.value]] / seconds[best[16]]
    return found


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    path = pathlib.Path(DATA.value)
    make(path)
    if STAGE.value in ("all", "plan"):
        choose(path)
    found = {}
    if STAGE.value in ("all", "measure"):
        found["adaptive"] = measure(path)
    if STAGE.value in ("all", "hnsw"):
        found["hnsw"] = graphs(path)
    command = " ".join(["python", "-m", "experiments.benchmarks.retrieval", *sys.argv[1:]]).replace(DATA.value, "DIR")
    found = {name: {"command": command, **provenance(), **values} for name, values in found.items()}
    names = ("rows", "dim", "noise", "clusters", "queries", "target", "dims", "kinds")
    record = {"threads": os.cpu_count(), "data": {name: flags.FLAGS[name].value for name in names}, **found}
    print(json.dumps(record, indent=1))
    if OUT.value and found:
        kept = json.loads(pathlib.Path(OUT.value).read_text()) if pathlib.Path(OUT.value).exists() else {}
        writers.write_json(OUT.value, kept | record)


if __name__ == "__main__":
    app.run(main)

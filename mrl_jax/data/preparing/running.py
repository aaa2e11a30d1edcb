"""The whole preparation: refuse what cannot be, list, plan, write the shards, and at the end the manifest."""

import contextlib
import fcntl
import json
import pathlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import tqdm

from mrl_jax.data import array_records
from mrl_jax.data.preparing import beam, excluding, listing, local, readers, shards, texts
from mrl_jax.data.preparing import plan as plans
from mrl_jax.data.preparing.listing import MISLABELLED, Dropped
from mrl_jax.data.preparing.spec import Spec

DROPPED = "dropped.jsonl"


def prepare(
    spec: Spec, directory: pathlib.Path, *, workers: int, skip_fraction: float = 0.0, beam_arguments: str = ""
) -> Mapping[str, Any]:
    """Makes the dataset in `directory`, or goes on with it, or finds it complete; returns its manifest.

    Args:
      spec: what to prepare.
      directory: where to; empty, or holding what an earlier call with an equal `spec` began.
      workers: processes.
      skip_fraction: the most that may be undecodable or mislabelled, of all examples.
      beam_arguments: those of an Apache Beam pipeline that writes the shards; empty: this machine writes them.

    Raises:
      ValueError, FileNotFoundError: naming what is wrong with the source, an option or the directory.
      RuntimeError: where another process works on the directory, or a worker died.
    """
    spec.check()
    if not 0 <= skip_fraction <= 1 or workers < 1:
        raise ValueError(f"--skip_fraction={skip_fraction} must be in 0..1, --workers={workers} at least 1")
    identity = json.loads(json.dumps(spec.identity()))
    manifest = _complete(directory, identity)
    if manifest is not None:
        shutil.rmtree(directory / plans.FOLDER, ignore_errors=True)
        return manifest
    _check_directory(spec, directory, identity)
    with _owned(directory):
        plan = _plan(spec, directory, workers, skip_fraction)
        shards.remove_partial(directory)
        _write_shards(plan, workers, skip_fraction, beam_arguments)
        _check_fraction(plan, _all_dropped(plan), skip_fraction)
        return _finish(plan)


def _complete(directory: pathlib.Path, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The manifest of a dataset that is there already."""
    if not (directory / array_records.MANIFEST).is_file():
        return None
    manifest = array_records.read_manifest(directory)
    _check_same(directory, manifest.get("prepared", {}), identity)
    for entries in manifest["splits"].values():
        array_records.open_split(directory, entries)
    return manifest


def _check_same(directory: pathlib.Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    names = [name for name in {**new, **old} if name not in old or name not in new or old[name] != new[name]]
    if names:
        found = ", ".join(f"{name}: {old.get(name)!r} there, {new.get(name)!r} asked for" for name in names)
        raise ValueError(
            f"{directory} holds another dataset ({found}): choose another --data_dir, or delete that one first"
        )


def _check_directory(spec: Spec, directory: pathlib.Path, identity: Mapping[str, Any]) -> None:
    if (directory / plans.FOLDER / plans.PLAN).is_file():
        facts = json.loads((directory / plans.FOLDER / plans.PLAN).read_text(encoding="utf-8"))
        _check_same(directory, facts["identity"], identity)
    elif directory.is_dir() and any(path.name != plans.FOLDER for path in directory.iterdir()):
        raise ValueError(f"--data_dir={directory} holds other files already: choose an empty or a new folder")
    source = pathlib.Path(spec.source).absolute()
    if source.is_dir() and source in (directory.absolute(), *directory.absolute().parents):
        raise ValueError(f"--data_dir={directory} lies within the source {spec.source}: choose a folder outside of it")


@contextlib.contextmanager
def _owned(directory: pathlib.Path) -> Iterator[None]:
    """Holds the directory for this process; where no plan was made, nothing of it stays."""
    created = not directory.exists()
    folder = directory / plans.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"--data_dir={directory} is being prepared by another process: wait for it") from None
        try:
            yield
        finally:
            if not (folder / plans.PLAN).is_file():
                shutil.rmtree(folder, ignore_errors=True)
                if created and not any(directory.iterdir()):
                    directory.rmdir()


def _plan(spec: Spec, directory: pathlib.Path, workers: int, skip_fraction: float) -> plans.Plan:
    kind = readers.kind_of(spec.source, spec.layout)
    # With absolute paths, so that any process on any machine finds the same.
    identity = spec.identity()
    reader = readers.open_reader(kind, identity["source"], identity["reader"])
    print(f"Listing {spec.source}", file=sys.stderr, flush=True)
    found = listing.make(reader, spec)
    if spec.exclude_near and not set(spec.exclude_from) & found.splits.keys():
        raise ValueError(f"--exclude_from={','.join(spec.exclude_from)}: {spec.source} has {sorted(found.splits)} only")
    _refuse(found.dropped, found.total, skip_fraction)
    exclude = None
    if spec.exclude_near and not (directory / plans.FOLDER / plans.PLAN).is_file():
        print(f"Hashing {', '.join(spec.exclude_near)}", file=sys.stderr, flush=True)
        exclude = excluding.gather(spec, workers)
    return plans.read(str(directory.absolute()), plans.write(directory, spec, kind, found, exclude))


def _write_shards(plan: plans.Plan, workers: int, skip_fraction: float, beam_arguments: str) -> None:
    jobs = plan.jobs()
    notes = {job: shards.summary(plan, *job) for job in jobs}
    calls = [(str(plan.directory), plan.facts["fingerprint"], *job) for job in jobs if notes[job] is None]
    if beam_arguments:
        beam.run(calls, beam_arguments)
        return
    finished = [note for note in notes.values() if note is not None]
    dropped = [row for note in finished for row in note.dropped]
    total, start = sum(len(plan.examples(*job)) for job in jobs), sum(note.examples for note in finished)
    # A line every ten seconds where it is not a terminal.
    pause = 0.1 if sys.stderr.isatty() else 10.0
    with (
        tqdm.tqdm(total=total, initial=start, unit="example", mininterval=pause, dynamic_ncols=True) as bar,
        contextlib.closing(local.each(shards.write_shard, calls, workers)) as written,
    ):
        for note in written:
            bar.update(note.examples)
            dropped += note.dropped
            _check_fraction(plan, dropped, skip_fraction)


def _all_dropped(plan: plans.Plan) -> list[Dropped]:
    notes = [shards.summary(plan, *job) for job in sorted(plan.jobs())]
    missing = [job for job, note in zip(sorted(plan.jobs()), notes) if note is None]
    if missing:
        name = plan.file(*missing[0])
        raise FileNotFoundError(
            f"{len(missing)} shards are not in {plan.directory}, first {name}: run the command again"
        )
    return [row for note in notes for row in note.dropped]


def _check_fraction(plan: plans.Plan, dropped: list[Dropped], skip_fraction: float) -> None:
    try:
        _refuse(plans.dropped(plan) + dropped, plan.facts["listed"], skip_fraction)
    except ValueError:
        # Their images may be repaired before the next try: these shards are to be written again.
        for job in plan.jobs():
            note = shards.summary(plan, *job)
            if note is not None and note.dropped:
                plan.done(*job).unlink()
        raise


def _refuse(dropped: list[Dropped], total: int, skip_fraction: float) -> None:
    bad = [row for row in dropped if row.reason in (MISLABELLED, shards.UNDECODABLE)]
    if len(bad) > skip_fraction * total:
        some = "; ".join(f"{row.split} {row.key}: {row.detail}" for row in bad[:3]) + "; ..." * (len(bad) > 3)
        raise ValueError(
            f"{len(bad)} of {total} examples are undecodable or mislabelled, more than "
            f"--skip_fraction={skip_fraction:g} allows ({some}): repair them, or skip them by a larger fraction"
        )


def _finish(plan: plans.Plan) -> Mapping[str, Any]:
    """Writes the list of what was dropped, then the manifest; then the plan has served."""
    facts, directory = plan.facts, plan.directory
    splits = list(facts["shards"])
    notes = {name: [shards.read_note(plan, name, i) for i in range(facts["shards"][name])] for name in splits}
    counts = {name: [0] * facts["split_classes"].get(name, facts["num_classes"]) for name in splits}
    for name in splits:
        for note in notes[name]:
            for label, count in note["counts"].items():
                counts[name][int(label)] += count
    dropped = plans.dropped(plan) + _all_dropped(plan)
    reasons: dict[str, Counter] = {name: Counter() for name in splits}
    for row in dropped:
        reasons.setdefault(row.split, Counter())[row.reason] += 1
    entries = {name: [note["entry"] for note in notes[name]] for name in splits}
    empty = [name for name in splits if not sum(entry["examples"] for entry in entries[name])]
    if empty:
        raise ValueError(f"nothing is left of split {empty[0]!r}: {dict(reasons[empty[0]])} were dropped")
    manifest = {
        "name": pathlib.Path(facts["identity"]["source"]).name,
        "source": facts["identity"]["source"],
        "licence": facts["identity"]["licence"],
        "num_classes": facts["num_classes"],
        "label_names": facts["label_names"],
        "max_labels": facts["max_labels"],
        "class_counts": counts,
        **({"fields": facts["fields"]} if facts["fields"] else {}),
        **({"split_classes": facts["split_classes"]} if facts["split_classes"] else {}),
        "dropped": {name: dict(sorted(found.items())) for name, found in reasons.items()},
        "prepared": facts["identity"],
        "splits": entries,
    }
    if "tokenizer" in facts["identity"]:
        manifest |= _text_of(plan, notes)
    plans.replace(directory / DROPPED, "".join(json.dumps(row._asdict()) + "\n" for row in dropped))
    array_records.write_manifest(directory, manifest)
    shutil.rmtree(directory / plans.FOLDER, ignore_errors=True)
    return manifest


def _text_of(plan: plans.Plan, notes: Mapping[str, list]) -> dict[str, Any]:
    """What the manifest says of texts; puts a copy of the tokenizer beside the shards."""
    identity = plan.facts["identity"]
    plans.replace(plan.directory / texts.FILE, pathlib.Path(identity["tokenizer"]["path"]).read_text(encoding="utf-8"))
    own = {"file": texts.FILE, "sha256": identity["tokenizer"]["sha256"], "context": identity["context"]}
    truncated = {split: sum(note["truncated"] for note in found) for split, found in notes.items()}
    if "negatives_key" in identity["reader"]:  # equally many of every row
        key = next(listing.key_of(rows.keys.row(0)) for rows in plan.rows.values() if len(rows.keys))
        own["negatives"] = len(plan.reader.negatives(key))
    return {"text": own | {"pack": identity["pack"]}, "truncated": truncated}

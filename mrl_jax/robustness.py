"""A trained model where the images have changed and the classes have not: other sets, and corruptions of its own.

python -m mrl_jax.robustness --workdir=runs/q                                  # its test images, corrupted
python -m mrl_jax.robustness --workdir=runs/mrl --set=imagenet_v2 --set=imagenet_a --data_dir=DIR
python -m mrl_jax.robustness --workdir=runs/q --set=array_record:sketches@test --corruptions=fog,jpeg --severities=3
python -m mrl_jax.robustness --workdir=runs/q --baseline=runs/ff256            # errors in units of that run's

Accuracy of the trained heads and of the nearest training image, mAP@10 and P@10 of the training images found for each,
at every dim. A set is one of the names below, or a
data set as config.data.name takes it, with @SPLIT where that is not the run's eval split; its classes are found by
their names. Writes results/shifted.json and results/corruptions.json with a plot each. Features are computed once, and
kept below WORKDIR/features; the same command after a kill goes on. With --flips they are of each image together with
its mirror image, and the files are shifted_flips and corruptions_flips, as Table 17 of MRL is measured.
"""

import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from mrl_jax import commands, flips, results, trained
from mrl_jax import report as pages
from mrl_jax.choices import choose, nearest, whole_numbers
from mrl_jax.data import corruptions, sources
from mrl_jax.evals import robustness
from mrl_jax.evals.features import dims_of
from mrl_jax.evals.robustness import Accuracies
from mrl_jax.feature_pairs import folder_name, kept
from mrl_jax.features_dir import Features
from mrl_jax.models import heads
from mrl_jax.nesting import Nesting

# By name: the data set and its split.
SETS = {
    "imagenet_v2": ("tfds:imagenet_v2/matched-frequency", "test"),
    "imagenet_a": ("tfds:imagenet_a", "test"),
    "imagenet_r": ("tfds:imagenet_r", "test"),
    "imagenet_sketch": ("tfds:imagenet_sketch", "test"),
}
# Measures of which the error is averaged over corruptions, and where they are found.
METRICS = {"top1": "top1", "knn_top1": "nearest"}


class Subject(NamedTuple):
    """The model under test: its checkpoint, its head, and the features of its own data."""

    path: pathlib.Path
    step: int
    config: Any
    tensors: Mapping[str, Any]
    gallery: Features
    dims: tuple[int, ...]
    mirror: bool = False  # whether features are the mean of each image's and its mirror image's

    @property
    def nesting(self) -> Nesting:
        """The trained dims."""
        return Nesting(tuple(self.config.nesting.dims))


def open_subject(
    path: pathlib.Path, step: int | None, dims: Sequence[int], data_dir: str | None, mirror: bool = False
) -> Subject:
    """The checkpoint of a run, the features of its training images extracted where they are not there yet.

    Raises:
      ValueError: for `mirror` of data that are not images alone.
    """
    step = trained.choose_step(path, step)
    config, tensors = trained.config_of(path, step, data_dir=data_dir), trained.head(path, step)
    split = config.data.train_split
    gallery = kept(path, step, trained.over(config, None, split, None, None), folder_name(split), mirror)
    wanted = dims_of(Nesting(tuple(config.nesting.dims)), tuple(dims) or tuple(config.nesting.dims))
    return Subject(path, step, config, tensors, gallery, wanted, mirror)


def _features(subject: Subject, dataset: str | None, split: str, ops: str | None, name: str) -> Features:
    config = trained.over(subject.config, dataset, split, ops, None)
    return kept(subject.path, subject.step, config, folder_name(name), subject.mirror)


def measure(subject: Subject, found: Features, what: str) -> Accuracies:
    """The accuracies on a set, whose classes are matched by name with those of training."""
    own, info = subject.gallery.info, found.info
    classes = robustness.match_classes(info.label_names, info.num_classes, own.label_names, own.num_classes, what)
    labels = robustness.trained_labels(found.labels, classes, info.label_names, what)
    mean_D = np.asarray(found.z, np.float32).mean(axis=0)
    tensors = {name: jax.numpy.asarray(value) for name, value in subject.tensors.items()}

    def logits(z, dim):
        return heads.logits(z.astype("float32"), tensors, subject.nesting, dim, mean_D)

    return robustness.accuracies(found.z, labels, subject.gallery.z, subject.gallery.labels, logits, subject.dims)


def shifted(subject: Subject, names: Sequence[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """Values by `<set>_<metric>@dim` of other sets, and what they are."""
    values, details = {}, {}
    for name in names:
        dataset, split = locate(name, subject.config.data.eval_split)
        label = name if name in SETS else name.replace("@", "_")
        found = _features(subject, dataset, split, None, f"shifted-{name}")
        values |= robustness.named(label, measure(subject, found, f"--set={name}"), subject.dims)
        shown = len(np.unique(found.labels))
        details[label] = {"dataset": dataset, "split": split, "rows": len(found.z), "classes": shown}
        print(f"{name}: {len(found.z)} images of {shown} classes", file=sys.stderr, flush=True)
    return values, details


def locate(name: str, split: str) -> tuple[str, str]:
    """The data set and the split that `--set` names; `split` where it names none.

    Raises:
      ValueError: for a name that is neither known nor a data set's.
    """
    if name in SETS:
        return SETS[name]
    dataset, at, own = name.partition("@")
    if dataset.partition(":")[0] not in sources.KINDS:
        raise ValueError(
            f"--set={name!r} is neither one of {list(SETS)} nor a data set of the kinds {list(sources.KINDS)}, such as "
            f"array_record:DIR@SPLIT{nearest(name, SETS)}"
        )
    return dataset, own if at else split


def corrupted(
    subject: Subject, kinds: Sequence[str], severities: Sequence[int], baseline: Mapping[str, np.ndarray]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Values by `<kind>_<metric>@dim`, means over the severities, the clean ones, and the mean corruption error.

    Args:
      subject: the model.
      kinds: of corruptions.KINDS.
      severities: each of every kind.
      baseline: errors (K, S) by metric, in units of which ours are told besides; of no metric where there is none.
    """
    data = subject.config.data
    by_kind: dict[str, list[Accuracies]] = {}
    for kind, severity in [(robustness.CLEAN, 0), *((kind, severity) for kind in kinds for severity in severities)]:
        ops = f"{data.eval_ops}|corrupt({kind!r},{severity})" if severity else None
        name = f"corrupted-{kind}-{severity}" if severity else data.eval_split
        found = _features(subject, None, data.eval_split, ops, name)
        by_kind.setdefault(kind, []).append(measure(subject, found, f"{kind} {severity}"))
        print(f"{kind} {severity or ''}", file=sys.stderr, flush=True)
    values: dict[str, float] = {}
    for kind, found in by_kind.items():
        means = Accuracies(*(np.mean(metric, axis=0).tolist() for metric in zip(*found)))
        values |= robustness.named(kind, means, subject.dims)
    errors = {
        metric: 1 - np.array([[getattr(a, field) for a in by_kind[kind]] for kind in kinds])  # (K, S, G)
        for metric, field in METRICS.items()
    }
    for metric, error_KxSxG in errors.items():
        for g, dim in enumerate(subject.dims):
            own = error_KxSxG[..., g]
            values[f"mean_error_{metric}@{dim}"] = robustness.mean_corruption_error(own)
            if metric in baseline:
                values[f"relative_error_{metric}@{dim}"] = robustness.mean_corruption_error(own, baseline[metric])
    details = {"kinds": list(kinds), "severities": list(severities), "dims": list(subject.dims)}
    return values, details | {"errors": {metric: error.tolist() for metric, error in errors.items()}}


def read_baseline(
    path: str, kinds: Sequence[str], severities: Sequence[int], mirror: bool = False
) -> dict[str, np.ndarray]:
    """The errors (K, S) of another run, at its largest dim; with `mirror` those that it measured so.

    Raises:
      FileNotFoundError: if that run has none.
      ValueError: if it has them of other corruptions.
    """
    file = pathlib.Path(path) / "results" / f"{flips.named('corruptions', mirror)}.json"
    if not file.is_file():
        raise FileNotFoundError(f"--baseline={path}: {file} is not there; run this command with --workdir={path} first")
    found = results.read_one(file)["details"]
    if (found["kinds"], found["severities"]) != (list(kinds), list(severities)):
        raise ValueError(
            f"--baseline={path} was measured with --corruptions={','.join(found['kinds'])} "
            f"--severities={','.join(map(str, found['severities']))}: use the same, or measure it again"
        )
    errors = {metric: np.array(error)[..., -1] for metric, error in found["errors"].items()}
    faultless = [metric for metric, error in errors.items() if not (error.mean(axis=1) > 0).all()]
    if faultless:
        print(f"--baseline={path} makes no error by {faultless}: nothing is told in units of it", file=sys.stderr)
    return {metric: error for metric, error in errors.items() if metric not in faultless}


def report(
    subject: Subject, name: str, values: Mapping[str, float], details: Mapping[str, Any], columns: tuple[str, ...]
) -> None:
    """Prints the values whose names end in `columns`, and writes results/NAME.json and plots/NAME.png, NAME_flips.* of
    mirror images too.
    """
    name = flips.named(name, subject.mirror)
    shown = {k: v for k, v in values.items() if results.split_name(k)[0].endswith(columns)}
    print(results.table({name: shown}, subject.nesting, subject.step))
    command = shlex.join(["python", "-m", "mrl_jax.robustness", *sys.argv[1:]])
    results.write(
        subject.path,
        {name: values},
        step=subject.step,
        nesting=subject.nesting,
        head=subject.config.head,
        command=command,
        details={name: details},
        views=flips.VIEWS if subject.mirror else 1,
    )
    heads_only = {k: v for k, v in shown.items() if "knn" not in k and "error" not in k}
    results.plot(subject.path / "plots" / f"{name}.png", {name: heads_only}, subject.nesting)
    print(
        f"Wrote {subject.path}/results/{name}.json, {subject.path}/plots/{name}.png and {pages.refresh(subject.path)}"
    )


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    path = pathlib.Path(options.workdir)
    # Without a set the question is about corruptions, with one it is so only where they are named.
    kinds = options.corruptions or ([] if options.set else list(corruptions.KINDS))
    for kind in kinds:
        choose("--corruptions", kind, corruptions.KINDS)
    severities = whole_numbers("--severities", options.severities)
    if not severities or not set(severities) <= set(corruptions.SEVERITIES):
        raise ValueError(f"--severities={','.join(options.severities)} must be of {list(corruptions.SEVERITIES)}")
    baseline = read_baseline(options.baseline, kinds, severities, options.flips) if options.baseline else {}
    step = trained.choose_step(path, options.step)
    results.check(path)
    data = trained.config_of(path, step, data_dir=options.data_dir).data
    for name in options.set:  # what is not there is told before anything is embedded
        sources.load(*locate(name, data.eval_split), data_dir=data.dir)
    subject = open_subject(path, step, whole_numbers("--dims", options.dims), options.data_dir, options.flips)
    if options.set:
        report(subject, "shifted", *shifted(subject, options.set), ("top1", *robustness.RETRIEVAL))
    if kinds:
        report(subject, "corruptions", *corrupted(subject, kinds, severities, baseline), ("_top1",))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of a trained run.")
    flags.DEFINE_integer("step", None, "Which checkpoint; by default the newest intact one.")
    flags.DEFINE_multi_string(
        "set", [], f"{', '.join(SETS)}, or a data set's name with @SPLIT; several times for several."
    )
    flags.DEFINE_list("corruptions", [], f"Of {', '.join(corruptions.KINDS)}; by default all, or none with --set.")
    flags.DEFINE_list("severities", [str(s) for s in corruptions.SEVERITIES], "Of each corruption.")
    flags.DEFINE_string("baseline", None, "A run measured before, in units of whose errors ours are told besides.")
    flags.DEFINE_bool("flips", False, "Of each image and its mirror image; the results are NAME_flips.")
    flags.DEFINE_list("dims", [], "Dims to measure, trained or not; by default the trained ones.")
    flags.DEFINE_string("data_dir", None, "Where the data lie, if not where training read them.")
    flags.mark_flag_as_required("workdir")
    commands.run(main)

"""Studies of a trained model's features: prints a table, writes results/KIND.json and plots/*.png.

python -m mrl_jax.study adaptive --workdir=runs/q
python -m mrl_jax.study oracle --workdir=runs/q --train=features/q/train --test=features/other/test --out=studies/other
python -m mrl_jax.study fewshot --train=x.npy --train_labels=y.npy --test=x2.npy --test_labels=y2.npy --out=studies/x

With --workdir alone the features are embedded first, and kept below WORKDIR/features for the next time. The
checkpoint's own heads answer where there is a --workdir, else a probe that is fitted on the training features.
"""

import inspect
import pathlib
import shlex
import sys
from typing import Any

from absl import flags

from mrl_jax import commands, feature_pairs, features_dir, flips, report, results, trained
from mrl_jax.choices import choose, whole_numbers
from mrl_jax.evals import EVALUATORS, adaptive, fewshot, projections
from mrl_jax.feature_pairs import Pair
from mrl_jax.studies import KINDS, gradcam, longtail
from mrl_jax.studies.subject import PROBES, Subject, subject_dims

# What each option of a study is typed as; which study takes it, and its default, stand in the study.
_OPTIONS = {
    "classifiers": (flags.DEFINE_list, "fewshot: nearest_mean, ridge; longtail: nearest_mean, probe."),
    "confidence": (flags.DEFINE_string, "adaptive: max_softmax, margin or entropy."),
    "efforts": (flags.DEFINE_list, "indexes: efSearch of hnsw, nprobe of ivf; by default all worth trying with each."),
    "groups": (flags.DEFINE_list, "longtail: training rows below which is the tail, and above which is the head."),
    "hierarchy": (flags.DEFINE_string, "superclass: a JSON or CSV file from class to superclass, or 'wordnet'."),
    "imbalance": (flags.DEFINE_float, "longtail: rows of the largest class over those of the smallest."),
    "kinds": (flags.DEFINE_list, "indexes: flat, hnsw, ivf or another of those of mrl_jax/indexes.py."),
    "ks": (flags.DEFINE_list, "indexes, retrieval, quantization: depths; retrieval re-ranks at the first."),
    "label_names": (flags.DEFINE_string, "superclass: a file of class names, one a line or a JSON list."),
    "learn_rows": (flags.DEFINE_integer, "adaptive: test rows that teach the thresholds; 0 for a fifth of them."),
    "penalty": (flags.DEFINE_float, "fewshot: of ridge, in units of the mean diagonal of the Gram matrix."),
    "policy": (flags.DEFINE_string, "policy: the file of one that `adaptive` wrote."),
    "projection": (flags.DEFINE_string, f"retrieval: {', '.join(projections.NESTED)}, in place of the features."),
    "queries": (flags.DEFINE_integer, "fewshot: query rows of a class, at most."),
    "rows": (flags.DEFINE_list, "gradcam: of the test split, by number."),
    "shifted": (flags.DEFINE_multi_string, "robustness: a changed set, NAME=FEATURES or NAME=Z.npy,LABELS.npy."),
    "shortlist": (flags.DEFINE_integer, "retrieval, quantization: rows that are re-ranked."),
    "shortlists": (flags.DEFINE_list, "retrieval: lengths of shortlists to compare besides."),
    "shots": (flags.DEFINE_list, "fewshot: support rows of a class, each number in turn."),
    "splits": (flags.DEFINE_integer, "adaptive: random splits to repeat on."),
    "superclasses": (flags.DEFINE_integer, "superclass: how many to take from WordNet."),
    "target": (flags.DEFINE_string, "gradcam: predicted or label, whose logit is explained."),
    "tolerance": (flags.DEFINE_float, "trends: steps of a class's accuracy that do not count."),
    "trials": (flags.DEFINE_integer, "fewshot: of each number of shots."),
    "ways": (flags.DEFINE_integer, "fewshot: classes of a trial; 0 for all."),
}
_NUMBERS = ("efforts", "groups", "ks", "rows", "shortlists", "shots")
_FILES = ("hierarchy", "label_names", "policy")
_CHOICES = {
    ("adaptive", "confidence"): adaptive.CONFIDENCES,
    ("fewshot", "classifiers"): fewshot.METHODS,
    ("gradcam", "target"): gradcam.TARGETS,
    ("longtail", "classifiers"): longtail.CLASSIFIERS,
    ("retrieval", "projection"): projections.NESTED,
}


def study(kind: str, subject: Subject, options: dict[str, Any], name: str | None = None) -> None:
    """Runs a study, prints what it found, and writes JSON and pictures below `subject.out`, under a name if given."""
    found = KINDS[kind](subject, **options)
    pair, result = subject.pair, name or kind
    if not pair.known:
        print(f"Which dims were trained is not known; taken for it: {list(pair.nesting.dims)}.")
    untrained = sorted({m for _, m in map(results.split_name, found.values)} - set(pair.nesting.dims))
    if untrained:
        print(f"Not trained, evaluated all the same: dims {untrained} (trained: {list(pair.nesting.dims)}).")
    print(f"{len(pair.train.z)} training rows, {len(pair.test.z)} test rows, {subject.classes} classes.")
    print(results.table({result: found.values}, pair.nesting, subject.step, found.measured))
    for line in found.text:
        print(line)
    figures = [figure._replace(name=f"{name}_{figure.name}") if name else figure for figure in found.figures]
    results.write(
        subject.out,
        {result: found.values},
        step=subject.step,
        nesting=pair.nesting,
        head=None,
        command=shlex.join(["python", "-m", "mrl_jax.study", *sys.argv[1:]]),
        details={
            result: {
                **found.details,
                "train": dict(pair.train.info.identity),
                "test": dict(pair.test.info.identity),
                "seed": subject.seed,
            }
        },
        figures=[figure.name for figure in figures],
        views=subject.views,
        measured=found.measured,
    )
    written = [results.draw(subject.out / "plots", figure) for figure in figures]
    written.append(report.refresh(subject.out))
    print(f"Wrote {', '.join(map(str, [subject.out / 'results' / f'{result}.json', *written]))}")


def options_of(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a study from the flags that were given.

    Raises:
      ValueError: for an unknown kind, an option of another one, or a value that it cannot have.
      FileNotFoundError: for a file that is not there.
    """
    choose("KIND", kind, KINDS)
    takes = {name: _arguments(run) for name, run in KINDS.items()}
    for name, default in takes[kind].items():
        if default is inspect.Parameter.empty and name not in given:
            raise ValueError(f"--{name} is needed for {kind!r}: {_OPTIONS[name][1]}")
    for name, value in given.items():
        if name not in takes[kind]:
            others = [other for other in KINDS if name in takes[other]]
            raise ValueError(f"--{name}={value} is not an option of {kind!r} but of {', '.join(others)}: leave it out")
        for word in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
            if (kind, name) in _CHOICES:
                choose(f"--{name}", word, _CHOICES[kind, name])
        if name in _FILES and (name, value) != ("hierarchy", "wordnet") and not pathlib.Path(value).is_file():
            raise FileNotFoundError(f"--{name}={value} does not exist: name a file")
    found = dict(given)
    for name in set(_NUMBERS) & found.keys():
        if not all(word.isdecimal() for word in found[name]):
            raise ValueError(f"--{name}={','.join(found[name])}: give whole numbers separated by commas")
        found[name] = tuple(int(word) for word in found[name])
    return found


def _arguments(run: Any) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(run).parameters.values() if p.kind is p.KEYWORD_ONLY}


def open_pair(options: Any) -> tuple[Pair, int | None]:
    """The features that the flags name, and the step of the checkpoint whose heads answer (None: a probe does).

    Raises:
      ValueError, FileNotFoundError: where they are missing or do not fit each other.
    """
    path = pathlib.Path(options.workdir) if options.workdir else None
    if bool(options.train) != bool(options.test) or not (path or options.train):
        raise ValueError("give --workdir=RUN, or --train=FEATURES and --test=FEATURES, or all three")
    if not path and (options.step is not None or options.data_dir):
        raise ValueError("--step and --data_dir are of a run: give --workdir=RUN too")
    step = trained.choose_step(path, options.step) if path else None
    if not options.train:
        if options.train_labels or options.test_labels:
            raise ValueError("--train_labels and --test_labels belong to --train and --test: give those too")
        return feature_pairs.of_run(path, step, options.data_dir, options.flips), step
    if options.flips:
        raise ValueError("--flips is of features embedded here: embed with --flips, and leave it out beside --train")
    train = features_dir.open_features(options.train, options.train_labels, verify=True)
    test = features_dir.open_features(options.test, options.test_labels, verify=True)
    pair = feature_pairs.pair(train, test)
    for flag, features in (("--train", train), ("--test", test)):
        feature_pairs.check_finite(flag, features)
    if path:
        pair = feature_pairs.of_checkpoint(pair, path, step)
    return pair, step


def default_name(kind: str, own: dict[str, Any], mirror: bool) -> str | None:
    """What results of a projection or of mirror images are called, so that they lie beside the others; None: KIND."""
    name = flips.named("_".join([kind, *filter(None, [own.get("projection")])]), mirror)
    return name if name != kind else None


def main(argv: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    if len(argv) != 2:
        raise ValueError(f"give one KIND of study, of {list(KINDS)}, as in `python -m mrl_jax.study adaptive ...`")
    own = options_of(argv[1], {name: options[name].value for name in _OPTIONS if options[name].present})
    choose("--probe", options.probe, PROBES)
    if options.name is not None:
        results.check_name(options.name, (*EVALUATORS, *KINDS))
    dims = whole_numbers("--dims", options.dims)
    if not (options.out or options.workdir):
        raise ValueError("--out is needed: the folder that results/ and plots/ go to")
    results.check(options.out or options.workdir)
    pair, step = open_pair(options)
    path = pathlib.Path(options.workdir) if options.workdir else None
    out = pathlib.Path(options.out or options.workdir)
    about = Subject(pair, subject_dims(pair, dims), options.seed, options.probe, path, step, out)
    study(argv[1], about, own, options.name or default_name(argv[1], own, options.flips))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of a trained run: its data, unless others are given; its heads.")
    flags.DEFINE_integer("step", None, "Which checkpoint of it; by default the newest intact one.")
    flags.DEFINE_string("data_dir", None, "Where its data lie, if not where training read them.")
    flags.DEFINE_string("train", None, "Training features: a folder that embed wrote, a .safetensors or .npy file.")
    flags.DEFINE_string("train_labels", None, "The file of their labels, if they are in another one.")
    flags.DEFINE_string("test", None, "Features to study, likewise.")
    flags.DEFINE_string("test_labels", None, "The file of their labels, if they are in another one.")
    flags.DEFINE_string("out", None, "Where results/ and plots/ go; by default the workdir.")
    flags.DEFINE_string("name", None, "Of the results, and before those of the pictures; by default KIND.")
    flags.DEFINE_bool("flips", False, "Logits of each image and its mirror image added; the results are KIND_flips.")
    flags.DEFINE_list("dims", [], "Dims to study, trained or not; by default the trained ones.")
    flags.DEFINE_string("probe", "logistic", f"One of {', '.join(PROBES)}: answers where there is no --workdir.")
    flags.DEFINE_integer("seed", 0, "Of all that is drawn.")
    for option, (define, text) in _OPTIONS.items():
        define(option, None, text)
    commands.run(main, words=True)

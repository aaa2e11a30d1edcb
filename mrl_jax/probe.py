"""Probes of features at every dim, beside baselines: prints a table, writes results/NAME.json and plots/NAME.png.

python -m mrl_jax.probe --workdir=runs/q
python -m mrl_jax.probe --train=features/q/train --test=features/q/test --out=probes/q
python -m mrl_jax.probe --train=x.npy,y.npy --test=x_test.npy,y_test.npy --methods=ridge,pca --out=probes/x
python -m mrl_jax.probe --workdir=runs/ff256 --dims=8,16,32 --methods=knn,pca_knn,learned_knn,head_svd --name=baselines

With --workdir the features are embedded first, and kept below WORKDIR/features for the next time.
"""

import pathlib
import shlex
import sys

import numpy as np
from absl import flags

from mrl_jax import commands, feature_pairs, features_dir, report, results, trained
from mrl_jax.choices import choose, whole_numbers
from mrl_jax.evals import EVALUATORS, baselines
from mrl_jax.evals.features import dims_of
from mrl_jax.evals.problem import make_problem
from mrl_jax.features_dir import Features

Head = tuple[np.ndarray, np.ndarray]  # kernel (D, C) and bias (C,)


def probe(
    train: Features,
    test: Features,
    dims: tuple[int, ...],
    methods: list[str],
    seed: int,
    out: pathlib.Path,
    name: str = "probe",
    head: Head | None = None,
) -> None:
    """Probes features, prints the table, and writes JSON and picture, called `name`, below `out`."""
    _, _, nesting, known = feature_pairs.pair(train, test)
    dims = dims_of(nesting, dims) if dims or known else nesting.dims
    problem = make_problem(train[:2], test[:2], train.info.num_classes, dims, seed, head)
    values, details = baselines.probe(problem, methods, lambda text: print(text, file=sys.stderr, flush=True))
    command = shlex.join(["python", "-m", "mrl_jax.probe", *sys.argv[1:]])
    step = train.info.identity["checkpoint"]["step"] if train.info.identity else None
    print(f"{len(train.z)} training rows, {len(test.z)} test rows, {train.info.num_classes} classes.")
    # Top-5 stands in the JSON: a table with both would not fit a terminal.
    top1 = {m: {f"top1@{d}": values[f"{m}_top1@{d}"] for d in dims} for m in methods}
    print(results.table(top1, nesting, step))
    details |= {"train": dict(train.info.identity), "test": dict(test.info.identity), "seed": seed}
    results.write(out, {name: values}, step=step, nesting=nesting, head=None, command=command, details={name: details})
    results.plot(out / "plots" / f"{name}.png", top1, nesting)
    print(f"Wrote {out}/results/{name}.json, {out}/plots/{name}.png and {report.refresh(out)}")


def head_of(path: pathlib.Path, step: int | None) -> Head:
    """The classifier of a run's checkpoint at full dim."""
    step = trained.choose_step(path, step)
    tensors = trained.head(path, step)
    suffix = "" if "head/kernel" in tensors else f"_{max(trained.config_of(path, step).nesting.dims)}"
    return np.asarray(tensors[f"head/kernel{suffix}"]), np.asarray(tensors[f"head/bias{suffix}"])


def read_head(names: str) -> Head:
    """The classifier in two files, KERNEL.npy,BIAS.npy.

    Raises:
      FileNotFoundError: where there are none.
      ValueError: where they are not a matrix and a vector.
    """
    paths = [pathlib.Path(name) for name in names.split(",")]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"--head={names}: {path} does not exist; give KERNEL.npy,BIAS.npy")
    try:
        arrays = [np.load(path, allow_pickle=False) for path in paths]
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"--head={names}: not whole .npy files of numbers ({error})") from error
    if [a.ndim for a in arrays] != [2, 1]:
        raise ValueError(f"--head={names}: shapes {[a.shape for a in arrays]} are not those of KERNEL.npy,BIAS.npy")
    return arrays[0], arrays[1]


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    dims = whole_numbers("--dims", options.dims)
    methods = options.methods or list(baselines.DEFAULT)
    for method in methods:
        choose("--methods", method, baselines.METHODS)
    results.check_name(options.name, EVALUATORS)
    out = options.out or options.workdir
    if out:
        results.check(out)
    head = read_head(options.head) if options.head else None
    if options.workdir and not options.train and not options.test:
        path = pathlib.Path(options.workdir)
        if "head_svd" in methods and head is None:
            head = head_of(path, options.step)
        train, test, *_ = feature_pairs.of_run(path, options.step, options.data_dir)
    elif options.train and options.test and options.out and not options.workdir:
        train, test = (features_dir.open_features(name, verify=True) for name in (options.train, options.test))
    else:
        raise ValueError("give --workdir=RUN, or --train=FEATURES, --test=FEATURES and --out=DIR")
    probe(train, test, dims, methods, options.seed, pathlib.Path(out), options.name, head)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of a trained run, whose data are embedded first.")
    flags.DEFINE_integer("step", None, "Which checkpoint of it; by default the newest intact one.")
    flags.DEFINE_string("data_dir", None, "Where its data lie, if not where training read them.")
    flags.DEFINE_string("train", None, "Features to fit on: a folder that embed wrote, or FEATURES.npy,LABELS.npy.")
    flags.DEFINE_string("test", None, "Features to test on, likewise.")
    flags.DEFINE_string("out", None, "Where results/ and plots/ go; by default the workdir.")
    flags.DEFINE_list("dims", [], "Dims to probe, trained or not; by default the trained ones and those in between.")
    flags.DEFINE_list("methods", [], f"Of {', '.join(baselines.METHODS)}; by default {', '.join(baselines.DEFAULT)}.")
    flags.DEFINE_string("head", None, "For head_svd: KERNEL.npy,BIAS.npy, (D, C) and (C,); by default the workdir's.")
    flags.DEFINE_string("name", "probe", "Of the results and the picture.")
    flags.DEFINE_integer("seed", 0, "Of the rows held out, and of the random baselines.")
    commands.run(main)

"""Linear probes of features at every dim, beside baselines: prints a table, writes results/probe.json and
plots/probe.png.

python -m mrl_jax.probe --workdir=runs/q
python -m mrl_jax.probe --train=features/q/train --test=features/q/test --out=probes/q
python -m mrl_jax.probe --train=x.npy,y.npy --test=x_test.npy,y_test.npy --methods=ridge,pca --out=probes/x

With --workdir the features are embedded first, and kept below WORKDIR/features for the next time.
"""

import pathlib
import shlex
import sys

from absl import flags

from mrl_jax import commands, feature_pairs, features_dir, results, trained
from mrl_jax.evals import linear_probe
from mrl_jax.evals.features import dims_of
from mrl_jax.features_dir import Features


def probe(
    train: Features, test: Features, dims: tuple[int, ...], methods: list[str], seed: int, out: pathlib.Path
) -> None:
    """Probes features, prints the table, and writes JSON and picture below `out`."""
    _, _, nesting, known = feature_pairs.pair(train, test)
    dims = dims_of(nesting, dims) if dims or known else nesting.dims
    problem = linear_probe.make_problem(train[:2], test[:2], train.info.num_classes, dims, seed)
    values, details = linear_probe.probe(problem, methods, lambda text: print(text, file=sys.stderr, flush=True))
    command = shlex.join(["python", "-m", "mrl_jax.probe", *sys.argv[1:]])
    step = train.info.identity["checkpoint"]["step"] if train.info.identity else None
    print(f"{len(train.z)} training rows, {len(test.z)} test rows, {train.info.num_classes} classes.")
    # Top-5 stands in the JSON: a table with both would not fit a terminal.
    top1 = {m: {f"top1@{d}": values[f"{m}_top1@{d}"] for d in dims} for m in methods}
    print(results.table(top1, nesting, step))
    details |= {"train": dict(train.info.identity), "test": dict(test.info.identity), "seed": seed}
    results.write(
        out, {"probe": values}, step=step, nesting=nesting, head=None, command=command, details={"probe": details}
    )
    results.plot(out / "plots" / "probe.png", top1, nesting)
    print(f"Wrote {out}/results/probe.json and {out}/plots/probe.png")


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    dims = trained.whole_numbers(options.dims)
    methods = options.methods or list(linear_probe.METHODS)
    if options.workdir and not options.train and not options.test:
        train, test, *_ = feature_pairs.of_run(pathlib.Path(options.workdir), options.step, options.data_dir)
        out = options.out or options.workdir
    elif options.train and options.test and options.out and not options.workdir:
        train, test = (features_dir.open_features(name, verify=True) for name in (options.train, options.test))
        out = options.out
    else:
        raise ValueError("give --workdir=RUN, or --train=FEATURES, --test=FEATURES and --out=DIR")
    probe(train, test, dims, methods, options.seed, pathlib.Path(out))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of a trained run, whose data are embedded first.")
    flags.DEFINE_integer("step", None, "Which checkpoint of it; by default the newest intact one.")
    flags.DEFINE_string("data_dir", None, "Where its data lie, if not where training read them.")
    flags.DEFINE_string("train", None, "Features to fit on: a folder that embed wrote, or FEATURES.npy,LABELS.npy.")
    flags.DEFINE_string("test", None, "Features to test on, likewise.")
    flags.DEFINE_string("out", None, "Where results/ and plots/ go; by default the workdir.")
    flags.DEFINE_list("dims", [], "Dims to probe, trained or not; by default the trained ones and those in between.")
    flags.DEFINE_list("methods", [], f"By default all of {', '.join(linear_probe.METHODS)}.")
    flags.DEFINE_integer("seed", 0, "Of the rows held out, and of the random baselines.")
    commands.run(main)

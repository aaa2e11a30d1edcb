"""The tables and figures of the MRL paper: how to make ours, and `published | ours | difference`.

python -m experiments.tables                                             # what there is
python -m experiments.tables table1 --workdir=runs/mrl --workdir=runs/ff_full
python -m experiments.tables table1 --workdir=runs/mrl --markdown        # or --json
python -m experiments.tables table1 --commands --scale=tiny              # what trains and measures it
python -m experiments.tables table4 --run --debug --runs=runs/debug     # does it, in seconds each
python -m experiments.tables table1 --run --scale=tiny --runs=runs/tiny --data_dir=data --seed=0

Which run belongs to which column is told from its config.json. Runs that differ in nothing but the seed are averaged.
A difference is printed only where our model, data and way to evaluate are those of the paper.
"""

import os
import pathlib
import shlex
import subprocess
import sys

from absl import app, flags

from experiments import measured, printing, training
from experiments.entries import TABLES
from experiments.entry import Table
from mrl_jax.choices import choose


def lines(table: Table, scale: str, runs: str, data: str, seed: int) -> list[str]:
    """The command lines of a table, in their order.

    Raises:
      ValueError: if the scale has none of its runs.
    """
    own = training.SCALES[scale]
    words = training.words(own, runs, data)
    missing = [run for run in table.train if run in own.left_out]
    if missing and len(missing) == len(table.train):
        raise ValueError(f"--scale={scale} has none of the runs {missing}: take --scale=paper, or --debug")
    found = [line for run in table.train for line in training.commands(run, own, words, seed)]
    absent = [f"{{runs}}/{run} ".replace("{runs}", runs) for run in missing]
    measures = [
        " ".join(measure.format(**words, each_dim=dim).split())
        for measure in table.measure
        for dim in (own.dims[:-1] if "{each_dim}" in measure else ("",))
    ]
    return found + [m for m in measures if not any(path in f"{m} ".replace(",", " ") for path in absent)]


def run(table: Table, name: str, runs: str, data: str, seed: int, scale: str) -> list[str]:
    """Runs the commands one after the other; returns the folders that were trained.

    Raises:
      RuntimeError: at the first that fails.
    """
    trained = []
    for line in lines(table, scale, runs, data, seed):
        print(f"$ {line}", file=sys.stderr, flush=True)
        arguments = shlex.split(line)
        if subprocess.run([sys.executable, *arguments[1:]], stdout=sys.stderr, check=False).returncode:
            raise RuntimeError(f"{name}: this command failed, and the rest was not run: {line}")
        if arguments[2] == "mrl_jax.train":
            trained += [a.partition("=")[2] for a in arguments if a.startswith("--workdir=")]
    return trained


def guarded(argv: list[str]) -> None:
    """`main`, of whose mistakes one line is printed."""
    try:
        main(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, as `head` does, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def main(argv: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    if len(argv) > 2:
        raise ValueError(f"{argv[1:]}: give one table; those there are: {list(TABLES)}")
    if len(argv) < 2:
        print("\n".join(f"{name:20s} {table.title}" for name, table in TABLES.items()))
        return
    name = argv[1]
    choose("table", name, TABLES)
    choose("--scale", options.scale, training.SCALES)
    table, scale = TABLES[name], "debug" if options.debug else options.scale
    if options.commands:
        print("\n".join(lines(table, scale, options.runs, options.data_dir, options.seed)))
        return
    paths = list(options.workdir)
    if options.run:
        trained = run(table, name, options.runs, options.data_dir, options.seed, scale)
        paths += [path for path in trained if path not in paths]
    runs = [measured.load(str(pathlib.Path(path))) for path in paths]
    filled = printing.fill(table, runs)
    if options.json:
        print(printing.as_json(name, table, filled, runs))
    else:
        print((printing.markdown if options.markdown else printing.text)(table, filled, runs))


if __name__ == "__main__":
    flags.DEFINE_multi_string("workdir", [], "The folder of a run; several times for several.")
    flags.DEFINE_bool("json", False, "Print JSON, with the source of every published number.")
    flags.DEFINE_bool("markdown", False, "Print Markdown.")
    flags.DEFINE_bool("commands", False, "Print the commands that train and measure the table, and do nothing.")
    flags.DEFINE_bool("run", False, "Run them, then print the table of the runs.")
    flags.DEFINE_bool("debug", False, "With --commands and --run: seconds of each, on synthetic images.")
    flags.DEFINE_string("scale", "paper", f"With --commands and --run: one of {', '.join(training.SCALES)}.")
    flags.DEFINE_string("runs", "runs", "With --commands and --run: the folder of all runs.")
    flags.DEFINE_string("data_dir", "data", "With --commands and --run: where the data lie.")
    flags.DEFINE_integer("seed", 0, "With --commands and --run: of the runs; give each a --runs of its own.")
    app.run(guarded)

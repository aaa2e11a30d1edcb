"""The tables and figures of the MRL paper: how to make ours, and `published | ours | difference`.

python -m experiments.tables                                             # what there is
python -m experiments.tables table1 --workdir=runs/mrl --workdir=runs/ff_full
python -m experiments.tables table1 --workdir=runs/mrl --markdown        # or --json
python -m experiments.tables table1 --commands --scale=tiny              # what trains and measures it
python -m experiments.tables table4 --run --debug --runs=runs/debug     # does it, in seconds each
python -m experiments.tables table1 --run --scale=tiny --runs=runs/tiny --data_dir=data --seed=0
python -m experiments.tables all --run --scale=icons --runs=runs/icons  # every table that this scale has
python -m experiments.tables all --scale=icons --workdir='runs/*/*'     # of runs in folders named as by the commands

Which run belongs to which column is told from its config.json. Runs that differ in nothing but the seed are averaged.
A difference is printed only where our model, data and way to evaluate are those of the paper.
"""

import glob
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterable

from absl import app, flags

from experiments import measured, printing, training
from experiments.entries import TABLES
from experiments.entry import Table
from mrl_jax.choices import choose


def lines(table: Table, scale: str, runs: str, data: str, seed: int) -> list[str]:
    """The command lines of a table, in their order.

    Raises:
      ValueError: if the scale has none of its runs, or none of the data to measure them on.
    """
    own = training.SCALES[scale]
    words = training.words(own, runs, data)
    missing = [run for run in table.train if run in own.left_out]
    if missing and len(missing) == len(table.train):
        raise ValueError(f"--scale={scale} has none of the runs {missing}: take --scale=paper, or --debug")
    lacking = [f"{{{word}}}" for word in own.words if word not in words]
    templates = [template for template in table.measure if not any(word in template for word in lacking)]
    if not templates:
        raise ValueError(f"--scale={scale} has not the data of this table: take --scale=paper, or --debug")
    absent = [f"{runs}/{run} " for run in missing]
    measures = [
        " ".join(template.format(**words, each_dim=dim, each_width=dim / own.dims[-1]).split())
        for template in templates
        for dim in (own.dims[:-1] if "{each_dim}" in template else own.dims[-1:])
    ]
    found = [line for run in table.train for line in training.commands(run, own, words, seed)]
    return found + [m for m in measures if not any(path in f"{m} ".replace(",", " ") for path in absent)]


def chosen(name: str, scale: str) -> dict[str, Table]:
    """The table of this name; of "all", those that the scale has.

    Raises:
      ValueError: for a name that is no table's.
    """
    choose("table", name, (*TABLES, "all"))
    return {name: TABLES[name]} if name != "all" else {n: table for n, table in TABLES.items() if _has(table, scale)}


def _has(table: Table, scale: str) -> bool:
    try:
        return bool(lines(table, scale, "", "", 0))
    except ValueError:
        return False


def trained_for(table: Table, scale: str) -> set[str]:
    """The names of the folders that a table's commands train at this scale."""
    words = [word for line in lines(table, scale, "", "", 0) for word in shlex.split(line)]
    return {word.rpartition("/")[2] for word in words if word.startswith("--workdir=")}


def folders(pattern: str) -> list[str]:
    """The runs among the folders that match; the pattern itself where there are none, to be complained of."""
    return [p for p in sorted(glob.glob(pattern)) if (pathlib.Path(p) / "config.json").is_file()] or [pattern]


def run(commands: Iterable[str]) -> list[str]:
    """Runs command lines one after the other; returns the folders that were trained.

    Raises:
      RuntimeError: at the first that fails.
    """
    trained = []
    for line in commands:
        print(f"$ {line}", file=sys.stderr, flush=True)
        arguments = shlex.split(line)
        if subprocess.run([sys.executable, *arguments[1:]], stdout=sys.stderr, check=False).returncode:
            raise RuntimeError(f"this command failed, and the rest was not run: {line}")
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
        raise ValueError(f"{argv[1:]}: give one table, or all; those there are: {list(TABLES)}")
    if len(argv) < 2:
        print("\n".join(f"{name:20s} {table.title}" for name, table in TABLES.items()))
        return
    choose("--scale", options.scale, training.SCALES)
    scale = "debug" if options.debug else options.scale
    tables = chosen(argv[1], scale)
    arguments = (scale, options.runs, options.data_dir, options.seed)
    if options.commands or options.run:
        commands = dict.fromkeys(line for table in tables.values() for line in lines(table, *arguments))
    if options.commands:
        print("\n".join(commands))
        return
    paths = [path for pattern in options.workdir for path in folders(pattern)]
    if options.run:
        paths = list(dict.fromkeys([*paths, *run(commands)]))
    runs = [measured.load(str(pathlib.Path(path))) for path in paths]
    if argv[1] != "all":
        filled = {name: printing.fill(table, runs) for name, table in tables.items()}
    else:  # a run of one table's ablation is no main run of another
        own = {name: trained_for(table, scale) for name, table in tables.items()}
        filled = {
            name: printing.fill(table, [run for run in runs if pathlib.Path(run.path).name in own[name]])
            for name, table in tables.items()
        }
        filled = {name: columns for name, columns in filled.items() if any(column.ours for column in columns)}
        if not filled:
            raise ValueError("no run has a number in any table: name runs with --workdir, or train them with --run")
    if options.json:
        records = [printing.record(name, tables[name], columns) for name, columns in filled.items()]
        print(json.dumps(records if argv[1] == "all" else records[0], indent=1))
    else:
        show = printing.markdown if options.markdown else printing.text
        print("\n".join(show(tables[name], columns) for name, columns in filled.items()))


if __name__ == "__main__":
    flags.DEFINE_multi_string("workdir", [], "The folder of a run, or a pattern; several times for several.")
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

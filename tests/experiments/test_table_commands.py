"""The commands of the paper's tables: ours, of configs that load, and enough for what the tables read."""

import dataclasses
import importlib.util
import os
import shlex

import command
import ml_collections
import pytest

from experiments import measured, printing, tables, training
from experiments.entries import TABLES
from mrl_jax import config as configs
from mrl_jax.studies import KINDS


@pytest.mark.parametrize("scale", training.SCALES)
@pytest.mark.parametrize("name", TABLES)
def test_every_command_is_of_this_package_with_a_config_that_loads(name, scale):
    try:
        lines = tables.lines(TABLES[name], scale, "R", "D", 3)
    except ValueError as error:
        assert "take --scale=paper" in str(error)  # noqa: PT017  (some tables are of the paper's scale only)
        return
    trained = set()
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["python", "-m"]
        assert "{" not in line
        arguments = dict(word.removeprefix("--").partition("=")[::2] for word in words[3:] if word.startswith("--"))
        if words[2] == "mrl_jax.train":
            load_config(arguments)
            trained.add(arguments["workdir"])
            assert arguments["config.seed"] == "3"
        elif "workdir" in arguments:
            assert arguments["workdir"] in trained
        if "name" in arguments:  # results of a folder without a config are no run's
            assert arguments.get("out", arguments.get("workdir")) in trained


@pytest.mark.parametrize("name", TABLES)
def test_what_a_column_reads_of_a_study_some_command_of_the_table_writes(name):
    lines = map(shlex.split, tables.lines(TABLES[name], "paper", "R", "D", 0))
    studies = [line for line in lines if line[2] == "mrl_jax.study"]
    written = {next((w[7:] for w in line if w.startswith("--name=")), line[3]) for line in studies}
    read = {c.ours.evaluator for c in TABLES[name].columns if c.ours}
    assert {evaluator for evaluator in read if evaluator.startswith(tuple(KINDS)) and "\\" not in evaluator} <= written


def load_config(arguments):
    """The config of a training command, its overrides checked."""
    path, _, mode = arguments["config"].partition(":")
    spec = importlib.util.spec_from_file_location("loaded", command.ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = ml_collections.ConfigDict(configs.to_json(module.get_config(mode)))
    for name, _ in ((n, v) for n, v in arguments.items() if n.startswith("config.")):
        node = config
        for part in name.split(".")[1:]:
            node = node[part]
    return config


def test_all_are_those_that_the_scale_has():
    icons = tables.chosen("all", "icons")
    assert {"table1", "table30"} < set(icons)
    assert not {"table7", "table12", "table25"} & set(icons)  # no corpus, no second gallery, no WordNet ids
    assert set(tables.chosen("all", "paper")) == set(TABLES)
    assert set(tables.chosen("table7", "icons")) == {"table7"}
    with pytest.raises(ValueError, match="has not the data"):
        tables.lines(TABLES["table12"], "icons", "R", "D", 0)


def test_a_table_among_all_takes_the_runs_of_its_own_commands():
    assert tables.trained_for(TABLES["table27"], "icons") == {"mrl", "8boost", "8+16boost"}
    assert tables.trained_for(TABLES["table15"], "icons") == {"mrl", "ff_full"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [("jft", "vit Ti/16"), ("align", "dual_encoder of vit mu/16 and bert mu")])
def test_a_table_runs_in_debug(tmp_path, monkeypatch, name, model):
    """One model of each config: the others are told apart by a word of the mode."""
    monkeypatch.setenv("XLA_FLAGS", os.environ["CHEAP_XLA_FLAGS"])  # one device compiles soonest
    whole = TABLES["table4"]
    measure = tuple(line for line in whole.measure if f"/{name}_mrl/" in line or f"/{name}_mrl " in line)
    part = dataclasses.replace(whole, train=(f"{name}_mrl",), measure=measure)
    folders = tables.run(tables.lines(part, "debug", str(tmp_path), str(tmp_path), 0))
    assert folders == [f"{tmp_path}/{name}_mrl"]
    loaded = [measured.load(folder) for folder in folders]
    shown = printing.text(part, printing.fill(part, loaded))
    assert f"ours: {model} on synthetic" in shown
    assert shown.count("No differences") == 2  # at the trained dims, and between them
    with pytest.raises(RuntimeError, match="the rest was not run: python -m"):
        tables.run(["python -m mrl_jax.nothing"])


@pytest.mark.slow
def test_mistakes_of_the_command_are_one_line():
    failed = command.finish(command.start("experiments.tables", "table4", "--workdir=nowhere"), expect=1)
    assert failed == "error: --workdir=nowhere holds no config.json: name the folder of a trained run\n"
    assert "table29" in command.finish(command.start("experiments.tables"))

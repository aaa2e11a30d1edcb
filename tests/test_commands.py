"""What every command refuses, and how it ends."""

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from mrl_jax import commands


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command of --config, --workdir and --out: its exit status, and what it says on stderr."""
    monkeypatch.setattr(commands.app, "run", lambda main, flags_parser: main(flags_parser(commands.sys.argv)))

    def run(*arguments, main=lambda argv: None, **options):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", None, "", flag_values=values, lock_config=True)
        for name in ("workdir", "out"):
            flags.DEFINE_string(name, None, "", flag_values=values)
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        try:
            commands.run(main, **options)
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def test_a_word_that_is_no_option_is_refused(run):
    said = "error: 'config.optim.lr=5' is no option: they begin with --, and values follow an =, as in --name=value\n"
    assert run("--workdir=x", "config.optim.lr=5") == (1, said)
    assert run("adaptive", words=True) == run("--workdir=x") == (0, "")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config.optim.lrr=3", "--config.optim.lrr: the config has no field 'optim.lrr'. Did you mean 'lr'?"),
        ("--config.optim.lr.x=3", "--config.optim.lr.x: the config has no field 'optim.lr.x'. See mrl_jax/config.py"),
        ("--config.nesting.dims[0]=4", "--config.nesting.dims[0]: the config has no field 'nesting.dims[0]'. See"),
        ("--config.data.name.x=3", "--config.data.name.x: the config has no field 'data.name.x'. See"),
        ("--config.=1", "--config.: the config has no field ''. See"),
        (
            "--config.optim=adamw",
            "--config.optim=adamw: this is a group of fields: set them one by one, or --config.optim.name=adamw",
        ),
        ("--config=README.md", "--config: invalid character"),
    ],
)
def test_a_mistake_in_the_config_s_options_is_one_line_with_its_argument(run, argument, said):
    status, output = run("--config=tests/tiny.py", "--config.seed=1", "--config.total_steps", "1", argument)
    assert (status, output.count("\n")) == (1, 1)
    assert output.startswith(f"error: {said}")


def test_a_lack_of_memory_is_one_line_with_what_to_lower(run):
    assert run(main=lambda argv: bytearray(2**62)) == (
        1,
        "error: out of memory: lower batch_size or data.eval_batch_size\n",
    )
    status, said = run(main=lambda argv: np.zeros(2**60, np.uint8))
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith("error: out of memory (Unable to allocate")


def test_a_lack_of_device_memory_is_one_line_with_what_to_change(run):
    def main(argv):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes.\nBFC")

    status, said = run(main=main)
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith("error: RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes.: lower batch_size")


@pytest.mark.parametrize("name", ["workdir", "out"])
def test_a_folder_has_a_name_and_is_no_address(run, name):
    for value in ("gs://bucket/x", "s3://bucket/x"):
        assert run(f"--{name}={value}") == (
            1,
            f"error: --{name}={value} is an address: mount it, and name a folder there\n",
        )
    assert run(f"--{name}=") == (1, f"error: --{name}= is empty: name a folder; the current one is --{name}=.\n")


def test_ctrl_c_is_one_line_and_status_130(run):
    def main(argv):
        raise KeyboardInterrupt

    assert run(main=main) == (130, "interrupted\n")
    assert run(main=main, resumes="again") == (130, "interrupted: again\n")

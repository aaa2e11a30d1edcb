"""What every command refuses, and how it ends."""

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

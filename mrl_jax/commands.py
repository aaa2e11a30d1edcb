"""How every command runs: a mistake that the project itself found ends in one line, not in a traceback."""

import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from mrl_jax.distributed import LostProcessError

_PACKAGE = pathlib.Path(__file__).parent
_MORE_DEVICE_MEMORY = (
    "lower batch_size or data.eval_batch_size, raise accumulate or mesh.fsdp, or set model.remat where a model has it"
)


def run(main: Callable[[list[str]], None], *, words: bool = False, resumes: str = "") -> None:
    """app.run(main), errors of the command line, those raised by this package and a lack of memory, the host's or a
    device's, printed alone on stderr (exit status 1), Ctrl-C likewise (130); any other with its traceback.

    Args:
      main: the command.
      words: whether it takes words that are no options; else they are an error.
      resumes: how it goes on after Ctrl-C, for what is printed then.
    """

    def guarded(argv: list[str]) -> None:
        try:
            if not words:
                _check_words(argv[1:])
            _check_folders()
            main(argv)
        except KeyboardInterrupt:
            _end("interrupted" + (f": {resumes}" if resumes else ""), 130)
        except MemoryError as error:
            reason = f" ({error})" if str(error) else ""
            _end(f"error: out of memory{reason}: lower batch_size or data.eval_batch_size", 1)
        except (ValueError, OSError, ImportError, RuntimeError, ArithmeticError) as error:
            if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
                _end(f"error: {str(error).splitlines()[0]}: {_MORE_DEVICE_MEMORY}", 1)
            if _PACKAGE not in pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents:
                raise
            if isinstance(error, LostProcessError):
                print(f"error: {error}", file=sys.stderr, flush=True)
                # A regular exit would wait at a barrier for the process that is gone.
                os._exit(1)
            _end(f"error: {error}", 1)

    logging.set_verbosity(logging.WARNING)
    app.run(guarded, flags_parser=_parse)


def _end(message: str, status: int) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)


def _check_words(words: list[str]) -> None:
    if words:
        raise ValueError(f"{words[0]!r} is no option: they begin with --, and values follow an =, as in --name=value")


def _check_folders() -> None:
    for name in ("workdir", "out"):
        value = flags.FLAGS[name].value if name in flags.FLAGS else None
        if value == "":  # to pathlib this is the current folder
            raise ValueError(f"--{name}= is empty: name a folder; the current one is --{name}=.")
        if value and "://" in value:
            raise ValueError(f"--{name}={value} is an address: mount it, and name a folder there")


def _parse(argv: list[str]) -> list[str]:
    """What is left of the command line; a mistake in it, or in a config file's own words, ends the process."""
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            getattr(flags.FLAGS.config, "seed", None)  # a file that could not be read is an error on its first use
        return rest
    except (flags.Error, OSError) as error:
        message = _of_a_group(str(error)) or str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ")
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # of ml_collections, for a path into a config
        message = _unknown_field(argv, error)
    except SyntaxError as error:
        message = f"--config: {error}: name a Python file with get_config(), as those of configs/ are"
    _end(f"error: {message}", 1)


def _of_a_group(message: str) -> str:
    """What to say where a value is given for a group of fields; empty for another message."""
    found = re.match(r"flag (--\S+?)=(.*?): Failed to parse .* as a ConfigDict", message)
    if not found:
        return ""
    flag, value = found.groups()
    return f"{flag}={value}: this is a group of fields: set them one by one, or {flag}.name={value} where it has a name"


def _unknown_field(argv: list[str], error: Exception) -> str:
    override = next(iter(_wrong_overrides(argv, type(error))), None)
    if override is None:
        return f"--config: {type(error).__name__}: {error}"
    near = re.search(r'Did you mean "([^"]+)"', str(error))
    hint = f"Did you mean {near[1]!r}?" if near else "See mrl_jax/config.py; a tuple is set as a whole."
    flag = override.split("=")[0]
    return f"{flag}: the config has no field {flag.partition('.')[2]!r}. {hint}"


def _wrong_overrides(argv: list[str], kind: type[Exception]) -> Iterator[str]:
    """Those that are such an error each by itself: ml_collections, which reads sys.argv, does not say which it was."""
    overrides = [argument for argument in argv if re.match(r"--?(no)?config\.", argument)]
    for override in overrides:
        sys.argv, values = [*(argument for argument in argv if argument not in overrides), override], flags.FlagValues()
        config_flags.DEFINE_config_file("config", None, "", flag_values=values)
        try:
            values(sys.argv, known_only=True)
        except kind:
            yield override
        except flags.Error:  # its value is the next word
            pass

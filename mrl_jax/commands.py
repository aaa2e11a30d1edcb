"""How every command runs: a mistake that the project itself found ends in one line, not in a traceback."""

import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable

from absl import app, flags, logging

from mrl_jax.distributed import LostProcessError

_PACKAGE = pathlib.Path(__file__).parent


def run(main: Callable[[list[str]], None], *, words: bool = False) -> None:
    """app.run(main), errors of the command line and those raised by this package printed alone on stderr (exit status
    1); any other with its traceback.

    Args:
      main: the command.
      words: whether it takes words that are no options; else they are an error.
    """

    def guarded(argv: list[str]) -> None:
        try:
            if not words:
                _check_words(argv[1:])
            main(argv)
        except (ValueError, OSError, ImportError, RuntimeError, ArithmeticError) as error:
            if _PACKAGE not in pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents:
                raise
            print(f"error: {error}", file=sys.stderr, flush=True)
            if isinstance(error, LostProcessError):
                # A regular exit would wait at a barrier for the process that is gone.
                os._exit(1)
            sys.exit(1)

    logging.set_verbosity(logging.WARNING)
    app.run(guarded, flags_parser=_parse)


def _check_words(words: list[str]) -> None:
    if words:
        raise ValueError(f"{words[0]!r} is no option: they begin with --, and values follow an =, as in --name=value")


def _parse(argv: list[str]) -> list[str]:
    """What is left of the command line; a mistake in it, or in a config file's own words, ends the process."""
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            getattr(flags.FLAGS.config, "seed", None)  # a file that could not be read is an error on its first use
        return rest
    except (AttributeError, KeyError) as error:  # of ml_collections, for a field that the config does not have
        message = _unknown_field(argv, str(error))
    except (flags.Error, OSError) as error:
        message = str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ")
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


def _unknown_field(argv: list[str], message: str) -> str:
    word, near = (re.search(pattern, message) for pattern in (r"\w+", r'Did you mean "([^"]+)"'))
    asked = [argument.split("=")[0] for argument in argv if word and word[0] in argument.split("=")[0].split(".")]
    hint = f"Did you mean {near[1]!r}?" if near else "See mrl_jax/config.py for those it has."
    return f"{' '.join(asked) or message}: the config has no field {word[0] if word else ''!r}. {hint}"

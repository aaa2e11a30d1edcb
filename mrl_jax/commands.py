"""How every command runs: a mistake that the project itself found ends in one line, not in a traceback."""

import os
import pathlib
import sys
import traceback
from collections.abc import Callable

from absl import app, logging

from mrl_jax.distributed import LostProcessError

_PACKAGE = pathlib.Path(__file__).parent


def run(main: Callable[[list[str]], None]) -> None:
    """app.run(main), errors raised by this package printed alone on stderr (exit status 1); any other with its
    traceback.
    """

    def guarded(argv: list[str]) -> None:
        try:
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
    app.run(guarded)

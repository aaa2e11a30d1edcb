"""The host's memory where it is the devices' memory too: on JAX's CPU backend."""

import ctypes
import os
import sys

import jax

# Parameters of mallopt(3), and the variables by which a user sets them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed() -> bool:
    """On the CPU backend, has the C library keep the memory that it frees, for the next update to take.

    It gives large blocks back to the system otherwise, and every update pays for each of their pages anew. The process
    then holds the most that it ever used. For a command, not a library, to ask; where the user has set one of the
    allocator's variables, or it is not glibc's, nothing is done.

    Returns:
      Whether it does.
    """
    if jax.default_backend() != "cpu" or sys.platform != "linux" or any(name in os.environ for name in _OWN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    never = 2**31 - 1
    return mallopt is not None and all(mallopt(name, never) for name in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))

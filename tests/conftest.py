"""Eight virtual CPU devices for every test, and no silent broadcasting across ranks."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
# Compilation dominates these tests: the cheapest one will do.
CHEAP = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jax").startswith("0.10."):
    CHEAP += " --xla_cpu_use_fusion_emitters=false"  # half the time; later versions end at a flag they do not know
os.environ["CHEAP_XLA_FLAGS"] = CHEAP
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {CHEAP}"
# Each of eight devices holds a thread for every collective that it waits in; with fewer of them than that, a program
# with two collectives at a time waits for ever.
os.environ.setdefault("NPROC", "32")

# What one process compiled the others load: both workers of pytest, and the commands that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

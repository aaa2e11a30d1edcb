"""Eight virtual CPU devices for every test, and no silent broadcasting across ranks."""

import os

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
# Compilation dominates these tests: the cheapest one will do.
FLAGS = " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + FLAGS

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

"""The training command on a host that JAX takes for a slice of its own, as every host of GPUs is."""

import functools
import os
import runpy

import jax

slices = functools.partial(jax.distributed.initialize, slice_index=int(os.environ["JAX_PROCESS_ID"]))
jax.distributed.initialize = slices
runpy.run_module("mrl_jax.train", run_name="__main__")

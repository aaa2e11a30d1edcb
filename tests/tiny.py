"""A run that compiles in seconds: a micro ViT on small synthetic images."""

import ml_collections

from mrl_jax import config as defaults


def config(**overrides) -> ml_collections.ConfigDict:
    """The config; overrides by dotted name with __ for the dot, e.g. optim__lr=0.1."""
    c = defaults.default()
    c.total_steps, c.batch_size = 6, 16
    c.model = defaults.vit("mu/8")
    c.nesting.dims = (4, 8, 32)
    c.data.name = "synthetic:size=16,channels=1,classes=6,examples=48"
    c.data.eval_batch_size = 16
    c.checkpoint.every, c.log.every = 2, 1
    c.optim.lr = 1e-2
    for name, value in overrides.items():
        node = c
        *parents, leaf = name.split("__")
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return c


def get_config(mode: str = "mrl") -> ml_collections.ConfigDict:
    """So that `--config=tests/tiny.py` works, for tests that run the command itself."""
    return defaults.apply_mode(config(total_steps=12, checkpoint__keep=3), mode, size=16, channels=1)

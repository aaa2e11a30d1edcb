"""The icons, rendered once for all tests that need them."""

import pytest
from absl import logging

from mrl_jax.data import icons


@pytest.fixture(scope="session")
def icons_dir(tmp_path_factory):
    """A data_dir that holds the rendered icons; tests must not write to it."""
    logging.set_verbosity(logging.ERROR)
    data_dir = tmp_path_factory.mktemp("data")
    icons.prepare(data_dir)
    return data_dir

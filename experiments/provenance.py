"""What a committed number must tell of how it came about."""

import os
import platform
import subprocess
import sys

import jax


def provenance() -> dict[str, str]:
    """The commit and the hardware, for the record of a result."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {"commit": commit, "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), jax {jax.__version__}"}


def call(module: str, *arguments: str) -> None:
    """Runs a command of the package."""
    subprocess.run([sys.executable, "-m", f"mrl_jax.{module}", *arguments], check=True)

"""Memory that is freed is taken again, not asked from the system."""

import subprocess
import sys

import pytest

COUNT = """
import resource
from mrl_jax import host_memory
kept = {ask} and host_memory.keep_freed()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, second = faults(), faults()
print(int(kept), first, second)
"""


def _run(ask: bool, **environment) -> list[int]:
    code = COUNT.format(ask=ask)
    environment = {"JAX_PLATFORMS": "cpu", "PATH": "", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_large_block_costs_its_pages_once():
    kept, first, second = _run(True)
    assert kept
    assert second < first / 10
    assert _run(False)[2] > first / 2


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_the_users_own_setting_stays():
    assert _run(True, MALLOC_MMAP_THRESHOLD_="131072")[0] == 0

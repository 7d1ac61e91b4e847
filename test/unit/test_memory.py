"""Memory of a process that computes on a CPU."""

import platform
import subprocess
import sys

import pytest

from spear.memory import keep_freed_memory

HAS_GLIBC = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"

# Resident megabytes left when a block of 200 MB was filled and freed.
LEFT = """
import sys
from spear.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
before = resident()
block = bytearray(b"x") * 200_000_000
del block
print(resident() - before)
"""


def test_it_takes_effect_where_there_is_glibc_and_says_so_elsewhere():
    assert keep_freed_memory() == HAS_GLIBC


@pytest.mark.skipif(not HAS_GLIBC, reason="glibc's mallopt alone is asked")
@pytest.mark.parametrize("mode, least, most", [("plain", 0, 100), ("keep", 150, 300)])
def test_a_freed_block_stays_with_the_process(mode, least, most):
    done = subprocess.run([sys.executable, "-c", LEFT, mode], capture_output=True, text=True, check=True)
    assert least - 20 <= float(done.stdout) <= most

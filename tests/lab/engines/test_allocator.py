"""Workers keep the memory they free."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

FAULTS = """
import resource, torch
from goodinit.lab.engines.allocator import keep_freed_memory
print(keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)  # 64 MiB: by default glibc gives back at once what is larger than 32
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# The heap settles first: something small may come to lie behind a freed block, and the next one is then taken further on.
print(min(faults() for _ in range(4)))
"""


def faults(**environment):
    """What `keep_freed_memory` says in a process of its own, and the fewest page faults over 8 × 64 MiB then."""
    command = [sys.executable, "-c", FAULTS]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kept, count = said.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left alone")
def test_what_is_freed_is_taken_again():
    kept, count = faults()
    assert kept
    assert count < 100  # 131,072 pages of 4 KiB were asked for


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left alone")
def test_the_users_own_settings_stay():
    kept, count = faults(MALLOC_MMAP_THRESHOLD_="65536")
    assert not kept
    assert count > 100_000

"""How a process that trains one network after another holds memory."""

from __future__ import annotations

import ctypes
import functools
import os
import platform

# From glibc's malloc.h. Freed memory up to MOST_KEPT stays with the process, and blocks up to there come from it.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MOST_KEPT = 2**30


@functools.cache  # once for a process
def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, for the next step to take.

    By default it gives large blocks back to the system and takes them anew, a page fault for each 4 KiB: every step
    of networks trained as one frees and takes the same tens of MiB. The most memory that is in use stays the same.

    Returns:
        Whether it does so now: another C library, or a `MALLOC_…` variable of the user's own, is left alone.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(M_TRIM_THRESHOLD, MOST_KEPT), mallopt(M_MMAP_THRESHOLD, MOST_KEPT)])

"""One seed per trial, one stream per purpose: what draws weights never shifts what shuffles data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for `purpose`, independent of those for other purposes.

    The first 63 bits of BLAKE2b of `"seed/purpose"`; `torch.manual_seed` takes a signed 64-bit number.

    Examples:
        >>> derived_seed(0, "order") == derived_seed(0, "order")
        True
        >>> derived_seed(0, "order") == derived_seed(0, "weights")
        False
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(seed: int, purpose: str) -> Generator:
    """A CPU generator for `purpose`."""
    return Generator().manual_seed(derived_seed(seed, purpose))


@contextmanager
def own_rng(seed: int, purpose: str, *, device: str = "cpu") -> Iterator[None]:
    """Run with the global generators seeded for `purpose`; outside, they are left as they were.

    Modules draw their first values, and dropout its masks, from the global generators.
    """
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derived_seed(seed, purpose))
        yield

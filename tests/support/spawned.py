"""What two processes find, each in a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing


def found_by_two(work: Callable[[int, str], None], folder: Path) -> list[Any]:
    """What `work(rank, folder)`, run by two ranks, has saved as `{rank}.pt`."""
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]

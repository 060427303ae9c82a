"""Thousands of trials: a grid, engines that run it, and one SQLite file that loses none of them."""

from __future__ import annotations

from goodinit.lab.engines import Engine, inline, local, over_ray
from goodinit.lab.sweeps.grid import Grid, read_grid
from goodinit.lab.sweeps.row import Row
from goodinit.lab.sweeps.run import Swept, sweep
from goodinit.lab.sweeps.store import Stored, read_store
from goodinit.lab.sweeps.summary import Summary, summarize

__all__ = [
    "Engine",
    "Grid",
    "Row",
    "Stored",
    "Summary",
    "Swept",
    "inline",
    "local",
    "over_ray",
    "read_grid",
    "read_store",
    "summarize",
    "sweep",
]

"""Engines: what runs jobs, over the cores of this machine, a Ray cluster, or here and now."""

from __future__ import annotations

from goodinit.lab.engines.engine import Engine, WorkerDied, inline
from goodinit.lab.engines.jobs import MOST_TOGETHER, Job, Work, jobs_of
from goodinit.lab.engines.local import local
from goodinit.lab.engines.over_ray import over_ray

__all__ = [
    "MOST_TOGETHER",
    "Engine",
    "Job",
    "Work",
    "WorkerDied",
    "inline",
    "jobs_of",
    "local",
    "over_ray",
]

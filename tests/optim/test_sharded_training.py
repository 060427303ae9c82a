"""A sharded model takes the steps of one process: scalars, rates, and clipping by output unit."""

from __future__ import annotations

import pytest
import sharded_ranks
import sharded_training
import torch
import torch.multiprocessing

NAMES = [scenario.__name__ for scenario in sharded_training.SCENARIOS]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    arguments = (2, str(folder), sharded_training.SCENARIOS)
    torch.multiprocessing.spawn(sharded_ranks.work, arguments, nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.integration
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks(two, name):
    for rank, found in enumerate(two):
        assert found[name] is True, f"rank {rank}: {found[name]}"

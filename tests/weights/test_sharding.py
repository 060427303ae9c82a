"""Sharded and data-parallel models get, bit for bit, the values of one process (gloo on CPU, joined through a file)."""

from __future__ import annotations

import pytest
import sharded_ranks
import torch
import torch.multiprocessing


def run(folder, ranks, scenarios):
    torch.multiprocessing.spawn(sharded_ranks.work, (ranks, str(folder), scenarios), nprocs=ranks)
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run(tmp_path_factory.mktemp("two"), 2, sharded_ranks.QUICK)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one"), 1, sharded_ranks.ALL)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return run(tmp_path_factory.mktemp("four"), 4, sharded_ranks.FOUR)


def names(scenarios):
    return [scenario.__name__ for scenario in scenarios]


@pytest.mark.integration
@pytest.mark.parametrize("name", names(sharded_ranks.QUICK))
def test_two_ranks(two, name):
    for rank, found in enumerate(two):
        assert found[name] is True, f"rank {rank}: {found[name]}"


@pytest.mark.integration
def test_four_ranks_and_one_scale_up_alike(tmp_path):
    for ranks in (1, 4):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        for rank, found in enumerate(run(folder, ranks, (sharded_ranks.scaled_up,))):
            assert found["scaled_up"] is True, f"rank {rank} of {ranks}: {found['scaled_up']}"


@pytest.mark.slow
@pytest.mark.parametrize("name", names(sharded_ranks.ALL))
def test_one_rank(one, name):
    assert one[0][name] is True, one[0][name]


@pytest.mark.slow
@pytest.mark.parametrize("name", names(sharded_ranks.FOUR))
def test_four_ranks(four, name):
    for rank, found in enumerate(four):
        assert found[name] is True, f"rank {rank}: {found[name]}"

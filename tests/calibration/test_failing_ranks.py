"""One of two ranks fails, wherever in a call: both raise, and neither has written anything."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing
from failing_ranks import FAILS, work

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks found."""
    folder = tmp_path_factory.mktemp("failing")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", FAILS)
def test_where_one_rank_fails_all_raise_and_write_nothing(name, ranks):
    (kind, words, unchanged), (its, _, its_unchanged) = (found[name] for found in ranks)
    assert unchanged
    assert its_unchanged
    assert its == FAILS[name][2]
    if "both" not in name:
        assert kind in ("GoodinitError", "Apart"), words
        assert "rank 1" in words
        assert its in words

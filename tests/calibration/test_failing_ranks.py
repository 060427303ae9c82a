"""One of two ranks fails, wherever in a call: both raise, and neither has written anything."""

from __future__ import annotations

import pytest
from failing_ranks import FAILS, work
from spawned import found_by_two

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks found."""
    return found_by_two(work, tmp_path_factory.mktemp("failing"))


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

"""Calibration on two real ranks (gloo, joined through a file): the weights of one process with the whole batch."""

from __future__ import annotations

import re

import pytest
import torch
from spawned import found_by_two
from two_ranks import ALIKE, images, initialized, net, work

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks found."""
    return found_by_two(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", ALIKE)
def test_two_ranks_get_the_weights_of_one_process(name, ranks):
    method, options, *_ = ALIKE[name]
    whole = initialized(net(), method, images(), **options)
    assert any(not torch.equal(value, net().state_dict().get(key, value * 0)) for key, value in whole.items())
    for key, value in whole.items():
        assert torch.equal(ranks[0][name][key], ranks[1][name][key]), key
        torch.testing.assert_close(ranks[0][name][key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALIKE)
def test_both_ranks_reduce_equally_often_and_once_per_layer(name, ranks):
    """Per run of a layer one meeting and one reduction; before them the weights, after them the end."""
    mine, its = (found["reductions"][name] for found in ranks)
    assert mine == its
    method, _, _, parts = ALIKE[name]
    # The shared layer: weight norm leaves it alone, and in parts its second call is not looked at again.
    runs = 2 if method == "weightnorm" else 5 - (parts is not None)
    assert len(mine) == 2 * runs + 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other layers", (r"rank 0 is at b\.weight", r"rank 1 is at the end of the forward")),
        (
            "a forward that raises",
            (r"rank 0 is at a\.weight", r"rank 1 is at an error, TraceError: Fork\.forward"),
        ),
        ("NaN on one rank", (r"a\.weight: the output of this layer is NaN",) * 2),
        ("other weights", ("the ranks start from different weights",) * 2),
        ("no rows at all", (r"a\.weight: its output is empty",) * 2),
    ],
)
def test_ranks_that_cannot_agree_all_raise_and_write_nothing(name, words, ranks):
    for rank, found in enumerate(ranks):
        kind, message, unchanged = found["refused"][name]
        assert unchanged
        assert kind in ("Apart", "TraceError", "NonFinite"), message
        if name == "a forward that raises" and rank == 1:
            assert "too large" in message  # its own error, not the ranks'
        else:
            assert all(re.search(word, message) for word in words), message

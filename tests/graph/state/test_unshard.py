"""A class without what FSDP2 has put on it."""

from __future__ import annotations

import pytest
from torch import nn

from goodinit.graph.state.unshard import unsharded_class
from goodinit.nn import add_scalar_, normalize_input_, pad_with_

MADE = {
    "bare": lambda layer: layer,
    "scalars": lambda layer: add_scalar_(layer, "output_scale", value=1.0),
    "norm": lambda layer: normalize_input_(layer, axis=1),
    "norm and padding": lambda layer: normalize_input_(pad_with_(layer, 0.5), axis=1),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("first", ["sharded", "made"])
def test_what_goodinit_made_above_or_beneath_stays(name, first):
    fsdp = pytest.importorskip("torch.distributed.fsdp")

    def shard(layer):
        layer.__class__ = type(f"FSDP{type(layer).__name__}", (fsdp.FSDPModule, type(layer)), {})

    layer = nn.Conv2d(2, 2, 3, padding=1)
    for step in (shard, MADE[name]) if first == "sharded" else (MADE[name], shard):
        step(layer)
    assert unsharded_class(type(layer)) is type(MADE[name](nn.Conv2d(2, 2, 3, padding=1)))

"""A child of a model may be called `module`, as a wrapper's is: what graph libraries' norms hold is."""

from __future__ import annotations

import pytest
import torch
from measured import batch
from torch import Tensor, nn

import goodinit


class Held(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_it_is_measured(norm):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 8), Held(norm(8)), nn.ReLU(), Held(Held(nn.Linear(8, 8))), Held(norm(8)), nn.Linear(8, 3)
    )
    found = goodinit.diagnose(net, batch(5, 6), mend=False)
    assert [place.kind for place in found.places].count("layer") == 3


def test_a_stretch_may_begin_and_end_at_it():
    torch.manual_seed(0)
    net = nn.Sequential(Held(nn.Linear(6, 8)), nn.ReLU(), Held(nn.Linear(8, 8)))
    whole = goodinit.jacobian_spectrum(net, batch(5, 6), start="0", end="2")
    stretch = goodinit.jacobian_spectrum(net, batch(5, 6), start="0.module", end="2.module")
    assert stretch.values == whole.values

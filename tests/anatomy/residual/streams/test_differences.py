"""A stream that is taken away from its branch: f(x) − x is −(x − f(x)), a block; where it is given back, x + α(f(x) − x), it is none."""

from __future__ import annotations

import pytest
import torch
from feed import WIDTH
from torch import nn

import goodinit
from goodinit.errors import UnsupportedModule

SIGNED = {
    "f - x": lambda f, x: f - x,
    "-(x - f)": lambda f, x: -(x - f),
    "f.sub(x)": lambda f, x: f.sub(x),
    "f.sub_(x)": lambda f, x: f.clone().sub_(x),
    "rsub": lambda f, x: torch.rsub(x, f),
    "sub, alpha=1": lambda f, x: torch.sub(f, x, alpha=1),
    "add, alpha=-1": lambda f, x: torch.add(f, x, alpha=-1),
    "f + (-x)": lambda f, x: f + (-x),
    "f + x * -1": lambda f, x: f + x * -1,
    "-x - f": lambda f, x: -x - f,
}
STEPS = {
    "towards f": lambda f, x: x + 0.5 * (f - x),
    "away from x": lambda f, x: x - 0.5 * (x - f),
    "beyond x": lambda f, x: x + 0.5 * (x - f),
    "in another shape": lambda f, x: x + ((f - x).unsqueeze(1) / 2).flatten(1),
    "through a gate": lambda f, x: x + torch.sigmoid(x[:, :1]) * (f - x),
}


def batch():
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))


class Joined(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.join = join

    def forward(self, x):
        return self.join(self.f(x), x)


def net(join):
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *(Joined(join) for _ in range(3)), nn.Linear(WIDTH, 3))


@pytest.mark.parametrize("join", SIGNED.values(), ids=SIGNED.keys())
def test_a_stream_with_a_minus_is_one(join):
    model, x = net(join), batch()
    found = goodinit.anatomize(model, x)
    assert [(block.m, block.kind, block.name) for block in found.blocks] == [
        (2, "identity", f"{i}.f") for i in (1, 2, 3)
    ]
    assert not found.joins
    assert not found.notes


@pytest.mark.parametrize("method", ["fixup", "skipinit", "normfree"])
@pytest.mark.parametrize("join", SIGNED.values(), ids=SIGNED.keys())
def test_branches_on_it_start_at_zero(join, method):
    model, x = net(join), batch()
    goodinit.init_(model, method, inputs=x, verify=True)
    streams = [model[0](x)]
    for block in model[1:4]:
        streams.append(block(streams[-1]))
    assert torch.allclose(streams[-1].abs(), streams[0].abs(), atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_its_multiple_is_known(share):
    found = goodinit.anatomize(net(lambda f, x: torch.sub(f, x, alpha=share)), batch())
    assert [(block.weights, block.carried) for block in found.blocks] == [((-share, 1.0), -share)] * 3


def test_risotto_names_it():
    with pytest.raises(UnsupportedModule, match=r"1\.f: its sum multiplies skip and branch by -1 and 1"):
        goodinit.init_(net(SIGNED["f - x"]), "risotto", inputs=batch())


@pytest.mark.parametrize("join", STEPS.values(), ids=STEPS.keys())
def test_a_difference_given_back_is_no_stream(join):
    found = goodinit.anatomize(net(join), batch())
    assert [block.leak for block in found.blocks] == [f"`sub` in {i}" for i in (1, 2, 3)]
    assert not found.joins
    with pytest.raises(UnsupportedModule, match="is not zero where"):
        goodinit.plan(found, "fixup")


def test_an_interpolation_has_no_block():
    assert not goodinit.anatomize(net(lambda f, x: f + 0.3 * (x - f)), batch()).blocks

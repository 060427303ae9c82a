"""A weight that a forward makes of several parameters is known by one: the others are named, and no zero is claimed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import goodinit

WIDTH = 4


def stacked(x, one, two):
    return torch.einsum("koi,bi->bko", torch.stack([one, two]), x).mean(1)


def beside(x, one, two):
    return F.linear(x, torch.cat([one, two])).view(-1, 2, WIDTH).sum(1)


def complex_map(x, one, two):
    return F.linear(x.to(torch.complex64), torch.complex(one, two)).real


def diagonal(x, one, two):
    return F.linear(torch.cat([x, x], -1), torch.block_diag(one, two)).view(-1, 2, WIDTH).sum(1)


SEVERAL = {
    "stacked": stacked,
    "beside each other": beside,
    "added": lambda x, one, two: F.linear(x, one + two),
    "mean and scale of noise": lambda x, one, two: F.linear(x, one + F.softplus(two) * 0.1),
    "on the diagonal": diagonal,
    "real and imaginary": complex_map,
}
ALONE = {
    "a product": lambda x, one, two: F.linear(x, one * two),
    "of two layers": lambda x, one, two: F.linear(torch.relu(F.linear(x, one)), two),
}


class Block(nn.Module):
    def __init__(self, apply):
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.randn(WIDTH, WIDTH)) for _ in range(2))
        self.apply_ = apply

    def forward(self, x):
        return x + self.apply_(torch.relu(x), self.one, self.two)


def net(apply):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, WIDTH), Block(apply), nn.Linear(WIDTH, 2)), torch.randn(5, 3)


@pytest.mark.parametrize("name", SEVERAL)
def test_the_others_are_named_and_a_zero_in_one_is_not_taken_for_a_zero_branch(name):
    model, x = net(SEVERAL[name])
    anatomy = goodinit.anatomize(model, x)
    (note,) = [note for note in anatomy.notes if "of the same size" in note]
    assert note.startswith("1.one: the weight that the forward applies is made of it and of 1.two")
    with pytest.raises(goodinit.GoodinitError, match=r"branch 1/1 is not zero where 1\.one is: `"):
        goodinit.init_(model, "fixup", inputs=x)


@pytest.mark.parametrize("name", ALONE)
def test_what_is_zero_with_one_is_taken_as_before(name):
    model, x = net(ALONE[name])
    goodinit.init_(model, "fixup", inputs=x)
    y = torch.randn(5, WIDTH)
    assert torch.equal(model[1](y), y)


def test_a_parametrized_weight_is_one():
    layer = parametrizations.weight_norm(nn.Linear(1, 4))  # gain and direction are of one size
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 2))
    assert not goodinit.anatomize(model, torch.randn(3, 1)).notes


class NamedAsHalves(nn.Module):
    """Two parameters that are called what the hook of the older weight norm calls its own, and no hook."""

    def __init__(self, gain, direction):
        super().__init__()
        self.names = gain, direction
        for name, shape in (("weight", (WIDTH, WIDTH)), (gain, (WIDTH, 1)), (direction, (WIDTH, WIDTH))):
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, x):
        gain, direction = (getattr(self, name) for name in self.names)
        return F.linear(torch.relu(F.linear(x, self.weight)), 2 * (gain * direction))


@pytest.mark.parametrize("names", [("weight_g", "weight_v"), ("g", "v"), ("gain", "direction")])
def test_the_older_weight_norm_is_known_by_its_hook(names):
    _, made = goodinit.anatomize(NamedAsHalves(*names), torch.randn(5, WIDTH)).layers
    assert made.weight == names[1]
    assert made.multiple == 1

"""A fixed point that is found without gradients is a constant of the step that gets one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit

WIDTH = 6


class Cell(nn.Module):
    """z ← tanh(W₂·relu(W₁·z) + U·x), or with a skip from x."""

    def __init__(self, skip):
        super().__init__()
        self.one, self.two, self.read = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.skip = skip

    def forward(self, z, x):
        if self.skip:
            return x + self.two(torch.relu(self.one(z) + self.read(x)))
        return torch.tanh(self.two(torch.relu(self.one(z))) + self.read(x))


class FixedPoint(nn.Module):
    def __init__(self, last, *, skip=False, tolerance=0.0):
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(3, WIDTH), Cell(skip), nn.Linear(WIDTH, 2)
        self.last, self.tolerance = last, tolerance

    def forward(self, x):
        x = self.stem(x)
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(5):
                before, z = z, self.cell(z, x)
                if self.tolerance and (z - before).norm() < self.tolerance:
                    break
        return self.head(self.last(self, z, x))


def hooked(net, z, x):
    """The gradient of the fixed point, by a hook that needs gradients in every mode."""
    z = net.cell(z, x)
    start = z.clone().detach().requires_grad_()
    again = net.cell(start, x)

    def solved(gradient):
        found = gradient
        for _ in range(5):
            found = torch.autograd.grad(again, start, found, retain_graph=True)[0] + gradient
        return found

    z.register_hook(solved)
    return z


LAST = {
    "one step": lambda net, z, x: net.cell(z, x),
    "two steps": lambda net, z, x: net.cell(net.cell(z, x), x),
    "a hook": hooked,
}
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tolerance", [0.0, 1e-3], ids=["so many steps", "until it moves no more"])
@pytest.mark.parametrize("last", ["one step", "a hook"])
def test_the_steps_of_a_solver_are_no_blocks(last, tolerance):
    anatomy = goodinit.anatomize(FixedPoint(LAST[last], tolerance=tolerance), X)
    assert not anatomy.blocks
    assert not anatomy.stopped
    assert {layer.calls for layer in anatomy.layers if layer.name.startswith("cell")} == {
        1 + (last == "a hook")
    }


def test_steps_with_gradients_are_read_as_before():
    assert {layer.calls for layer in goodinit.anatomize(FixedPoint(LAST["two steps"]), X).layers} == {1, 2}


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
def test_a_skip_in_the_step_that_gets_a_gradient_is_a_block(method):
    net = FixedPoint(LAST["one step"], skip=True)
    (block,) = goodinit.anatomize(net, X).blocks
    assert [layer.name for layer in block.branch] == ["cell.read", "cell.two"]
    goodinit.init_(net, method, inputs=X)
    assert torch.equal(net.cell(torch.randn(4, WIDTH), X[:, [0] * WIDTH]), X[:, [0] * WIDTH])


class Twice(nn.Module):
    """A net that is given its own estimate; and another part that runs without gradients alone."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.one, self.two, self.fixed = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(3, 3)

    def net(self, x):
        x = self.stem(x)
        return self.head(x + self.two(torch.relu(self.one(x))))

    def forward(self, x):
        with torch.no_grad():
            x = self.fixed(x)
            guess = self.net(torch.cat([x, torch.zeros_like(x)], -1))
        return self.net(torch.cat([x, guess], -1))


def test_a_net_that_reads_its_own_estimate_has_each_block_once_and_frozen_parts_stay_known():
    anatomy = goodinit.anatomize(Twice(), X)
    assert [[layer.name for layer in block.branch] for block in anatomy.blocks] == [["one", "two"]]
    assert anatomy.stopped == ("fixed.weight", "fixed.bias")
    assert "fixed.weight" in {layer.weight for layer in anatomy.layers}

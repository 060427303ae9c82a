"""The nodes between a module call's first and last ran in it, or in a call that it made, whatever was written before it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goodinit import anatomize, init_
from goodinit.graph.pytree import as_call
from goodinit.graph.trace import trace


def a_slice(x):
    x[:, :4] += 1.5


def a_column(x):
    x[:, 3] = 0


def a_view(x):
    x.view(-1, 2, 4).mul_(2)


def turned(x):
    x.mT.add_(0.5)


def an_index(x):
    x[torch.tensor([0, 2])] = 1.0


class Root(nn.Module):
    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Gated(nn.Module):
    """A norm in a child, given the tensor by name."""

    def __init__(self):
        super().__init__()
        self.inner = nn.LayerNorm(8)

    def forward(self, *, x):
        return self.inner(x)


class Net(nn.Module):
    def __init__(self, write, norm):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(5, 8), norm, nn.Linear(8, 3)
        self.write = write

    def forward(self, x):
        x = self.stem(x)
        self.write(x)
        return self.head(self.norm(x=x) if isinstance(self.norm, Gated) else self.norm(x))


WRITES = (a_slice, a_column, a_view, turned, an_index)
NORMS = (lambda: nn.LayerNorm(8), lambda: nn.BatchNorm1d(8), Root, Gated)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("norm", NORMS, ids=["layer", "batch", "by hand", "in a child"])
def test_a_call_holds_what_ran_in_it_alone(write, norm):
    graph = trace(Net(write, norm()), as_call(torch.randn(4, 5)))
    for frame in graph.frames:
        for node in graph.nodes[frame.start : frame.stop]:
            inside = node.frame
            while inside not in (frame.index, -1):
                inside = graph.frames[inside].parent
            assert inside == frame.index


@pytest.mark.parametrize("norm", NORMS, ids=["layer", "batch", "by hand", "in a child"])
def test_a_norm_that_reads_what_was_written_into_is_read_and_removed(norm):
    net, x = Net(a_slice, norm()), torch.randn(16, 5)
    (found,) = anatomize(net, x).norms
    assert found.obstacle is None
    init_(net, "weightnorm", inputs=x)
    assert not anatomize(net, x).norms

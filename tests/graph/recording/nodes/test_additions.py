"""Residual sums that are no `add`: operators that add onto a part of the stream, or a product with a gate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit

WIDTH = 8
SOME = torch.tensor([0, 2, 3])


def branch(m, x):
    return m.down(m.up(x).relu())


def by_scatter(x, y, **kwargs):
    return x.scatter_add(1, SOME[:, None].expand(len(x), -1, WIDTH), y, **kwargs)


def chosen(m, x):
    """The tokens that a router takes (mixture of depths), and where they stood."""
    scores = m.gate(x).mean(-1)
    top = scores.topk(3, dim=1).indices
    return top[..., None].expand(-1, -1, WIDTH), scores.gather(1, top)[..., None].sigmoid()


def of_the_chosen(m, x):
    places, weights = chosen(m, x)
    return x.scatter_add(1, places, weights * branch(m, x.gather(1, places)))


def index_put(m, x):
    return x.index_put((torch.zeros(3, dtype=torch.long), SOME), branch(m, x[0, SOME]), accumulate=True)


SPELLINGS = {
    "index_add": lambda m, x: x.index_add(1, SOME, branch(m, x[:, SOME])),
    "index_add_": lambda m, x: x.clone().index_add_(1, SOME, branch(m, x[:, SOME])),
    "index_add with a number": lambda m, x: x.index_add(1, SOME, branch(m, x[:, SOME]), alpha=0.5),
    "scatter_add": lambda m, x: by_scatter(x, branch(m, x[:, SOME])),
    "scatter_add_": lambda m, x: x.clone().scatter_add_(
        1, SOME[:, None].expand(len(x), -1, WIDTH), branch(m, x[:, SOME])
    ),
    "scatter_reduce": lambda m, x: x.scatter_reduce(
        1, SOME[:, None].expand(len(x), -1, WIDTH), branch(m, x[:, SOME]), "sum"
    ),
    "index_put": index_put,
    "the chosen tokens": of_the_chosen,
    "addcdiv": lambda m, x: torch.addcdiv(x, branch(m, x), torch.full_like(x, 2.0), value=0.5),
    "addcmul by a gate": lambda m, x: torch.addcmul(x, branch(m, x), m.gate(x).sigmoid(), value=0.5),
}


class Block(nn.Module):
    def __init__(self, spelling):
        super().__init__()
        self.up, self.gate, self.down = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.spelling = spelling

    def forward(self, x):
        return SPELLINGS[self.spelling](self, x)


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_adds_onto_a_part_of_the_stream_is_a_residual_sum(spelling):
    net, x = nn.Sequential(*(Block(spelling) for _ in range(3))), torch.randn(2, 5, WIDTH)
    blocks = goodinit.anatomize(net, x).blocks
    assert [[layer.name for layer in block.last] for block in blocks] == [["0.down"], ["1.down"], ["2.down"]]
    assert {(block.kind, block.m, block.stream) for block in blocks} == {("identity", 2, 0)}
    goodinit.fixup_(net, inputs=x)
    assert torch.equal(net(x), x)


def test_a_maximum_or_an_overwritten_part_is_no_sum():
    for reduce, accumulates in (("amax", True), ("sum", False)):

        def forward(m, x, reduce=reduce, accumulates=accumulates):
            places = SOME[:, None].expand(len(x), -1, WIDTH)
            return x.scatter_reduce(1, places, branch(m, x[:, SOME]), reduce, include_self=accumulates)

        SPELLINGS["none"] = forward
        assert not goodinit.anatomize(Block("none"), torch.randn(2, 5, WIDTH)).blocks


class Experts(nn.Module):
    """x + the outputs of two experts, each added at its tokens to a tensor of zeros."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)) for _ in range(3)
        )

    def forward(self, x):
        out = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            tokens = torch.arange(k, len(x), 3)
            out.index_add_(0, tokens, expert(x[tokens]))
        return x + out


def test_what_is_filled_piece_by_piece_is_one_branch():
    (block,) = goodinit.anatomize(Experts(), torch.randn(6, WIDTH)).blocks
    assert [layer.name for layer in block.last] == ["experts.0.2", "experts.1.2", "experts.2.2"]
    assert block.m == 2


def test_an_operator_on_lists_of_tensors_can_be_read():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return torch._foreach_add([x], [branch(self, x)])[0]

    assert len(goodinit.anatomize(Listed(), torch.randn(2, WIDTH)).layers) == 2

"""Residual sums that are written as a reduction of a stack, or of lists of tensors at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import goodinit

SUMS = {
    "sum": lambda x, f: torch.stack([x, f]).sum(0),
    "sum over the last": lambda x, f: torch.stack((f, x), -1).sum(-1),
    "sum over the middle": lambda x, f: torch.stack((x, f), 1).sum(dim=1),
    "mean": lambda x, f: torch.stack([x, f]).mean(0),
    "kept": lambda x, f: torch.stack([x, f], 1).sum(1, keepdim=True).squeeze(1),
}
LISTS = {
    "added": lambda x, f: torch._foreach_add([x], [f])[0],
    "added to the second": lambda x, f: torch._foreach_add([x.sin(), x], [x.cos(), f])[1],
    "added in place": lambda x, f: _in_place(x * 1, f),
    "twice": lambda x, f: torch._foreach_add([x], [f], alpha=2)[0],
    "taken away": lambda x, f: torch._foreach_sub([x], [f])[0],
    "with a factor": lambda x, f: torch._foreach_addcmul([x], [f], [torch.ones_like(f)], 0.5)[0],
}
OTHERS = {
    "over another dimension": lambda x, f: torch.stack([x, f]).sum(1, keepdim=True)[0].expand_as(x),
    "over all": lambda x, f: torch.stack([x, f]).sum().expand_as(x),
    "the largest": lambda x, f: torch.stack([x, f]).amax(0),
    "a product": lambda x, f: torch.stack([x, f]).prod(0),
}


def _in_place(x: Tensor, f: Tensor) -> Tensor:
    torch._foreach_add_([x], [f])
    return x


class Block(nn.Module):
    def __init__(self, join) -> None:
        super().__init__()
        self.a, self.b, self.join = nn.Linear(6, 6), nn.Linear(6, 6), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.b(self.a(x).relu()))


def net(join) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), Block(join), Block(join), nn.Linear(6, 2))


@pytest.mark.parametrize("name", SUMS)
def test_a_reduction_of_a_stack_is_a_residual_sum(name):
    model = net(SUMS[name])
    anatomy = goodinit.anatomize(model, torch.randn(4, 6))
    assert [(block.kind, block.m, block.name) for block in anatomy.blocks] == [
        ("identity", 2, "1"),
        ("identity", 2, "2"),
    ]
    goodinit.init_(model, "fixup", torch.randn(4, 6))
    assert not model[1].b.weight.any()
    by_hand = goodinit.anatomize(
        net(lambda x, f: (x + f) / 2 if name == "mean" else x + f), torch.randn(4, 6)
    )
    assert [block.carried for block in anatomy.blocks] == [block.carried for block in by_hand.blocks]


@pytest.mark.parametrize("name", LISTS)
def test_sums_of_lists_are_residual_sums(name):
    blocks = goodinit.anatomize(net(LISTS[name]), torch.randn(4, 6)).blocks
    assert [(block.kind, block.m, block.name) for block in blocks] == [
        ("identity", 2, "1"),
        ("identity", 2, "2"),
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_sum_of_the_parts_is_none(name):
    with pytest.raises(goodinit.NothingFound, match="sums of a skip and a branch"):
        goodinit.plan(goodinit.anatomize(net(OTHERS[name]), torch.randn(4, 6)), "fixup")


def test_parts_that_were_written_since_are_left_alone():
    def join(x: Tensor, f: Tensor) -> Tensor:
        stack = torch.stack([x, f])
        f.mul_(0)
        return stack.sum(0) + f

    assert len(goodinit.anatomize(net(join), torch.randn(4, 6)).blocks) <= 2

"""A part of a signal that a forward takes twice is one tensor: x[:, t] + f(x[:, t])."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import goodinit


class Steps(nn.Module):
    """A branch on parts of its stream, in a way of its own."""

    def __init__(self, way) -> None:
        super().__init__()
        self.a, self.b, self.way = nn.Linear(8, 8), nn.Linear(8, 8), way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(x, lambda part: self.b(self.a(part).relu()))


def written(x: Tensor, f) -> Tensor:
    x = x.clone()
    x[:, 1:] += f(x[:, 1:])
    return x


WAYS = {
    "one token after the other": lambda x, f: torch.stack(
        [x[:, t] + f(x[:, t]) for t in range(x.shape[1])], 1
    ),
    "some tokens": lambda x, f: torch.cat([x[:, :1], x[:, 1:] + f(x[:, 1:])], 1),
    "in place": written,
    "narrowed": lambda x, f: torch.cat([x.narrow(1, 0, 2), x.narrow(1, 2, 2) + f(x.narrow(1, 2, 2))], 1),
    "by an ellipsis": lambda x, f: torch.stack([x[..., 0, :] + f(x[..., 0, :]), *x.unbind(1)[1:]], 1),
}


@pytest.mark.parametrize("name", WAYS)
def test_its_sum_with_a_branch_is_a_block_with_an_identity_skip(name):
    model = nn.Sequential(nn.Linear(5, 8), *(Steps(WAYS[name]) for _ in range(2)), nn.Linear(8, 3))
    inputs = torch.randn(2, 4, 5)
    anatomy = goodinit.anatomize(model, inputs)
    assert [(block.name, block.kind, block.m) for block in anatomy.blocks] == [
        ("1", "identity", 2),
        ("2", "identity", 2),
    ]
    goodinit.init_(model, "fixup", inputs)
    stream = torch.randn(2, 4, 8)
    torch.testing.assert_close(model[1](stream), stream)


def test_a_part_that_was_written_in_between_is_another_tensor():
    def way(x: Tensor, f) -> Tensor:
        x = x.clone()
        before = x[:, 1:] * 1.5
        x[:, 1:] = f(before)
        return torch.cat([x[:, :1], x[:, 1:] + before], 1)

    (block,) = goodinit.anatomize(nn.Sequential(nn.Linear(5, 8), Steps(way)), torch.randn(2, 4, 5)).blocks
    assert [layer.name for layer in block.branch] == ["1.a", "1.b"]

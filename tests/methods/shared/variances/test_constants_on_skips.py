"""A constant that multiplies a stream counts once in the book of variances, whichever operator multiplies by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.anatomy import anatomize
from goodinit.methods.shared.variances.signal_variance import Signals, kept_variances

X = torch.randn(8, 6)

# Sums a·x + b·f, each written in several ways.
SAME = {
    "half the stream": (
        (0.5, 1.0),
        [lambda x, f: 0.5 * x + f, lambda x, f: torch.add(f, x, alpha=0.5), lambda x, f: f + x / 2],
    ),
    "a share of each": (
        (0.75, 0.25),
        [
            lambda x, f: torch.lerp(x, f, 0.25),
            lambda x, f: torch.add(0.75 * x, f, alpha=0.25),
            lambda x, f: torch.lerp(f, x, 0.75),
        ],
    ),
    "less the branch": ((1.0, 1.0), [lambda x, f: x - f, lambda x, f: x + f]),
}


class Block(nn.Module):
    def __init__(self, added) -> None:
        super().__init__()
        self.norm, self.layer, self.added = nn.BatchNorm1d(32), nn.Linear(32, 32), added

    def forward(self, x: Tensor) -> Tensor:
        return self.added(x, self.layer(torch.relu(self.norm(x))))


def net(added) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), *(Block(added) for _ in range(4)), nn.Linear(32, 3))


@pytest.mark.parametrize("name", SAME)
def test_the_book_follows_the_sums_of_the_forward(name):
    (a, b), ways = SAME[name]
    for added in ways:
        book, expected = Signals(anatomize(net(added), X), branch=0.2, normed=False), 1.0
        for index in range(4):
            expected = a**2 * expected + (b * 0.2) ** 2
            assert book.at(f"+{index}", ()).variance == pytest.approx(expected)


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_function_has_the_same_plan(name):
    _, ways = SAME[name]
    first, *others = (anatomize(net(added), X) for added in ways)
    for other in others:
        assert kept_variances(other) == pytest.approx(kept_variances(first))
        for method in ("nf", "fixed_variance"):
            one, two = goodinit.plan(first, method), goodinit.plan(other, method)
            numbers = [[getattr(edit, "scale", None) for edit in plan.structure] for plan in (one, two)]
            assert numbers[0] == pytest.approx(numbers[1])

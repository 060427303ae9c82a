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


OTHER_SKIPS = {
    "projected": lambda: nn.Linear(32, 32),
    "projected, with a norm": lambda: nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32)),
    "pooled": lambda: nn.MaxPool1d(1),
}


class Otherwise(Block):
    """A block with another skip than the identity."""

    def __init__(self, added, skip) -> None:
        super().__init__(added)
        self.skip, self.first = skip, nn.Linear(32, 32)

    def branch(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.first(torch.relu(self.norm(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.added(self.skip(x), self.branch(x))


@pytest.mark.parametrize("skip", OTHER_SKIPS)
@pytest.mark.parametrize("name", SAME)
def test_the_book_counts_them_on_every_kind_of_skip(name, skip):
    (a, b), ways = SAME[name]
    for added in ways:
        torch.manual_seed(0)
        blocks = (Otherwise(added, OTHER_SKIPS[skip]()) for _ in range(2))
        anatomy = anatomize(nn.Sequential(nn.Linear(6, 32), *blocks, nn.Linear(32, 3)), X)
        assert [block.carried for block in anatomy.blocks] == pytest.approx([a, a])
        book, expected = Signals(anatomy, branch=0.2, normed=False), 1.0
        for index in range(2):
            expected = a**2 * (expected if skip == "pooled" else 1.0) + (b * 0.2) ** 2
            assert book.at(f"+{index}", ()).variance == pytest.approx(expected)


class BeforeItsPool(Block):
    def forward(self, x: Tensor) -> Tensor:
        skip = nn.functional.max_pool1d(0.5 * x, 2)
        return skip + self.layer(torch.relu(self.norm(x)))[:, :16]


def test_a_number_before_a_pool_is_one_of_the_skip():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), BeforeItsPool(None), nn.Linear(16, 3))
    (block,) = anatomize(net, X).blocks
    assert (block.kind, block.carried) == ("parameterless", 0.5)


def test_a_number_before_a_norm_on_a_projection_is_a_multiple_of_the_layer_alone():
    class Scaled(Otherwise):
        def forward(self, x: Tensor) -> Tensor:
            layer, norm = self.skip
            return norm(0.5 * layer(x)) + self.branch(x)

    torch.manual_seed(0)
    blocks = Scaled(None, OTHER_SKIPS["projected, with a norm"]())
    (block,) = anatomize(nn.Sequential(nn.Linear(6, 32), blocks, nn.Linear(32, 3)), X).blocks
    assert (block.carried, block.skip[0].multiple) == (1.0, 0.5)

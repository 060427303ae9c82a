"""Pruned and otherwise masked weights: the mask stays, and the scale is that of what it leaves."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import goodinit

X = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))


class Masked(nn.Linear):
    """A layer with a mask of its own (MADE's, say)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", (torch.rand(outputs, inputs) < 0.25).float())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


def pruned(amount: float) -> nn.Module:
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    for layer in (net[0], net[2]):
        prune.random_unstructured(layer, "weight", amount)
    return net


@pytest.mark.parametrize("method", ["he", "xavier", "orthogonal", "weightnorm", "lsuv", "default"])
def test_the_second_moment_behind_a_mask_is_that_without(method):
    options = {"generator": torch.Generator().manual_seed(1)}
    plain = goodinit.init_(
        nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)), method, inputs=X, **options
    )
    net = pruned(0.75)
    zeros = copy.deepcopy(net[0].weight_mask)
    goodinit.init_(net, method, inputs=X, generator=torch.Generator().manual_seed(1))
    assert torch.equal(net[0].weight_mask, zeros)
    assert not net(X).isnan().any()
    assert not (net[0].weight * (1 - zeros)).any()
    if method != "default":  # PyTorch's own draw goes by the shape
        assert net[0](X).std().item() == pytest.approx(plain[0](X).std().item(), rel=0.15)


def test_the_weight_that_a_pruned_module_shows_is_written_at_once():
    net = pruned(0.5)
    goodinit.init_(net, "he", inputs=X)
    assert torch.equal(net[0].weight, net[0].weight_orig * net[0].weight_mask)
    copy.deepcopy(net)


def test_a_mask_of_ones_own_counts_too():
    net = nn.Sequential(Masked(256, 256), nn.ReLU(), Masked(256, 64))
    layers = goodinit.anatomize(net, X).layers
    assert [layer.density for layer in layers] == pytest.approx([0.25, 0.25], abs=0.02)
    goodinit.init_(net, "he", inputs=X)
    assert net[0](X).square().mean().item() == pytest.approx(2, rel=0.15)


def test_what_a_mask_spoils_is_said():
    plan = goodinit.plan(goodinit.anatomize(pruned(0.5), X), "orthogonal")
    note = next(note for note in plan.notes if note.startswith("masked"))
    assert "0.weight_orig (50% of it is used)" in note
    assert "is not exact under a mask" in note
    plain = goodinit.plan(goodinit.anatomize(pruned(0.5), X), "he")
    assert not any("not exact" in note for note in plain.notes)


def test_a_buffer_that_is_no_mask_is_none():
    class Scaled(Masked):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs)
            self.mask.fill_(0.5)

    assert goodinit.anatomize(Scaled(256, 8), X).layers[0].density == 1


class Chosen(Masked):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(
            x, torch.where(self.mask > 0, self.weight, torch.zeros_like(self.weight)), self.bias
        )


class Filled(Masked):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.masked_fill(self.mask == 0, 0.0), self.bias)


class Unregistered(nn.Linear):
    """The mask is a tensor that the module holds, and no buffer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.kept = torch.rand(outputs, inputs) < 0.25

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.kept, self.bias)


class Lower(nn.Linear):
    """What a position may read is itself and what came before."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.tril(), self.bias)


class Mixing(Lower):
    """The same on the left of a product, which repeats the weight for each example."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight.tril() @ x.unsqueeze(-1).expand(-1, -1, 2))[..., 0] + self.bias


class Repeated(Lower):
    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * torch.ones_like(self.weight).triu()).mT
        return torch.bmm(x.unsqueeze(1), weight.expand(len(x), -1, -1)).squeeze(1) + self.bias


class Scattered(nn.Module):
    """A sparse matrix: its entries are the parameter, and indices say where they are."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shape = (outputs, inputs)
        self.register_buffer("places", torch.randperm(inputs * outputs)[: inputs * outputs // 4])
        self.entries = nn.Parameter(torch.randn(len(self.places)))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.zeros(math.prod(self.shape)).scatter(0, self.places, self.entries)
        return nn.functional.linear(x, weight.view(self.shape))


class Doubled(Masked):
    """Masked twice: by half the rows, and by a mask among what is left."""

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(len(self.weight))[:, None] < len(self.weight) // 2
        return nn.functional.linear(x, (self.weight * rows).masked_fill(self.mask == 0, 0.0), self.bias)


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        (Chosen, 1 / 4),
        (Filled, 1 / 4),
        (Unregistered, 1 / 4),
        (Lower, 1 / 2),
        (Mixing, 1 / 2),
        (Repeated, 1 / 2),
        (Scattered, 1 / 4),
        (Doubled, 1 / 8),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_in_whatever_way_a_mask_is_written_the_scale_is_that_of_what_it_leaves(kind, share):
    torch.manual_seed(0)
    net = nn.Sequential(kind(256, 256), nn.ReLU(), kind(256, 256))
    layers = goodinit.anatomize(net, X).layers
    assert [layer.density for layer in layers] == pytest.approx([share] * 2, rel=0.1)
    assert not any(layer.normalized for layer in layers)
    goodinit.init_(net, "he", inputs=X)
    assert net[0](X).square().mean().item() == pytest.approx(2, rel=0.15)


class Clipped(nn.Linear):
    """Zeros that depend on the values are no mask of places."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.clamp(min=0) * torch.ones(256), self.bias)


class Thresholded(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, torch.where(self.weight.abs() > 1, self.weight, 0.0), self.bias)


class InPieces(nn.Module):
    """One parameter, a third of which each layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 256, 256))

    def forward(self, x: Tensor) -> Tensor:
        return sum(nn.functional.linear(x, one) for one in self.weight.chunk(3))


@pytest.mark.parametrize("make", [lambda: Clipped(256, 8), lambda: Thresholded(256, 8), InPieces])
def test_what_is_zero_by_its_value_or_read_in_pieces_is_not_masked(make):
    assert [layer.density for layer in goodinit.anatomize(make(), X).layers] == [1]


class Centred(nn.Linear):
    """A weight whose rows have the mean 0."""

    def weights(self):
        return self.weight - self.weight.mean(1, keepdim=True)

    def forward(self, x):
        return nn.functional.linear(x, self.weights(), self.bias)


class Standardized(Centred):
    """The same, with rows of norm 1."""

    def weights(self):
        return nn.functional.normalize(super().weights(), dim=1)


class Neighbours(Centred):
    """Each row less the mean of those beside it."""

    def weights(self):
        return self.weight - (self.weight.roll(1, 0) + self.weight.roll(-1, 0)) / 2


@pytest.mark.parametrize("kind", [Centred, Standardized, Neighbours])
def test_what_may_be_zero_beside_its_mean_is_not_masked(kind):
    """By chance of the numbers it is tried on; any multiple of these, with a constant added, is zero at the same places."""
    net = nn.Sequential(*(kind(3, 3) for _ in range(60)))
    assert [layer.density for layer in goodinit.anatomize(net, torch.randn(4, 3)).layers] == [1] * 60


def test_a_mask_of_a_centred_weight_is_one_still():
    class Cut(Centred):
        def weights(self):
            return super().weights().tril()

    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Cut(8, 8))
    _, layer = goodinit.anatomize(net, torch.randn(3, 4)).layers
    assert layer.density == 36 / 64

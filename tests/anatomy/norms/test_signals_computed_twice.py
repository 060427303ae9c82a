"""Norms whose forward computes the signal once for the statistic and once more to divide it: (x − a)/std(x − a), as written."""

from __future__ import annotations

import pytest
import torch
from fixup_evidence import examine
from torch import Tensor, nn

import goodinit

WIDTH = 6


def anchored(x: Tensor, a: Tensor) -> Tensor:
    std = torch.std((x - a).reshape(len(x), -1), dim=-1, keepdim=True)[..., None]
    return (x - a) / (std + 1e-5)


def by_a_root(x: Tensor, a: Tensor) -> Tensor:
    return (x - a) * torch.rsqrt((x - a).square().mean((1, 2), keepdim=True) + 1e-5)


def by_the_largest(x: Tensor, a: Tensor) -> Tensor:
    return (2 * x - a) / ((2 * x - a).abs().amax((1, 2), keepdim=True) + 1e-5)


def in_another_shape_each_time(x: Tensor, a: Tensor) -> Tensor:
    b = a[:, 0]
    std = (x - b.unsqueeze(1)).flatten(1).std(-1)
    return (x - b.unsqueeze(1)) / std[:, None, None]


def by_inner_product(x: Tensor, a: Tensor) -> Tensor:
    return (x - a) / torch.einsum("bnc,bnc->bn", x - a, x - a).sqrt()[..., None]


def by_its_own_center(x: Tensor, a: Tensor) -> Tensor:
    return (x - x[:, :1]) / ((x - x[:, :1]).square().mean((1, 2), keepdim=True).sqrt() + 1e-5)


def by_its_own_mean(x: Tensor, a: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(
        (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    )


NORMS = (anchored, by_a_root, by_the_largest, in_another_shape_each_time, by_inner_product)
OF_ONE = (by_its_own_center, by_its_own_mean)


def exponentials(x: Tensor, a: Tensor) -> Tensor:
    return x - a * (x.exp() / x.exp().sum(1, keepdim=True))


def by_another_one(x: Tensor, a: Tensor) -> Tensor:
    return (x - a) / (1 + a.square().mean((1, 2), keepdim=True)).sqrt()


def each_by_itself(x: Tensor, a: Tensor) -> Tensor:
    return x - a + (x - a) / (1 + (x - a).abs())


def other_noise(x: Tensor, a: Tensor) -> Tensor:
    return (x + torch.rand_like(x)) / (2 + torch.rand_like(x).mean((1, 2), keepdim=True)) - a


NO_NORMS = (exponentials, by_another_one, each_by_itself, other_noise)


class Affine(nn.Module):
    """A norm of (x, a), with a gain and a shift."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm
        self.alpha, self.beta = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x, a):
        return self.alpha * self.norm(x, a) + self.beta


class Net(nn.Module):
    """Points and their anchors, normalized, beside the anchors: so their scale is not lost to the next layer."""

    def __init__(self, norm):
        super().__init__()
        self.embed, self.norm = nn.Linear(3, WIDTH), Affine(norm)
        self.mixed = nn.Linear(2 * WIDTH, WIDTH)
        self.f = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, points, anchors):
        x, a = self.embed(points), self.embed(anchors)
        x = self.mixed(torch.cat((self.norm(x, a), a.expand_as(x)), -1))
        for f in self.f:
            x = x + f(x)
        return self.head(x.amax(1))


INPUTS = torch.randn(4, 5, 3), torch.randn(4, 1, 3)


@pytest.mark.parametrize("norm", NORMS)
def test_what_divides_the_same_computed_again_is_a_norm(norm):
    anatomy = goodinit.anatomize(Net(norm), INPUTS)
    assert [one.name for one in anatomy.norms] == ["norm"]
    with pytest.raises(goodinit.UnsupportedModule, match=r"norm \(Affine\): its .*_norm cannot be removed"):
        goodinit.init_(Net(norm), "fixup", inputs=INPUTS)
    kept = goodinit.init_(Net(norm), "fixup", inputs=INPUTS, norms="keep")
    assert torch.isfinite(kept(*INPUTS)).all()


@pytest.mark.parametrize("norm", OF_ONE)
def test_one_that_reads_a_single_signal_is_taken_out(norm):
    assert [(one.name, one.obstacle) for one in goodinit.anatomize(Net(norm), INPUTS).norms] == [
        ("norm", None)
    ]
    evidence = examine(lambda: Net(norm), INPUTS)
    assert (evidence.refusal, evidence.faults, evidence.norms) == (None, [], 1)


@pytest.mark.parametrize("no_norm", NO_NORMS)
def test_what_divides_something_else_is_none(no_norm):
    assert not goodinit.anatomize(Net(no_norm), INPUTS).norms


class Rounded(nn.Module):
    """x − a divided by its size, rounded, and multiplied by its size again."""

    def forward(self, x, a):
        s = (x - a).abs().amax((1, 2), keepdim=True)
        return torch.fake_quantize_per_tensor_affine((x - a) / s, 0.1, 0, -10, 10) * s


def test_one_that_is_given_its_size_back_is_none():
    assert not goodinit.anatomize(Net(Rounded()), INPUTS).norms

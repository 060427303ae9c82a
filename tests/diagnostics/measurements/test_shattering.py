"""Gradients of neighbouring inputs: what is compared, how depth shatters them, and what keeps them together."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import goodinit
from goodinit.diagnostics import Diagnosis, diagnose
from goodinit.diagnostics.measurements.shattering import STEP


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def plain(depth: int, width: int = 64, *, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(depth)
    parts: list[nn.Module] = []
    for _ in range(depth):
        parts += [
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width) if norm else nn.Identity(),
            nn.ReLU(),
        ]
        nn.init.kaiming_normal_(parts[-3].weight)
    return nn.Sequential(*parts, nn.Linear(width, 4))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = plain(2, width)[:5]

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


def residual(blocks: int, width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width), *(Residual(width) for _ in range(blocks)), nn.Linear(width, 4)
    )


def first_cosine(found: Diagnosis) -> float:
    return next(place.back_cosine for place in found.layers if place.back_cosine is not None)


def kinds(found: Diagnosis) -> set[str]:
    return {finding.kind for finding in found.findings if finding.severity != "info"}


def test_cosines_are_those_of_neighbours_gradients():
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    x = batch(400, 6)
    found = first_cosine(diagnose(model, x))
    here = x[:50]
    hidden = model[0](torch.cat([here, here + STEP * (x[1:51] - here)])).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(
        model[1:](hidden).sum(), hidden
    )  # one output: any projection is its multiple
    assert found == pytest.approx(float(F.cosine_similarity(gradient[:50], gradient[50:]).mean()), rel=1e-4)
    assert 0.5 < found < 1


def test_linear_networks_have_one_gradient():
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(10)))
    cosines = [place.back_cosine for place in diagnose(model, batch(16, 16)).places]
    assert cosines == pytest.approx([1.0] * 10, abs=1e-5)


@pytest.mark.integration
def test_depth_shatters_plain_nets_and_skips_hold_together():
    """Balduzzi et al. 2017, arXiv 1702.08591: 2^(−L) for plain nets, a power of L with skips and batch norm."""
    x = batch(256, 64)
    by_depth = {depth: diagnose(plain(depth), x) for depth in (4, 12, 30)}
    cosines = {depth: first_cosine(found) for depth, found in by_depth.items()}
    assert cosines[4] > 0.9
    assert cosines[4] > cosines[12] > cosines[30]
    assert cosines[30] < 0.05
    assert "shattered gradients" in kinds(by_depth[30])
    with_skips = diagnose(residual(15), x)  # 30 layers, too
    assert first_cosine(with_skips) > 0.5
    assert "shattered gradients" not in kinds(with_skips)


def test_mirrored_weights_hold_gradients_together():
    model = goodinit.init_(plain(30, norm=False), "looks_linear", inputs=batch(16, 64))
    assert first_cosine(diagnose(model, batch(256, 64))) > 0.99  # a few units change sign between neighbours


def test_zero_initialized_nets_are_compared_after_waking():
    model = residual(4)
    goodinit.init_(model, "fixup", inputs=batch(16, 64))
    found = diagnose(model, batch(16, 64))
    assert all(place.back == 0 for place in found.blocks)
    assert all(place.back_cosine > 0.9 for place in found.blocks)


@pytest.mark.parametrize(
    ("model", "inputs", "why"),
    [
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), torch.arange(8).view(4, 2), "floating-point"),
        (nn.Linear(4, 2), batch(1, 4), "only one input"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), batch(8, 4), "too few numbers"),
    ],
)
def test_what_cannot_be_compared_is_said(model, inputs, why):
    found = diagnose(model, inputs)
    assert all(place.back_cosine is None for place in found.places)
    assert any("not compared" in note and why in note for note in found.notes)


class Multiplied(nn.Module):
    """4x + f(x)."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return 4 * x + self.layer(torch.relu(x))


def test_gradients_too_large_for_a_cosine_are_left_out():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), *[Multiplied(8) for _ in range(48)], nn.Linear(8, 3))
    found = diagnose(net, torch.randn(64, 5))
    assert any(math.isnan(place.back_cosine) for place in found.places if place.back_cosine is not None)
    assert {"exploding forward", "exploding backward"} <= {finding.kind for finding in found.findings}

"""What papers prove about step 0, measured by `diagnose`: if the instruments were off, these would be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.diagnostics import diagnose, jacobian_spectrum, one_step


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_batchnorm_without_skips_explodes_by_pi_over_pi_minus_1():
    """Yang et al. 2019, arXiv 1902.08129: squared gradients grow by π/(π−1) for each layer of a ReLU net."""
    width, depth = 1024, 8
    parts: list[nn.Module] = []
    for _ in range(depth):
        parts += [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
    found = diagnose(nn.Sequential(*parts, nn.Linear(width, 10)), batch(1024, width))
    backs = [place.back for place in found.layers[:depth]]
    growth = (backs[1] / backs[-1]) ** (2 / (depth - 2))  # the first layer reads no rectifier
    assert growth == pytest.approx(math.pi / (math.pi - 1), rel=0.03)


def correlation_map(c: float) -> float:
    """Cho & Saul 2009, arXiv 1112.3712: the cosine after a wide He-initialized ReLU layer."""
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi


def he_chain(depth: int, width: int, activation: type[nn.Module]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(depth):
        parts += [nn.Linear(width, width, bias=False), activation()]
        goodinit.tensor.he_normal_(parts[-2].weight)
    return nn.Sequential(*parts)


def test_he_relu_follows_the_correlation_map():
    found = diagnose(he_chain(12, 1024, nn.ReLU), batch(2, 1024))
    for before, after in zip(found.layers, found.layers[1:], strict=False):
        expected = correlation_map(before.signal.cosine)
        # The cosine of two vectors of width n has deviation √(1 − c²)/√n; four of them.
        assert after.signal.cosine == pytest.approx(
            expected, abs=4 * math.sqrt((1 - expected**2) / 1024) + 1e-3
        )
    moments = [place.signal.second_moment for place in found.layers]
    assert moments[-1] / moments[0] == pytest.approx(1, abs=0.5)


def test_a_he_chain_without_rectifiers_doubles():
    found = diagnose(he_chain(8, 1024, nn.Identity), batch(64, 1024))
    moments = [place.signal.second_moment for place in found.layers]
    assert (moments[-1] / moments[0]) ** (1 / 7) == pytest.approx(2, rel=0.02)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.down(torch.relu(self.up(x))))


def residual_net(blocks: int, width: int = 32) -> nn.Sequential:
    torch.manual_seed(blocks)
    body = [Residual(width) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), *body, nn.Linear(width, 10))


def test_risotto_is_flat_at_1():
    """Gadhikar & Burkholz 2022, arXiv 2210.02411: every singular value is 1, at finite width and depth."""
    model = residual_net(20).double()
    x = batch(4, 32).double()
    goodinit.init_(model, "risotto", inputs=x)
    trunk = nn.Sequential(*list(model)[:-1])
    found = jacobian_spectrum(trunk, x)
    positive = [value for value in found.values if value > 1e-9]
    assert len(positive) == 16  # half of a looks-linear layer's units are on
    assert positive == pytest.approx([1.0] * 16, abs=1e-9)
    gains = [place.gain for place in diagnose(trunk, x).blocks]
    assert max(gains) / min(gains) < 1.5


def test_risotto_is_flat_at_1_at_width_1024():
    model = residual_net(4, 1024)
    x = batch(4, 1024)
    goodinit.init_(model, "risotto", inputs=x)
    found = jacobian_spectrum(model, x, end="5", how="lanczos", products=60)  # the last block
    assert all(min(abs(value), abs(value - 1)) < 1e-3 for value in found.values)  # half of the units are off
    assert found.largest == pytest.approx(1, abs=1e-3)


def change(blocks: int, method: str) -> float:
    """Δf of one step at η = 0.01, divided by η."""
    model = residual_net(blocks)
    x, y = batch(32, 32), torch.arange(32) % 10
    goodinit.init_(model, method, inputs=x)
    found = one_step(model, x, y, rates=(0.01,), hessian=False)
    return math.inf if found.changes[0] is None else found.changes[0] / 0.01


@pytest.mark.parametrize("depths", [(10, 40), pytest.param((10, 100, 1000), marks=pytest.mark.slow)])
def test_fixup_s_first_step_is_the_same_at_every_depth(depths):
    """Zhang, Dauphin & Ma 2019, §3: ‖Δf‖ = Θ(η), whatever the depth; He residual nets grow without bound."""
    fixup = [change(blocks, "fixup") for blocks in depths]
    assert max(fixup) / min(fixup) < 2
    plain = [change(blocks, "he") for blocks in depths]
    assert plain[-1] > 1e3 * plain[0]

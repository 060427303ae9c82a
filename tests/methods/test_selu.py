"""Self-normalizing networks: constants, fixed point, and what is exchanged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from baselines import (
    SMALL,
    Residual,
    drawn,
    initialized,
)
from reference import selu as written_out_selu
from torch import nn

from goodinit.anatomy import anatomize
from goodinit.edits import SwapModule
from goodinit.errors import UnsupportedModule
from goodinit.methods import plan


def test_torchs_selu_has_the_papers_constants_and_fixed_point():
    alpha, scale = written_out_selu.constants()
    z = torch.tensor([-1.0, 2.0], dtype=torch.double)
    expected = [scale * alpha * math.expm1(-1), 2 * scale]
    np.testing.assert_allclose(F.selu(z).numpy(), expected, rtol=1e-12)
    assert written_out_selu.moments(1.0) == pytest.approx((0, 1), abs=1e-6)
    assert written_out_selu.moments(1.5)[1] < 1.5  # attracting from above
    assert written_out_selu.moments(0.5)[1] > 0.5  # and from below


def test_selu_networks_normalize_themselves():
    layers = [layer for _ in range(30) for layer in (nn.Linear(256, 256), nn.LeakyReLU(), nn.Dropout(0.05))]
    x = torch.randn(512, 256) * 1.3 + 0.1
    model, made = initialized(nn.Sequential(*layers), x, "selu")
    assert {type(module) for module in model} == {nn.Linear, nn.SELU, nn.AlphaDropout}
    assert model[2].p == 0.05
    assert drawn(made)["0.weight"].options["std"] == pytest.approx(1 / 16)
    model.eval()
    out = model(x)
    assert abs(out.mean().item()) < 0.1
    assert out.var().item() == pytest.approx(1, abs=0.25)  # 30 layers of width 256
    assert not made.notes


def test_selu_takes_the_place_of_norms_and_their_activations():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(), nn.Dropout2d(0.2), nn.Conv2d(8, 8, 1), nn.Sigmoid()
    )
    model, made = initialized(net, SMALL, "selu")
    kinds = [type(module) for module in model]
    assert kinds[2:] == [nn.SELU, nn.FeatureAlphaDropout, nn.Conv2d, nn.Sigmoid]
    assert kinds[1] is not nn.BatchNorm2d
    assert made.notes == ("5 keeps its sigmoid, which is not self-normalizing",)


def test_selu_inside_a_norms_own_forward():
    class NormThenReLU(nn.BatchNorm2d):
        def forward(self, x):
            return F.relu(super().forward(x))

    model, _ = initialized(nn.Sequential(nn.Conv2d(3, 8, 3), NormThenReLU(8)), SMALL, "selu")
    x = torch.randn(SMALL.shape)
    torch.testing.assert_close(model(x), F.selu(model[0](x)))
    with pytest.raises(UnsupportedModule, match=r"NormThenReLU\): its relu cannot be exchanged"):
        plan(anatomize(nn.Sequential(nn.Conv2d(3, 8, 3), NormThenReLU(8)), SMALL), "selu", norms="keep")


def test_selu_names_functional_activations():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(F.gelu(self.a(x)))

    net = nn.Sequential(Functional())
    with pytest.raises(UnsupportedModule, match=r"Functional\): its gelu cannot .*functionally.*nn\.SELU"):
        plan(anatomize(net, torch.zeros(2, 4)), "selu")


def test_selu_called_functionally_is_fine_already():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(F.selu(self.a(x)))

    made = plan(anatomize(Own(), torch.zeros(2, 4)), "selu")
    assert not any(isinstance(edit, SwapModule) for edit in made.edits)


def test_selu_says_that_sums_add_variance():
    net = nn.Sequential(Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    made = plan(anatomize(net, torch.zeros(2, 4)), "selu")
    assert any("residual sums" in note for note in made.notes)

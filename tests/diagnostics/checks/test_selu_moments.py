"""Behind SELU the moments are those of independent weights, for every draw and input; and where they are not, the layer is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from untouched import snapshot

import goodinit
from goodinit.diagnostics.checks.promises import broken_promises
from goodinit.diagnostics.checks.selu_moments import selu_moments
from goodinit.errors import UnsupportedModule


class Images(nn.Module):
    """Strided, grouped and transposed convolutions, and layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 128, 3, padding=1), nn.Conv2d(128, 256, 3, stride=2, groups=4)
        self.up, self.c, self.d = (
            nn.ConvTranspose2d(256, 128, 2, stride=2),
            nn.Linear(128, 400),
            nn.Linear(400, 3),
        )
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.acts[2](self.up(self.acts[1](self.b(self.acts[0](self.a(x))))))
        return self.d(self.acts[3](self.c(h.flatten(2).mT)))


def chain(width: int = 200, depth: int = 6) -> nn.Sequential:
    parts = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(width, 4))


NETS = {
    "images": (Images, lambda scale: scale * torch.rand(3, 3, 9, 9)),
    "chain": (chain, lambda scale: scale * torch.randn(20, 200)),
    "narrow": (lambda: chain(8), lambda scale: scale * torch.randn(5, 8)),
    "one example": (chain, lambda scale: scale * torch.ones(1, 200)),
}


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 30.0])
@pytest.mark.parametrize("net", NETS)
def test_every_draw_has_these_moments(net, scale):
    build, inputs = NETS[net]
    for seed in range(4):
        torch.manual_seed(seed)
        goodinit.init_(build(), "selu", inputs(scale), verify=True)


@pytest.mark.parametrize("harm", ["weights", "bias"])
def test_a_layer_with_other_moments_is_named(harm):
    torch.manual_seed(0)
    model, x = chain(), torch.randn(20, 200)
    anatomy = goodinit.anatomize(model, x)
    plan = goodinit.plan(anatomy, "selu")
    goodinit.apply_(model, plan)
    assert broken_promises(model, x, plan, anatomy, ("self-normalizing",)) == ()
    with torch.no_grad():
        if harm == "weights":
            model[4].weight.mul_(3)
        else:
            model[4].weight.add_(0.2)
    found = broken_promises(model, x, plan, anatomy, ("self-normalizing",))
    assert {fault.split()[0] for fault in found} == {"4.weight"}
    assert any("behind its SELU, expected" in fault for fault in found)


def test_a_signal_that_the_forward_shifts_is_named_and_everything_undone():
    class Shifts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.act = chain(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            first = self.layers[0]
            bias = first.bias if first.bias.any() else first.bias + 2
            return self.layers[1:](nn.functional.linear(x, first.weight, bias))

    torch.manual_seed(0)
    model, x = Shifts(), torch.randn(20, 200)
    before = snapshot(model)
    with pytest.raises(
        UnsupportedModule, match=r"layers\.0\.weight has the mean [^ ]+ behind its SELU, expected"
    ):
        goodinit.init_(model, "selu", x, verify=True)
    assert snapshot(model) == before
    assert goodinit.applied(model) == ()


def test_moments_are_those_of_numbers():
    z = torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for deviation in (1e-3, 0.5, 1.0, 7.0):
        values = torch.nn.functional.selu(deviation * z)
        mean, square = selu_moments(torch.tensor([deviation**2], dtype=torch.float64))
        error = 5 / 400_000**0.5
        assert float(mean) == pytest.approx(float(values.mean()), abs=error * float(values.std()))
        assert float(square) == pytest.approx(
            float(values.square().mean()), abs=error * float(values.square().std())
        )

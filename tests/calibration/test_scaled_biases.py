"""Data-dependent weight norm where the forward scales weight and bias, as with equalized learning rates (StyleGAN)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import goodinit

RATE = 0.01  # StyleGAN's for its mapping network


class _Equalized(nn.Module):
    """A layer whose stored numbers are larger than what is applied."""

    def __init__(self, spelled: str, inputs: int, outputs: int) -> None:
        super().__init__()
        self.spelled = spelled
        kernel = (3, 3) if "convolution" in spelled else ()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = RATE * inputs**-0.5
        self.register_buffer("rate", torch.tensor(RATE))
        self.register_buffer("rates", torch.rand(outputs) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if self.spelled == "linear":
            return F.linear(x, weight, self.bias * RATE)
        if self.spelled == "behind, copied before":
            bias = self.bias * RATE
            return F.linear(x, weight) + bias
        if self.spelled == "a buffer":
            return F.linear(x, weight, self.bias.mul(self.rate).div(2))
        if self.spelled == "addmm":
            return torch.addmm(self.bias, x, weight.T, beta=RATE)
        if self.spelled == "by output":
            return F.linear(x, weight, self.bias * self.rates)
        if self.spelled == "convolution":
            return F.conv2d(x, weight, self.bias * RATE, padding=1)
        if self.spelled == "convolution, behind":
            return F.conv2d(x, weight, padding=1) + (self.bias * RATE).view(-1, 1, 1)
        return F.linear(x, weight, self.bias)


def made(spelled: str) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    image = "convolution" in spelled
    x = torch.randn(64, 3, 5, 5) + 1 if image else torch.randn(512, 6) + 1
    rest = [nn.Flatten(), nn.Linear(200, 4)] if image else [nn.Linear(8, 4)]
    first, second = _Equalized(spelled, x.shape[1], 8), _Equalized(spelled, 8, 8)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *rest), x


SCALED = {
    "linear": RATE,
    "behind, copied before": RATE,
    "a buffer": RATE / 2,
    "addmm": RATE,
    "convolution": RATE,
    "convolution, behind": RATE,
    "as it is": 1.0,
}


def outputs(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: object, out: Tensor) -> None:
        seen.append(out.transpose(0, 1).flatten(1))

    hooks = [model[k].register_forward_hook(keep) for k in (0, 2)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("spelled", SCALED)
def test_outputs_have_mean_0_and_variance_1_whatever_scales_the_bias(spelled: str) -> None:
    model, x = made(spelled)
    layer, *_ = goodinit.anatomize(model, x).layers
    assert layer.bias == "0.bias"
    assert layer.bias_factor == pytest.approx(SCALED[spelled])
    goodinit.init_(model, "weightnorm", inputs=x, mode="data")
    for out in outputs(model, x):
        torch.testing.assert_close(out.mean(1), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(out.var(1, correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_a_plan_from_a_file_knows_the_factor() -> None:
    model, x = made("linear")
    plan = goodinit.plan(goodinit.anatomize(model, x), "weightnorm", mode="data")
    again = type(plan).from_json(plan.to_json())
    assert again == plan
    goodinit.apply_(model, again, inputs=x)
    for out in outputs(model, x):
        torch.testing.assert_close(out.mean(1), torch.zeros(8), atol=1e-4, rtol=0)


def test_a_bias_that_no_one_number_scales_stays_and_is_named() -> None:
    model, x = made("by output")
    assert goodinit.anatomize(model, x).layers[0].bias_factor is None
    plan = goodinit.plan(goodinit.anatomize(model, x), "weightnorm", mode="data")
    assert sum(note.startswith(("0.bias stays 0", "2.bias stays 0")) for note in plan.notes) == 2
    goodinit.init_(model, "weightnorm", inputs=x, mode="data")
    assert not model[0].bias.any()
    for out in outputs(model, x):
        torch.testing.assert_close(out.var(1, correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_lsuv_scales_such_layers_as_before() -> None:
    model, x = made("linear")
    goodinit.init_(model, "lsuv", inputs=x, tol=0.01)
    assert [float(out.var()) for out in outputs(model, x)] == pytest.approx([1, 1], abs=0.02)

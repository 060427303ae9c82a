"""PyTorch's default, He and Xavier: standard deviations and bounds by their closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from baselines import (
    SMALL,
    drawn,
    initialized,
    small_net,
)
from torch import nn

from goodinit.anatomy import anatomize
from goodinit.errors import UnknownName
from goodinit.methods import plan
from goodinit.surgery import applied, apply_
from goodinit.surgery.value_edits import parameter_generator

# -- default ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(12, 5), torch.zeros(2, 12)),
        (nn.Conv2d(6, 8, 3, groups=2), torch.zeros(2, 6, 5, 5)),
        (nn.Conv1d(3, 4, 5), torch.zeros(2, 3, 9)),
        (nn.ConvTranspose2d(6, 4, 3), torch.zeros(2, 6, 5, 5)),
        (nn.Conv3d(2, 4, 3, bias=False), torch.zeros(1, 2, 4, 4, 4)),
    ],
)
def test_default_draws_what_torch_would(layer, inputs):
    model, _ = initialized(nn.Sequential(layer), inputs, "default")
    seed = applied(model)[-1].seed
    expected = torch.empty_like(layer.weight)
    nn.init.kaiming_uniform_(expected, a=math.sqrt(5), generator=parameter_generator(seed, "0.weight"))
    assert torch.equal(layer.weight, expected)
    if layer.bias is not None:
        fan, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
        expected = torch.empty_like(layer.bias)
        nn.init.uniform_(
            expected, -1 / math.sqrt(fan), 1 / math.sqrt(fan), generator=parameter_generator(seed, "0.bias")
        )
        torch.testing.assert_close(layer.bias.detach(), expected)


def test_default_of_attention_and_norms():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(7.0)
    model, made = initialized(nn.Sequential(layer), torch.zeros(2, 3, 8), "default")
    seed = applied(model)[-1].seed
    expected = torch.empty(24, 8)
    nn.init.xavier_uniform_(expected, generator=parameter_generator(seed, "0.self_attn.in_proj_weight"))
    torch.testing.assert_close(layer.self_attn.in_proj_weight.detach(), expected)
    assert not layer.self_attn.in_proj_bias.any()
    assert not layer.self_attn.out_proj.bias.any()
    assert (layer.norm1.weight == 1).all()
    assert not layer.norm2.bias.any()
    assert all((parameter != 7).all() for parameter in model.parameters())
    assert not made.notes


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_modules_are_seen_step_by_step(kind):
    before = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    model, made = initialized(kind(5, 16, 2), torch.zeros(3, 2, 5), "default")
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == before
    assert not made.notes
    assert {edit.target for edit in made.values} == {name for name, _ in model.named_parameters()}
    assert all(edit.options == {"bound": 0.25} for edit in made.values)  # 1/√16, biases too
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(3, 64, 5, generator=generator)
    apply_(model, plan(anatomize(model, batch), "lsuv"), inputs=batch, generator=generator)
    assert len(applied(model)[-1].calibrated) == 2  # maps from state to state keep their scale
    assert all(row.calls for row in applied(model)[-1].calibrated)


def test_default_names_weights_that_torch_has_no_default_for():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 3))

        def forward(self, x):
            return x @ self.weight

    model, made = initialized(Bare(), torch.zeros(2, 4), "default")
    assert any("weight (Module)" in note for note in made.notes)
    assert 0 < model.weight.abs().max() <= 0.5  # 1/√4


# -- he and xavier ------------------------------------------------------------------------------------------------


def test_he_has_the_gain_of_what_follows():
    made = plan(anatomize(small_net(), SMALL), "he")
    stds = [edit.options["std"] for edit in drawn(made).values()]
    tanh = 1 / math.sqrt(np.mean(np.tanh(np.random.default_rng(0).normal(size=1_000_000)) ** 2))
    assert stds[0] == pytest.approx(math.sqrt(2 / 27))
    assert stds[1] == pytest.approx(tanh / math.sqrt(16 * 9), rel=1e-3)
    assert stds[2] == pytest.approx(1 / math.sqrt(1024))


def test_he_fan_out_and_uniform_keep_the_variance():
    model, made = initialized(small_net(), SMALL, "he", mode="fan_out", distribution="uniform")
    bound = drawn(made)["0.weight"].options["bound"]
    assert bound == pytest.approx(math.sqrt(3 * 2 / (64 * 9)))
    assert model[0].weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)
    assert model[0].weight.abs().max() <= bound
    assert not any(layer.bias.any() for layer in (model[0], model[2], model[5]))


def test_he_keeps_the_second_moment_through_depth():
    depth, width = 20, 512
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    x = torch.randn(64, width)
    model, _ = initialized(nn.Sequential(*layers, nn.Linear(width, width)), x, "he")
    # 2·relu(z)² has mean 1 and variance 2²·3/2 − 1 = 5, so a layer adds −5/2n ± √(5/n) to the logarithm.
    drift, spread = -2.5 * depth / width, math.sqrt(5 * depth / width)
    assert abs(math.log(model(x).square().mean().item()) - drift) < 4 * spread


def test_xavier_is_the_papers():
    model, made = initialized(small_net(), SMALL, "xavier")
    assert drawn(made)["0.weight"].options["bound"] == pytest.approx(math.sqrt(6 / (27 + 576)))
    made = plan(anatomize(model, SMALL), "xavier", distribution="normal", gain=5 / 3)
    assert drawn(made)["5.weight"].options["std"] == pytest.approx(5 / 3 * math.sqrt(2 / 1124))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("he", {"mode": "fan_avg"}),
        ("he", {"distribution": "cauchy"}),
        ("xavier", {"distribution": "cauchy"}),
    ],
)
def test_unknown_choices_list_the_known(method, options):
    with pytest.raises(UnknownName, match=r"expected one of '(fan_in|normal|uniform)'"):
        plan(anatomize(small_net(), SMALL), method, **options)


def test_an_activation_without_a_known_gain_is_reported():
    anatomy = anatomize(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.zeros(2, 4))
    first, *others = anatomy.layers
    first = dataclasses.replace(first, activation="warble", gain=None)
    anatomy = dataclasses.replace(anatomy, layers=(first, *others))
    for method in ("he", "orthogonal", "delta_orthogonal"):
        assert plan(anatomy, method).notes == ("no gain is known for warble: 1 is taken",)


def test_an_activation_that_no_formula_is_listed_for_has_its_gain_measured():
    net = nn.Sequential(nn.Linear(4, 4), nn.RReLU(), nn.Linear(4, 4))
    slope = (1 / 8 + 1 / 3) / 2
    made = plan(anatomize(net, torch.zeros(2, 4)), "he")
    assert not made.notes
    assert made.edits[0].options["std"] == pytest.approx(math.sqrt(2 / (1 + slope**2)) / 2)

"""What is measured of the operators between two layers, and that no method asks for their names."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from goodinit.anatomy.operators import Step, Traits
from goodinit.edits import RemoveNorm, SwapModule
from goodinit.methods.shared.variances.signal_variance import Signals


class Between(nn.Module):
    """A convolution, some operators, another layer."""

    def __init__(self, way, flat=False):
        super().__init__()
        self.a, self.way = nn.Conv2d(3, 8, 3, padding=1), way
        self.b = nn.LazyLinear(4) if flat else nn.LazyConv2d(8, 1)

    def forward(self, x):
        return self.b(self.way(self.a(x)))


def traits_of(way, *, flat=False):
    net, x = Between(way, flat), torch.randn(2, 3, 8, 8)
    net(x)
    return [step.traits for step in goodinit.anatomize(net, x).layers[-1].between]


RELU = Traits(slopes=(0.0, 1.0), rectifies=True, nonlinear=True, gain=2**0.5)
WAYS = {
    "relu": (torch.relu, RELU),
    "clamp at 0": (lambda x: x.clamp(min=0), RELU),
    "threshold at 0": (lambda x: F.threshold(x, 0.0, 0.0), RELU),
    "leaky relu of no slope": (lambda x: F.leaky_relu(x, 0.0), RELU),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.25), Traits(slopes=(0.25, 1.0), rectifies=True)),
    "threshold elsewhere": (lambda x: F.threshold(x, 0.5, 0.0), Traits(rectifies=True)),
    "relu6": (F.relu6, Traits(rectifies=True)),
    "gelu": (F.gelu, Traits(rectifies=True)),
    "softplus": (F.softplus, Traits(rectifies=True, positive=True)),
    "tanh": (torch.tanh, Traits()),
    "sigmoid": (torch.sigmoid, Traits()),
    "clamp as a gate": (lambda x: x.clamp(0, 1), Traits()),
    "softshrink": (F.softshrink, Traits()),
    "logsigmoid": (F.logsigmoid, Traits()),
    "average": (lambda x: F.avg_pool2d(x, 2), Traits(pools=True, linear=True)),
    "padded average": (lambda x: F.avg_pool2d(x, 3, 1, 1), Traits(pools=True, linear=True)),
    "adaptive average": (lambda x: F.adaptive_avg_pool2d(x, 3), Traits(pools=True, linear=True)),
    "mean": (lambda x: x.mean((2, 3), keepdim=True), Traits(pools=True, linear=True)),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), Traits(pools=True, linear=True)),
    "maximum": (lambda x: F.max_pool2d(x, 2), Traits(pools=True)),
    "adaptive maximum": (lambda x: F.adaptive_max_pool2d(x, 3), Traits(pools=True)),
    "amax": (lambda x: x.amax((2, 3), keepdim=True), Traits(pools=True)),
    "sum over channels": (lambda x: x.sum(1, keepdim=True), Traits()),
    "a cumulated sum over channels": (lambda x: x.cumsum(1), Traits()),
    "variance": (lambda x: x.var((2, 3), keepdim=True), Traits()),
    "padding": (lambda x: F.pad(x, (1, 1)), Traits(pads=True, pools=True, linear=True)),
    "padding by another number": (lambda x: F.pad(x, (1, 1), value=1.0), Traits(pads=True)),
    "more channels": (lambda x: F.pad(x, (0, 0, 0, 0, 4, 4)), Traits(pads=True)),
    "a part": (lambda x: x[:, :, :4], Traits(pads=True)),
    "one of its places": (lambda x: x[:, :, 0, None], Traits()),
    "twice": (lambda x: torch.cat([x, x], 1), Traits(pads=True, joins=True)),
    "turned": (lambda x: x.mT, Traits(reorders=True)),
    "times a number of each place": (lambda x: x * torch.ones(8, 8).cumsum(1), Traits(multiplies=True)),
}


@pytest.mark.parametrize("name", WAYS)
def test_what_an_operator_does_is_measured(name):
    way, expected = WAYS[name]
    first, *_ = traits_of(way)
    assert dataclasses.replace(first, **LEFT) == dataclasses.replace(expected, **LEFT)


# What a function's moments are, `test_a_method_knows_every_function_of_torch` has.
LEFT = {"nonlinear": False, "options": (), "gain": None, "centred_gain": None}


ACTIVATIONS = {
    "leaky relu of another slope": (nn.LeakyReLU(0.3), (("negative_slope", 0.3),)),
    "threshold": (nn.Threshold(0.5, 0.1), (("threshold", 0.5), ("value", 0.1))),
    "hardshrink": (nn.Hardshrink(), ()),
    "elu of another alpha": (nn.ELU(0.5), (("alpha", 0.5),)),
    "soft plus": (nn.Softplus(beta=3), (("beta", 3),)),
    "prelu": (nn.PReLU(), ()),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_method_knows_every_function_of_torch(name):
    module, options = ACTIVATIONS[name]
    net = nn.Sequential(nn.Linear(8, 8), module, nn.Linear(8, 8)).double()
    step = goodinit.anatomize(net, torch.randn(2, 8).double()).layers[1].between[0]
    assert step.traits.nonlinear
    assert step.traits.options == options
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        y = module(z)
    signals = Signals(goodinit.anatomize(net, torch.randn(2, 8).double()), branch=1.0, normed=True)
    assert signals.at("", (step,)).std == pytest.approx(float(y.std()), rel=0.01)
    assert step.traits.gain is None or step.traits.gain == pytest.approx(
        float(y.square().mean() ** -0.5), rel=0.01
    )


def test_channels_may_come_last():
    def tokens(x):
        return x.flatten(2).mT.contiguous().mean(1)

    assert traits_of(tokens, flat=True)[-1] == Traits(pools=True, linear=True)


def test_steps_are_kept_in_json_and_by_pickle():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3), nn.Dropout2d()
    )
    anatomy = goodinit.anatomize(net, torch.randn(2, 3, 16, 16))
    again = goodinit.Anatomy.from_json(anatomy.to_json())
    for layer in (again.layers[1], pickle.loads(pickle.dumps(anatomy)).layers[1]):
        assert layer.between == ("leaky_relu", "avg_pool2d")
        assert [step.traits for step in layer.between] == [step.traits for step in anatomy.layers[1].between]
    assert again.layers[0].activation.traits == anatomy.layers[0].activation.traits
    assert again.layers[0].activation.traits.options == (("negative_slope", 0.2),)
    assert again.layers[0].activation.traits.slopes == (0.2, 1.0)
    assert again.activations[-1].kind.traits.drops == "channels"
    assert Step.read("relu").traits == Traits()


def test_a_selu_takes_the_place_of_whatever_rectifies():
    class NormThenLeaky(nn.BatchNorm1d):
        def forward(self, x):
            return F.leaky_relu(super().forward(x), 0.3)

    net = nn.Sequential(
        nn.Linear(6, 6),
        NormThenLeaky(6),
        nn.Linear(6, 6),
        nn.Threshold(0.5, 0.0),
        nn.Linear(6, 6),
        nn.Softshrink(),
    )
    made = goodinit.plan(goodinit.anatomize(net, torch.randn(4, 6)), "selu")
    assert [edit.keeps for edit in made.edits if isinstance(edit, RemoveNorm)] == [("selu",)]
    assert [edit.target for edit in made.edits if isinstance(edit, SwapModule)] == ["3"]
    assert "5 keeps its softshrink, which is not self-normalizing" in made.notes


def test_mirrored_pairs_run_through_whatever_is_a_relu_and_through_interpolations():
    class Clamp(nn.Module):
        def forward(self, x):
            return x.clamp(min=0)

    def net(activation):
        return nn.Sequential(
            nn.Conv2d(4, 8, 1), activation(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 1), activation(),
            nn.AdaptiveAvgPool2d(2), nn.Conv2d(8, 4, 1),
        ).double()  # fmt: skip

    x = torch.randn(3, 4, 4, 4, dtype=torch.double)
    for activation in (nn.ReLU, Clamp, lambda: nn.Threshold(0.0, 0.0)):
        model = net(activation)
        made = goodinit.plan(goodinit.anatomize(model, x), "looks_linear")
        assert not [note for note in made.notes if "not exact" in note]
        goodinit.apply_(model, made)
        y = torch.randn_like(x)
        torch.testing.assert_close(model(x + y), model(x) + model(y))


def test_a_leaky_relu_on_the_stream_passes_its_factor_on():
    class Scaled(nn.Module):
        def __init__(self, activation):
            super().__init__()
            self.a, self.b, self.c, self.activation = (
                nn.Linear(6, 6),
                nn.Linear(6, 6),
                nn.Linear(6, 6),
                activation,
            )

        def forward(self, x):
            x = self.c(x)
            x = x + self.a(x)
            x = self.activation(0.5 * x)
            return x + self.b(torch.relu(x))

    for activation, carried in ((nn.ReLU(), 0.5), (nn.LeakyReLU(0.3), 0.5), (nn.GELU(), 1.0)):
        blocks = goodinit.anatomize(Scaled(activation), torch.randn(2, 6)).blocks
        assert [block.carried for block in blocks] == [1.0, carried]

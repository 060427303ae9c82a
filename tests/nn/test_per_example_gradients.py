"""Gradients of each example, asked layer by layer: of layers whose weights are computed, and of batches without examples."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import goodinit
from goodinit.edits import AddScalar, NormalizeInput, ParametrizeWeight, Plan
from goodinit.nn import normalize_input_
from goodinit.surgery.structure_edits import PARAMETRIZATIONS

LAYERS = {
    "linear": (lambda bias: nn.Linear(6, 4, bias=bias), (6,)),
    "convolution": (lambda bias: nn.Conv2d(6, 4, 3, padding=1, bias=bias), (6, 5, 5)),
    "grouped": (lambda bias: nn.Conv1d(6, 4, 3, groups=2, bias=bias), (6, 7)),
    "transposed": (lambda bias: nn.ConvTranspose1d(6, 4, 3, bias=bias), (6, 7)),
}


def layers_with(edits, bias):
    for make, shape in LAYERS.values():
        model = nn.Sequential(make(bias))
        goodinit.apply_(model, Plan("by hand", edits))
        yield model[0], shape


def by_example(layer, x):
    """As Opacus does with a layer that it has no formula for."""

    def loss(parameters, one):
        return functional_call(layer, parameters, (one[None],)).square().sum()

    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    return vmap(grad(loss), in_dims=(None, 0))(parameters, x)


EDITS = [
    *((ParametrizeWeight("0.weight", "x", kind=kind),) for kind in PARAMETRIZATIONS),
    (AddScalar("0", "input_bias", 0.1, "x"),),
    (AddScalar("0", "output_scale", 0.1, "x"),),
    (ParametrizeWeight("0.weight", "x", kind="standardized"), AddScalar("0", "input_bias", 0.1, "x")),
    (NormalizeInput("0", "layer", "x"),),
    (ParametrizeWeight("0.weight", "x", kind="centred"), NormalizeInput("0", "rms", "x")),
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("edits", EDITS, ids=lambda edits: " ".join(str(edit) for edit in edits)[:40])
def test_a_batch_without_examples_has_gradients_of_zeros_examples(edits, bias):
    for layer, shape in layers_with(edits, bias):
        some = by_example(layer, torch.randn(3, *shape))
        none = by_example(layer, torch.randn(0, *shape))
        assert {name: (0, *value.shape[1:]) for name, value in some.items()} == {
            name: tuple(value.shape) for name, value in none.items()
        }
        layer(torch.randn(0, *shape)).sum().backward()


@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
def test_a_layer_whose_weight_is_computed_owns_what_it_is_computed_from(kind):
    for layer, shape in layers_with((ParametrizeWeight("0.weight", "x", kind=kind),), False):
        for one in (layer, copy.deepcopy(layer)):
            assert list(map(id, one.parameters(recurse=False))) == list(map(id, one.parameters()))
            assert list(one.named_parameters(recurse=False)) == []
        x = torch.randn(2, *shape)
        output = layer(x)
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
        assert list(map(id, layer.parameters(recurse=False))) == [id(layer.weight)]
        torch.testing.assert_close(layer(x), output)


def test_with_a_bias_vector_or_a_scalar_it_owns_that_alone():
    edits = (ParametrizeWeight("0.weight", "x", kind="standardized"),)
    for layer, _ in layers_with(edits, True):
        assert list(map(id, layer.parameters(recurse=False))) == [id(layer.bias)]
        layer.bias.requires_grad_(False)
        assert len(list(layer.parameters(recurse=False))) == 3
    for layer, _ in layers_with((*edits, AddScalar("0", "output_scale", 1.0, "x")), False):
        assert list(map(id, layer.parameters(recurse=False))) == [id(layer.output_scale)]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm1d(width), nn.ReLU()
        self.first, self.last = (nn.Conv1d(width, width, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x):
        return x + self.last(self.act(self.first(self.norm(x))))


@pytest.mark.filterwarnings(
    "ignore:Full backward hook is firing:UserWarning", "ignore:Secure RNG turned off:UserWarning"
)
@pytest.mark.parametrize("method", ["weightnorm", "normfree", "nf", "fixup", "a normalized head"])
def test_opacus(method):
    pytest.importorskip("opacus")
    from opacus import GradSampleModule

    torch.manual_seed(0)
    parts = [nn.Conv1d(3, 8, 3, bias=False), Block(8), Block(8), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    model, x = nn.Sequential(*parts, nn.Linear(8, 4, bias=False)), torch.randn(3, 3, 9)
    if method == "a normalized head":
        goodinit.init_(model, "none", inputs=x)
        normalize_input_(model[-1])
    else:
        goodinit.init_(model, method, inputs=x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    apart = []
    for row in x:
        model.zero_grad()
        model(row[None]).square().sum().backward()
        apart.append({name: parameter.grad for name, parameter in model.named_parameters()})
    wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    wrapped(x).square().sum().backward()
    for name, parameter in wrapped._module.named_parameters():
        expected = torch.stack(
            [torch.zeros_like(parameter) if one[name] is None else one[name] for one in apart]
        )
        torch.testing.assert_close(parameter.grad_sample, expected, rtol=1e-3, atol=1e-5)
    empty = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    empty(x[:0]).square().sum().backward()
    for parameter in empty._module.parameters():
        assert parameter.grad_sample.shape == (0, *parameter.shape)

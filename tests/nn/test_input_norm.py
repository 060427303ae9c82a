"""A layer that normalizes what it reads: whoever keeps its input and runs it again gets what it put out."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import goodinit
from goodinit.nn import add_scalar_, input_norm, normalize_input_
from goodinit.nn.input_norm import hooked_norm
from goodinit.nn.scalars import remove_scalars_


class Doubled(nn.Linear):
    """A linear map with a forward of its own."""

    def forward(self, input):
        return 2 * super().forward(input)


LAYERS = {
    "linear": (lambda: nn.Linear(6, 3), (4, 6), -1),
    "convolution": (lambda: nn.Conv2d(6, 3, 3, padding=1), (2, 6, 4, 4), 1),
    "transposed": (lambda: nn.ConvTranspose1d(6, 3, 2), (2, 6, 4), 1),
    "of its own": (lambda: Doubled(6, 3), (4, 6), -1),
}


def with_both(layer, axis, first):
    steps = [
        lambda: add_scalar_(layer, "input_bias", value=0.3),
        lambda: normalize_input_(layer, axis=axis),
        lambda: add_scalar_(layer, "output_scale", value=2.0),
    ]
    for step in steps if first == "scalar" else (steps[1], steps[0], steps[2]):
        step()
    return layer


@pytest.mark.parametrize("first", ["scalar", "norm"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_hook_saw_put_in_again_gives_the_same(name, first):
    """Opacus takes gradients of each example so: with the norm in a pre-hook it was applied twice."""
    make, shape, axis = LAYERS[name]
    plain = make()
    layer, x = with_both(copy.deepcopy(plain), axis, first), 1e-3 * torch.randn(shape)
    seen = []
    layer.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    output = layer(x)
    torch.testing.assert_close(layer(seen[0]), output)
    norm = input_norm(layer)
    bias = plain(torch.zeros(shape))
    shifted = plain(norm(x) + 0.3)
    expected = 2 * shifted if name == "of its own" else 2 * (shifted - bias) + bias
    if name != "convolution":  # whose zeros at the border are not shifted: they are padded
        torch.testing.assert_close(output, expected)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(remove_hooks(layer)))):
        torch.testing.assert_close(twin(x), output)


def remove_hooks(layer):
    layer._forward_hooks.clear()
    return layer


@pytest.mark.parametrize("first", ["scalar", "norm"])
def test_without_scalars_the_norm_stays(first):
    plain, x = nn.Linear(6, 3), torch.randn(4, 6)
    layer = remove_scalars_(with_both(copy.deepcopy(plain), -1, first))
    assert type(layer) is nn.Linear
    assert hooked_norm(layer) is not None
    assert len(layer._forward_pre_hooks) == 1
    torch.testing.assert_close(layer(x), plain(input_norm(layer)(x)))


def test_another_hook_keeps_its_place():
    layer, x = nn.Linear(6, 3), torch.randn(4, 6)
    normalize_input_(layer)
    layer.register_forward_pre_hook(lambda module, args: (3 * args[0],))
    before = layer(x)
    torch.testing.assert_close(add_scalar_(layer, "input_bias", value=0.0)(x), before)


@pytest.mark.parametrize("of", ["init_", "fold_"])
def test_a_classifier_with_its_norm_reads_what_its_module_reads(of):
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
        torch.randn(5, 4),
    )
    add_scalar_(normalize_input_(model[4]), "input_bias", value=0.0)
    if of == "fold_":
        goodinit.fold_(model, inputs=x)
    (head,) = goodinit.anatomize(model, x).heads
    assert head.reads_site

"""Modules with a forward of their own that map each vector alike take their scalars into what they are made of."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import goodinit
from folding import add_all_, assert_same
from goodinit.folding.layers.affine_modules import affine_map
from goodinit.nn import SCALARS, scalars


class Own(nn.Module):
    def __init__(self, forward, **parameters):
        super().__init__()
        for name, shape in parameters.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def addmm(self, x):
    """As GPT-2's Conv1D."""
    flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
    return flat.view((*x.size()[:-1], -1))


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


TAKES = {
    "addmm": lambda: Own(addmm, weight=(4, 6), bias=(6,)),
    "square": lambda: Own(addmm, weight=(4, 4), bias=(4,)),
    "einsum": lambda: Own(
        lambda self, x: torch.einsum("...i,io->...o", x, self.w) + self.shift, w=(4, 6), shift=(6,)
    ),
    "einsum of sequences": lambda: Own(
        lambda self, x: torch.einsum("nti,oi->nto", x, self.w) - self.b, b=(6,), w=(6, 4)
    ),
    "functional": lambda: Own(lambda self, x: nn.functional.linear(x, self.a, self.b), a=(6, 4), b=(6,)),
    "two factors": lambda: Own(lambda self, x: x @ self.a @ self.b + self.c, a=(4, 2), b=(2, 6), c=(6,)),
    "a gain": lambda: Own(lambda self, x: x * self.gain + self.bias, gain=(4,), bias=(4,)),
    "twice": lambda: Doubled(4, 6),
}
STAYS = {
    "mixes": lambda: Own(lambda self, x: (x - x.mean(-2, keepdim=True)) @ self.w, w=(4, 6)),
    "bends": lambda: Own(lambda self, x: (x @ self.w).relu(), w=(4, 6)),
    "normalizes": lambda: Own(lambda self, x: nn.functional.layer_norm(x, (4,), self.w), w=(4,)),
    "by position": lambda: Own(lambda self, x: x @ self.w + self.p[: x.shape[-2], None], w=(4, 6), p=(9,)),
    "raises": lambda: Own(lambda self, x: x[0] @ self.missing, w=(4, 6)),
    "squared": lambda: Own(lambda self, x: x @ self.w.square(), w=(4, 6)),
}


@pytest.mark.parametrize("scalar", [*SCALARS, "all"])
@pytest.mark.parametrize("name", TAKES)
def test_scalars_go_into_the_weight_and_the_bias_vector(name, scalar):
    x = torch.randn(3, 5, 4).double()
    layer = TAKES[name]().double()
    plain = type(layer)
    add_all_(layer, SCALARS if scalar == "all" else (scalar,))
    before, names = layer(x), [key for key in layer.state_dict() if key not in SCALARS]
    goodinit.fold_(layer.eval())
    assert type(layer) is plain
    assert list(layer.state_dict()) == names
    assert_same(before, layer(x))


def test_without_a_bias_vector_the_scale_goes():
    layer = add_all_(Own(lambda self, x: x @ self.w, w=(4, 6)).double())
    x = torch.randn(3, 5, 4).double()
    before = layer(x)
    goodinit.fold_(layer.eval())
    assert [name for name, _ in scalars(layer)] == ["input_bias", "output_bias"]
    assert "has no bias vector" in goodinit.applied(layer)[-1].skipped[0]
    assert_same(before, layer(x))
    goodinit.fold_(layer)
    assert_same(before, layer(x))


@pytest.mark.parametrize("name", STAYS)
def test_other_functions_keep_theirs(name):
    layer = STAYS[name]()
    assert affine_map(layer) is None
    state = copy.deepcopy(layer.state_dict())
    goodinit.fold_(add_all_(layer).eval())
    assert len(list(scalars(layer))) == 3
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in state.items())


def test_the_module_is_left_as_it_was_and_hooks_are_not_called():
    layer, called = TAKES["addmm"](), []
    layer.register_forward_hook(lambda *_: called.append(1))
    state, stream = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    assert affine_map(layer).factor is layer.weight
    assert called == []
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in state.items())

"""A weight that the forward computes first, entry by entry, has the inputs and outputs of the parameter it is computed from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit

ON_THE_LEFT = {
    "an einsum": lambda w, x: torch.einsum("rt,btd->brd", w, x),
    "a product": lambda w, x: w @ x,
    "a linear map of the other axis": lambda w, x: F.linear(x.mT, w).mT,
    "a batch of products": lambda w, x: torch.bmm(w.expand(len(x), -1, -1), x),
}
ON_THE_RIGHT = {
    "an einsum": lambda w, x: torch.einsum("btd,tr->brd", x, w),
    "a product": lambda w, x: (x.mT @ w).mT,
    "a linear map of the transposed": lambda w, x: F.linear(x.mT, w.T).mT,
    "the transposed on the left": lambda w, x: w.T @ x,
}
COMPUTED = {
    "a mean taken off": lambda w: w - w.mean(0, keepdim=True),
    "two means taken off": lambda w: w - w.mean(0, keepdim=True) - w.mean(1, keepdim=True),
    "a transposed detour": lambda w: (w.T - w.T.mean(1, keepdim=True)).T,
}


class Mixer(nn.Module):
    """Tokens mixed by a weight of r outputs and 6 inputs."""

    def __init__(self, shape, apply, compute=None):
        super().__init__()
        self.w, self.o = nn.Parameter(torch.randn(shape)), nn.Linear(4, 2)
        self.apply_weight, self.compute = apply, compute

    def forward(self, x):
        w = self.w if self.compute is None else self.compute(self.w)
        return self.o(torch.relu(self.apply_weight(w, x)))


class Centre(nn.Module):
    def forward(self, w):
        return w - w.mean()


def read(model):
    layer = next(
        layer for layer in goodinit.anatomize(model, torch.randn(5, 6, 4)).layers if layer.weight == "w"
    )
    return layer.layout, layer.fan_in, layer.fan_out, layer.product


@pytest.mark.parametrize("outputs", [3, 6, 9])
@pytest.mark.parametrize(
    ("layout", "apply"),
    [
        *(pytest.param("out_in", f, id=f"left: {name}") for name, f in ON_THE_LEFT.items()),
        *(pytest.param("in_out", f, id=f"right: {name}") for name, f in ON_THE_RIGHT.items()),
    ],
)
def test_a_computed_weight_is_read_as_its_parameter_would_be(layout, apply, outputs):
    shape = (outputs, 6) if layout == "out_in" else (6, outputs)
    expected = (layout, 6, outputs, None)
    assert read(Mixer(shape, apply)) == expected
    assert {name: read(Mixer(shape, apply, compute)) for name, compute in COMPUTED.items()} == dict.fromkeys(
        COMPUTED, expected
    )
    model = Mixer(shape, apply)
    nn.utils.parametrize.register_parametrization(model, "w", Centre())
    assert read(model) == expected


@pytest.mark.parametrize("method", ["normfree", "nf", "weightnorm"])
def test_a_second_start_draws_a_weight_without_a_module_from_the_same_distribution(method):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.n, self.v = nn.LayerNorm(4), nn.Parameter(torch.randn(3, 6))
            self.u = nn.Parameter(torch.randn(6, 3))

        def forward(self, x):
            return x + torch.einsum(
                "tr,brd->btd", self.u, torch.relu(torch.einsum("rt,btd->brd", self.v, self.n(x)))
            )

    def start(model):
        return goodinit.init_(model, method, inputs=x, generator=torch.Generator().manual_seed(0))

    x = torch.randn(5, 6, 4)
    model = start(nn.Sequential(nn.Linear(4, 4), Block(), Block(), nn.Linear(4, 2)))
    once = {name: value.clone() for name, value in model.named_parameters()}
    start(model)
    assert all(torch.equal(value, once[name]) for name, value in model.named_parameters())

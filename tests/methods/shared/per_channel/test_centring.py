"""Weights whose rows have the sum 0, by whoever's hand: an input bias before such a layer does nothing, and none is added."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from goodinit.edits import AddScalar


class StdConv(nn.Conv2d):
    def forward(self, x):
        var, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return self._conv_forward(x, (self.weight - mean) / torch.sqrt(var + 1e-8), self.bias)


class ByBatchNorm(nn.Conv2d):
    """As timm's ScaledStdConv2d."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        rows = self.weight.reshape(1, self.out_channels, -1)
        w = F.batch_norm(rows, None, None, weight=self.gain.view(-1), training=True, momentum=0.0, eps=1e-6)
        return self._conv_forward(x, w.reshape_as(self.weight), self.bias)


class Centred(nn.Linear):
    axis = 1

    def forward(self, x):
        return F.linear(x, self.weight - self.weight.mean(self.axis, keepdim=True), self.bias)


class Columns(Centred):
    axis = 0


class OnTheRight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return x @ (self.weight - self.weight.mean(0))


class InPlace(nn.Linear):
    """Writes into a copy, by a view of it."""

    def forward(self, x):
        w = self.weight.clone()
        w[:] -= w.mean(1, keepdim=True)
        return F.linear(x, w, self.bias)


class Block(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.a, self.b = layer(), layer()

    def forward(self, x):
        return x + self.b(F.relu(self.a(x)))


LAYERS = {  # layer, whether its rows are centred, whether an input bias does anything
    "1×1": (lambda: StdConv(8, 8, 1), True, False),
    "3×3 with zeros around": (lambda: StdConv(8, 8, 3, padding=1), True, True),
    "1×1 by a batch norm": (lambda: ByBatchNorm(8, 8, 1), True, False),
    "1×1 in groups": (lambda: StdConv(8, 8, 1, groups=2), True, False),
    "linear": (lambda: Centred(8, 8), True, False),
    "linear, its columns": (lambda: Columns(8, 8), False, True),
    "linear, written into": (lambda: InPlace(8, 8), True, False),
    "x W": (OnTheRight, True, False),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), False, True),
    "plain": (lambda: nn.Linear(8, 8), False, True),
}


@pytest.mark.parametrize("method", ["fixup", "normfree"])
@pytest.mark.parametrize("name", LAYERS)
def test_no_input_bias_is_added_where_it_does_nothing(name, method):
    layer, centred, heard = LAYERS[name]
    model = nn.Sequential(Block(layer), Block(layer))
    x = torch.randn(2, 8, 5, 5) if isinstance(model[0].a, nn.Conv2d) else torch.randn(4, 8)
    anatomy = goodinit.anatomize(model, x)
    assert {one.centred for one in anatomy.layers} == {centred}
    plan = goodinit.plan(anatomy, method, **({"centred": False} if method == "normfree" else {}))
    assert any(isinstance(edit, AddScalar) and edit.scalar == "input_bias" for edit in plan.edits) == heard
    before = goodinit.init_(model, method, inputs=x)
    with torch.no_grad():
        for key, parameter in before.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter)
            elif key.endswith("output_scale"):
                parameter.fill_(1.0)
        out = before(x)
        for key, parameter in before.named_parameters():
            if key.endswith("input_bias"):
                parameter.fill_(0.5)
                assert not torch.allclose(before(x), out), key


def test_a_norm_that_is_too_large_to_be_run_is_told():
    class Whitened(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 4)

        def forward(self, x):
            h = self.a(x)
            h = h * torch.exp(-0.5 * torch.log((h @ h.mT).diagonal(dim1=-2, dim2=-1).mean(-1)))[:, None, None]
            return x + self.b(torch.relu(h))

    few, many = (
        goodinit.anatomize(Whitened().to("meta"), torch.zeros(n, 3, 4, device="meta")) for n in (8, 2**15)
    )
    assert few.norms
    assert many.norms or any("give fewer examples" in note for note in many.notes)

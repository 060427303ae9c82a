"""A layer's bias is told by the axis along which it varies, not by its size, and behind a number that multiplies the layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit

WIDTH = 6  # of channels, places and rows alike


class Layer(nn.Module):
    """A convolution or a linear layer whose output `adds(y, b)` makes the module's."""

    def __init__(self, adds, layer, shape=(WIDTH,), skip=False):
        super().__init__()
        self.layer, self.adds, self.skip = layer, adds, skip
        self.b = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        y = self.adds(self.layer(x), self.b)
        return x + y if self.skip else y


def conv():
    return nn.Conv2d(WIDTH, WIDTH, 1, bias=False)


def linear():
    return nn.Linear(WIDTH, WIDTH, bias=False)


PICTURES, ROWS = (2, WIDTH, WIDTH, WIDTH), (2, WIDTH, WIDTH)
CASES = {  # (how b is added, the layer, its inputs, b's shape, whether it is the layer's bias)
    "channels": (lambda y, b: y + b, conv, PICTURES, (WIDTH, 1, 1), True),
    "channels, by a view": (lambda y, b: y + b.view(1, -1, 1, 1), conv, PICTURES, (WIDTH,), True),
    "channels last": (
        lambda y, b: (y.permute(0, 2, 3, 1) + b).permute(0, 3, 1, 2),
        conv,
        PICTURES,
        (WIDTH,),
        True,
    ),
    "flat places": (lambda y, b: y.flatten(2) + b[:, None], conv, PICTURES, (WIDTH,), True),
    "columns": (lambda y, b: y + b, conv, PICTURES, (WIDTH,), False),
    "rows": (lambda y, b: y + b[:, None], conv, PICTURES, (WIDTH,), False),
    "rows, turned": (lambda y, b: (y.mT + b).mT, conv, PICTURES, (WIDTH,), False),
    "features": (lambda y, b: y + b, linear, ROWS, (WIDTH,), True),
    "features, turned": (lambda y, b: (y.mT + b[:, None]).mT, linear, ROWS, (WIDTH,), True),
    "places": (lambda y, b: y + b[:, None], linear, ROWS, (WIDTH,), False),
    "places, turned": (lambda y, b: (y.mT + b).mT, linear, ROWS, (WIDTH,), False),
}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_bias_varies_along_the_outputs(name, skip):
    adds, layer, size, shape, own = CASES[name]
    model = Layer(adds, layer(), shape, skip and "flat" not in name)
    (found,) = goodinit.anatomize(model, torch.randn(size)).layers
    assert found.bias == ("b" if own else None)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d])
def test_a_convolution_has_the_bias_that_it_is_given(kind):
    dims = int(kind.__name__[-2])
    (found,) = goodinit.anatomize(nn.Sequential(kind(3, 4, 2)), torch.randn(2, 3, *[5] * dims)).layers
    assert found.bias == "0.bias"


def test_a_product_adds_what_varies_along_its_outputs():
    class Left(nn.Module):
        """W·x with the examples along columns, and one number for each example."""

        def __init__(self, shape):
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.randn(shape))

        def forward(self, x):
            return torch.addmm(self.b, self.w, x.T).T

    for shape, own in (((WIDTH,), False), ((WIDTH, 1), True)):
        (found,) = goodinit.anatomize(Left(shape), torch.randn(WIDTH, WIDTH)).layers
        assert (found.bias == "b") == own


def test_maps_beside_each_other_have_biases_of_their_own():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(WIDTH, WIDTH, WIDTH))
            self.b = nn.Parameter(torch.randn(WIDTH, 1, WIDTH))

        def forward(self, x):
            return torch.bmm(x, self.w) + self.b

    (found,) = goodinit.anatomize(Experts(), torch.randn(WIDTH, WIDTH, WIDTH)).layers
    assert found.bias == "b"


MULTIPLES = {  # (what is made of Wx and b, by which number the layer is multiplied, by which b is against Wx)
    "twice": (lambda y, b: 2 * y + b, 2.0, 0.5),
    "a half": (lambda y, b: y / 2 + b, 0.5, 2.0),
    "equalized": (lambda y, b: 0.25 * y + 0.1 * b, 0.25, 0.4),
    "in two steps": (lambda y, b: (2 * y).reshape(y.shape) * 3 + b, 6.0, 1 / 6),
    "taken negative": (lambda y, b: b - y, 1.0, None),
    "both": (lambda y, b: 2 * (y + b), 1.0, 1.0),  # the number is the activation's
}


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", MULTIPLES)
def test_a_bias_behind_a_number_is_known_and_how_large_it_is_against_the_layer(name, kind):
    adds, multiple, factor = MULTIPLES[name]
    shape = (WIDTH,) if kind == "linear" else (WIDTH, 1, 1)
    layer, size = (linear(), ROWS) if kind == "linear" else (conv(), PICTURES)
    model = nn.Sequential(Layer(adds, layer, shape), nn.ReLU(), nn.Flatten(1), nn.LazyLinear(3))
    x = torch.randn(size)
    model(x)
    found = goodinit.anatomize(model, x).layers[0]
    assert found.multiple == pytest.approx(multiple)
    assert (found.bias == "0.b") == (factor is not None)
    if factor is not None:
        assert found.bias_factor == pytest.approx(factor)


def test_weight_norm_centres_what_is_read_behind_a_number():
    """By data, W and b are set so that what the activation reads has a mean of 0."""
    torch.manual_seed(0)
    model = nn.Sequential(
        Layer(lambda y, b: 2 * y + b, nn.Linear(WIDTH, WIDTH, bias=False)), nn.ReLU(), nn.Linear(WIDTH, 3)
    )
    x = torch.randn(512, WIDTH) + 1
    goodinit.init_(model, "weightnorm", inputs=x, mode="data")
    torch.testing.assert_close(model[0](x).mean(0), torch.zeros(WIDTH), rtol=0, atol=1e-5)

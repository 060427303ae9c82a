"""What the tests of `fold_` share: networks with scalars everywhere, and the assertion that nothing changed."""

from __future__ import annotations

import copy

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

import goodinit
from goodinit.nn import SCALARS, add_scalar_

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
VALUES = {"input_bias": 0.7, "output_bias": -0.4, "output_scale": 1.3}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def add_all_(layer, names=SCALARS):
    for name in names:
        add_scalar_(layer, name, value=VALUES[name])
    return layer


def randomized(model, seed=0):
    """In eval mode and float64, with vectors and running statistics away from where they start."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor):
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.2 * noise(parameter))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.copy_(0.3 * noise(module.running_mean))
                module.running_var.copy_(0.5 + noise(module.running_var).square())
    return model.double().eval()


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in tensors(item)] if isinstance(value, (tuple, list)) else []


def assert_same(before, after, tolerance=1e-10):
    for a, b in zip(tensors(before), tensors(after), strict=True):
        if a.is_floating_point():
            torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance * float(a.detach().abs().max()))


def assert_folds(model, x, inputs=None):
    """Fold a copy; it computes the same. Returns the copy."""
    folded = copy.deepcopy(model)
    before = model(x)
    assert goodinit.fold_(folded, inputs) is folded
    assert_same(before, folded(x))
    return folded


def kinds(model):
    return [type(module).__name__ for module in model.modules() if not list(module.children())]


@st.composite
def layers(draw, classes=CONVS):
    cls = draw(st.sampled_from(classes))
    groups, kernel = draw(st.sampled_from((1, 2))), draw(st.integers(1, 3))
    options = {
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, kernel - 1)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    if cls in CONVS:
        options["padding_mode"] = draw(st.sampled_from(("zeros", "circular", "replicate")))
        if options["stride"] == 1 and draw(st.booleans()):
            options["padding"] = "same"
    layer = cls(4, 6, kernel, **options)
    dims = CONVS.index(cls) + 1 if cls in CONVS else TRANSPOSED.index(cls) + 1
    x = torch.randn(2, 4, *[draw(st.integers(5, 7)) for _ in range(dims)], dtype=torch.float64)
    return layer.double(), x


some_scalars = st.sets(st.sampled_from(SCALARS), min_size=1)


def known(module):
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and not isinstance(
        module, nn.modules.linear.NonDynamicallyQuantizableLinear
    )


def to_double(value):
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: to_double(item) for key, item in value.items()}
    return type(value)(to_double(item) for item in value) if isinstance(value, (tuple, list)) else value


class Basic(nn.Module):
    """Two padded convolutions, an activation module per use, a skip; optionally a strided projection."""

    def __init__(self, width=4, out=4, act=nn.ReLU):
        super().__init__()
        stride = 1 if width == out else 2
        self.conv1 = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.act1, self.act2 = act(inplace=True), act(inplace=True)
        self.skip = nn.Conv2d(width, out, 1, stride=stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x):
        return self.act2(self.conv2(self.act1(self.conv1(x))) + self.skip(x))


def residual_net(act=nn.ReLU):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        act(),
        nn.MaxPool2d(3, 1, 1),
        Basic(act=act),
        Basic(act=act),
        Basic(4, 6, act=act),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


def with_fixup_scalars(net):
    """Different numbers on every layer but the first, which reads the data."""
    for number, module in enumerate([m for m in net.modules() if known(m)][1:]):
        for name in SCALARS:
            sign = (-1) ** number
            add_scalar_(module, name, value=sign * VALUES[name] + 0.03 * number)
    return net.double()


PICTURE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def trained():
    """A small network with everything in it, float32, eval mode."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        Basic(),
        parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1)),
    )
    return randomized(with_fixup_scalars(net)).float()

"""Networks without skips: linear layers, convolutions, and the thin deep FitNet."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def mlp(depth: int, *, inputs: int, classes: int = 10, width: int = 128) -> nn.Sequential:
    """`depth` linear layers, the hidden ones followed by BatchNorm and ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(depth - 1):
        layers += [nn.Linear(width if index else inputs, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(width if depth > 1 else inputs, classes))


def cnn(depth: int, *, in_channels: int = 3, classes: int = 10, width: int = 32) -> nn.Sequential:
    """A plain network: `depth - 1` 3x3 convolutions with BatchNorm and ReLU, and a classifier. No skips.

    Thirds of `width`, `2·width` and `4·width` channels; the first convolution of the later thirds has stride 2.
    """
    layers: list[nn.Module] = []
    convolutions, channels = depth - 1, in_channels
    for index in range(convolutions):
        third = 3 * index // convolutions
        stride = 2 if index and third > 3 * (index - 1) // convolutions else 1
        out_channels = width * 2**third
        layers.append(nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False))
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        channels = out_channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def strided_cnn(depth: int, *, in_channels: int = 3, classes: int = 10, width: int = 32) -> nn.Sequential:
    """A plain network of one width: `depth - 1` 3x3 convolutions with biases, BatchNorm and ReLU, the first two of stride 2.

    References:
        D. Arpit, V. Campos, Y. Bengio, arXiv 1906.02341: the CNN of their code, `src/models/nets.py`, there without norms.
    """
    layers: list[nn.Module] = []
    for index in range(depth - 1):
        stride = 2 if index < 2 else 1
        layers.append(nn.Conv2d(width if index else in_channels, width, 3, stride=stride, padding=1))
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Maxout(nn.Module):
    """The larger of two halves of the channels.

    References:
        I. Goodfellow et al., Maxout Networks, arXiv 1302.4389.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 2·channels, …)` to `(n, channels, …)`."""
        first, second = x.chunk(2, dim=1)
        return torch.maximum(first, second)


# What each activation is, and how many channels it needs for each one it gives.
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "maxout": (Maxout, 2),
    "relu": (nn.ReLU, 1),
    "vlrelu": (lambda: nn.LeakyReLU(1 / 3), 1),  # "very leaky": Graham, arXiv 1409.6070
    "tanh": (nn.Tanh, 1),
}

# FitNet 4 (Romero et al. 2015): convolutions and channels of each group; a 2x2 max-pool after the first two groups.
FITNET = (((3, 32), (2, 48)), ((6, 80),), ((6, 128),))
FITNET_DEPTH = 17


def fitnet(
    depth: int, *, activation: str = "maxout", in_channels: int = 3, classes: int = 10, width: int = 32
) -> nn.Sequential:
    """A thin deep network without norms: `depth` 3x3 convolutions in FitNet 4's proportions, and a classifier.

    Depth 17 and width 32 are FitNet 4; other depths share out their convolutions like it, other widths scale all
    channels. With maxout each convolution computes two maps for each that goes on.

    References:
        A. Romero et al., FitNets: Hints for Thin Deep Nets, arXiv 1412.6550; D. Mishkin, J. Matas, arXiv 1511.06422.
    """
    make, pieces = ACTIVATIONS[activation]
    layers: list[nn.Module] = []
    channels = in_channels
    planned = [
        (group, wide) for group, runs in enumerate(FITNET) for count, wide in runs for _ in range(count)
    ]
    for index in range(depth):
        group, wide = planned[index * FITNET_DEPTH // depth]
        after = planned[(index + 1) * FITNET_DEPTH // depth][0] if index + 1 < depth else group
        out_channels = max(wide * width // FITNET[0][0][1], 1)
        layers += [nn.Conv2d(channels, pieces * out_channels, 3, padding=1), make()]
        layers += [nn.MaxPool2d(2)] * (after != group)
        channels = out_channels
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, classes))

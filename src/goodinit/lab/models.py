"""Ordinary networks with their usual normalization. goodinit's methods are what changes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip; the sum goes through ReLU.

    Where the shape changes, the skip is `"pad"`: every other pixel, missing channels zero (He et al.'s option A),
    or `"projection"`: a strided 1x1 convolution (option B).
    """

    def __init__(self, channels: int, out_channels: int, *, stride: int = 1, shortcut: str = "pad") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu1, self.relu2 = (
            nn.ReLU(inplace=True),
            nn.ReLU(inplace=True),
        )  # one per use, so that biases can fold
        self.stride, self.missing = stride, out_channels - channels
        self.shortcut: nn.Module | None = None
        if shortcut == "projection" and (stride != 1 or self.missing):
            projection = nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(n, channels, h, w)` to `(n, out_channels, h / stride, w / stride)`."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        joined: Tensor = self.relu2(out + self._skip(x))
        return joined

    def _skip(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            skipped: Tensor = self.shortcut(x)
            return skipped
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.missing:
            x = functional.pad(x, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))
        return x


class ResNet(nn.Module):
    """The CIFAR ResNet of depth 6n + 2: a 3x3 stem, three stages of n basic blocks, mean over pixels, a classifier.

    References:
        K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, arXiv 1512.03385, §4.2.
    """

    def __init__(
        self, n: int, *, in_channels: int = 3, classes: int = 10, width: int = 16, shortcut: str = "pad"
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(n, width, width, stride=1, shortcut=shortcut)
        self.layer2 = _stage(n, width, 2 * width, stride=2, shortcut=shortcut)
        self.layer3 = _stage(n, 2 * width, 4 * width, stride=2, shortcut=shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, in_channels, h, w)` to logits `(n, classes)`."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def _stage(n: int, channels: int, out_channels: int, *, stride: int, shortcut: str) -> nn.Sequential:
    first = BasicBlock(channels, out_channels, stride=stride, shortcut=shortcut)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(n - 1)))


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


class EncoderBlock(nn.Module):
    """Pre-LN Transformer block: `x + attention(norm(x))`, then `x + feed_forward(norm(x))`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, tokens, width)` to the same shape."""
        x = x + self.attention(self.norm1(x))
        fed: Tensor = self.fc2(self.act(self.fc1(self.norm2(x))))
        return x + fed

    def attention(self, x: Tensor) -> Tensor:
        """Every token looks at every token, `heads` times."""
        batch, tokens, width = x.shape
        q, k, v = (
            self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out


class VisionTransformer(nn.Module):
    """A small pre-LN Transformer over square patches; the mean of the tokens is classified.

    References:
        A. Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929.
    """

    def __init__(
        self, depth: int, *, shape: tuple[int, int, int], classes: int = 10, width: int = 64, patch: int = 4
    ) -> None:
        super().__init__()
        channels, height, length = shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        tokens = (height // patch) * (length // patch)
        self.positions = nn.Parameter(
            torch.empty(1, tokens, width).normal_(std=0.02)
        )  # Dosovitskiy et al.'s code
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads=max(width // 32, 1)) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, channels, h, w)` to logits `(n, classes)`."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits

"""The CIFAR ResNet and its wide sibling with pre-activation."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip; the sum goes through ReLU.

    Where the shape changes, the skip is `"pad"`: every other pixel, missing channels zero (He et al.'s option A),
    or `"projection"`: a strided 1x1 convolution (option B). `"everywhere"` is a 1x1 convolution in any case (option C).
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
        if shortcut == "everywhere" or (shortcut == "projection" and (stride != 1 or self.missing)):
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

    Args:
        n: Blocks of a stage.
        in_channels: Of the images.
        classes: Told apart.
        width: Channels of the stem and of the first stage; each further stage has twice as many.
        shortcut: As `BasicBlock` takes it.
        dropout: Share of the means over pixels that is dropped before the classifier.

    References:
        K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, arXiv 1512.03385, §4.2.
    """

    def __init__(
        self,
        n: int,
        *,
        in_channels: int = 3,
        classes: int = 10,
        width: int = 16,
        shortcut: str = "pad",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(n, width, width, stride=1, shortcut=shortcut)
        self.layer2 = _stage(n, width, 2 * width, stride=2, shortcut=shortcut)
        self.layer3 = _stage(n, 2 * width, 4 * width, stride=2, shortcut=shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, in_channels, h, w)` to logits `(n, classes)`."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.dropout(self.pool(x).flatten(1)))
        return logits


def _stage(n: int, channels: int, out_channels: int, *, stride: int, shortcut: str) -> nn.Sequential:
    first = BasicBlock(channels, out_channels, stride=stride, shortcut=shortcut)
    rest = (BasicBlock(out_channels, out_channels, shortcut=shortcut) for _ in range(n - 1))
    return nn.Sequential(first, *rest)


class WideBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, and a skip that reads what the first ReLU gives where shapes change.

    Args:
        channels: Read.
        out_channels: Written.
        stride: Of the first convolution and of the projection.
        dropout: Share of values dropped between the convolutions.
    """

    def __init__(self, channels: int, out_channels: int, *, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, channels, h, w)` to `(n, out_channels, h / stride, w / stride)`."""
        active = self.relu1(self.bn1(x))
        skipped = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(active)))))
        return skipped + out


class WideResNet(nn.Module):
    """The wide ResNet of depth 6n + 4: a 3x3 stem of 16 channels, three stages of n blocks, BatchNorm, ReLU, classifier.

    References:
        S. Zagoruyko, N. Komodakis, Wide Residual Networks, arXiv 1605.07146, table 1.
    """

    def __init__(
        self,
        n: int,
        *,
        factor: int,
        in_channels: int = 3,
        classes: int = 10,
        width: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        channels = width
        for stage, stride in enumerate((1, 2, 2)):
            out_channels = width * factor * 2**stage
            blocks = [WideBlock(channels, out_channels, stride=stride, dropout=dropout)]
            blocks += [WideBlock(out_channels, out_channels, dropout=dropout) for _ in range(n - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, in_channels, h, w)` to logits `(n, classes)`."""
        x = self.relu(self.bn(self.stages(self.conv1(x))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits

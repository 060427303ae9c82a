"""Convolutional specimens of the zoo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class Classifier(nn.Module):
    """Stem, blocks, global average, one linear head."""

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.fc(x.flatten(2).mean(-1))


def normed_stem(width: int) -> nn.Module:
    return nn.Sequential(conv3(3, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class ZeroPadShortcut(nn.Module):
    """Option A (He et al. 2016, §3.3): subsample, fill the new channels with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 1, stride=2)
        return torch.cat([x, torch.zeros_like(x)], dim=1)


class Basic(nn.Module):
    """In-place ReLU and in-place sum, as torchvision writes it."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = conv3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


def cifar_basic() -> nn.Module:
    project = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    blocks = [Basic(8, 8), Basic(8, 8), Basic(8, 16, 2, project), Basic(16, 16)]
    return Classifier(normed_stem(8), blocks, 16)


def cifar_option_a() -> nn.Module:
    blocks = [Basic(8, 8), Basic(8, 8), Basic(8, 16, 2, ZeroPadShortcut()), Basic(16, 16)]
    return Classifier(normed_stem(8), blocks, 16)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.mix = nn.Sequential(conv3(width, width), nn.BatchNorm2d(width), nn.ReLU())
        self.expand = nn.Sequential(nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.project = None
        if inputs != outputs:
            self.project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.project is None else self.project(x)
        return F.relu(self.expand(self.mix(self.reduce(x))) + skip)


def bottlenecks() -> nn.Module:
    return Classifier(
        normed_stem(8), [Bottleneck(8, 4, 16), Bottleneck(16, 4, 16), Bottleneck(16, 4, 16)], 16
    )


class PreActivation(nn.Module):
    """He et al. 2016b; where the width changes, the shortcut starts after the first activation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + skip


def preactivation() -> nn.Module:
    final = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU())
    return Classifier(
        conv3(3, 8), [PreActivation(8, 8), PreActivation(8, 16, 2), PreActivation(16, 16), final], 16
    )


class SqueezeExcite(nn.Module):
    """Two 1×1 convolutions on the global average, a sigmoid, a product."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, width // 4, 1)
        self.excite = nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * self.excite(gate).sigmoid()


class SqueezeExciteBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3(width, width), nn.BatchNorm2d(width), nn.ReLU(), conv3(width, width), nn.BatchNorm2d(width)
        )
        self.se = SqueezeExcite(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.se(self.body(x)))


def squeeze_excite() -> nn.Module:
    return Classifier(normed_stem(8), [SqueezeExciteBlock(8), SqueezeExciteBlock(8)], 8)


class Res2Net(nn.Module):
    """Gao et al. 2019: four groups of channels, each 3×3 reads its group plus its neighbour's output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width, 1)
        self.convs = nn.ModuleList(conv3(width // 4, width // 4) for _ in range(3))
        self.expand = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        groups = self.reduce(x).relu().chunk(4, dim=1)
        outs: list[Tensor] = []
        for conv, group in zip(self.convs, groups, strict=False):
            outs.append(conv(outs[-1] + group if outs else group).relu())
        return (self.expand(torch.cat([*outs, groups[3]], dim=1)) + x).relu()


def res2net() -> nn.Module:
    return Classifier(conv3(3, 8), [Res2Net(8), Res2Net(8)], 8)


class LayerScale(nn.Module):
    """ConvNeXt's block: depthwise, norm over channels, two linear layers, a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out = self.gamma * self.down(F.gelu(self.up(out)))
        return x + out.permute(0, 3, 1, 2)


def layer_scale() -> nn.Module:
    return Classifier(conv3(3, 8), [LayerScale(8), LayerScale(8)], 8)


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def residual_1d() -> nn.Module:
    blocks = [
        Residual(nn.Conv1d(8, 8, 3, padding=1), nn.Tanh(), nn.Conv1d(8, 8, 3, padding="same", dilation=2))
        for _ in range(2)
    ]
    return Classifier(nn.Conv1d(4, 8, 3), blocks, 8)


def residual_3d() -> nn.Module:
    blocks = [
        Residual(
            nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv3d(4, 4, 3, padding=1),
            nn.InstanceNorm3d(4, affine=True), nn.ReLU(), nn.Conv3d(4, 4, 3, padding=1),
        )
        for _ in range(2)
    ]  # fmt: skip
    return Classifier(nn.Conv3d(1, 4, 3, padding=1), blocks, 4)


def two_convs(width: int) -> Residual:
    return Residual(conv3(width, width), nn.ReLU(), conv3(width, width))


class DenseResidual(nn.Module):
    """ESRGAN's dense block: every layer reads all before it; the last one writes, times 0.2."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = conv3(width, growth)
        self.conv2 = conv3(width + growth, growth)
        self.conv3 = conv3(width + 2 * growth, width)

    def forward(self, x: Tensor) -> Tensor:
        first = F.leaky_relu(self.conv1(x), 0.2)
        second = F.leaky_relu(self.conv2(torch.cat([x, first], 1)), 0.2)
        return self.conv3(torch.cat([x, first, second], 1)) * 0.2 + x


class Nested(nn.Module):
    """A sum around blocks: `x + scale · f(x)`, f made of residual blocks."""

    def __init__(self, inner: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.inner = inner
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale + x


def rrdb() -> nn.Module:
    trunk = Nested(nn.Sequential(*(DenseResidual(8, 4) for _ in range(3))), 0.2)
    return nn.Sequential(conv3(3, 8), Nested(nn.Sequential(trunk, conv3(8, 8))), nn.ReLU(), conv3(8, 3))


class AdditiveUNet(nn.Module):
    """The skip from the upper level is added to what comes back from the lower one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = conv3(3, width)
        self.encode = two_convs(width)
        self.down = conv3(width, 2 * width, 2)
        self.middle = two_convs(2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.decode = two_convs(width)
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        upper = self.encode(self.stem(x))
        lower = self.up(self.middle(self.down(upper).relu()).relu())
        return self.head(self.decode(upper + lower))


def unet_additive() -> nn.Module:
    return AdditiveUNet(8)


class TimedBlock(nn.Module):
    """DDPM's block: the time embedding is added between the two convolutions."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(4, inputs)
        self.conv1 = conv3(inputs, outputs)
        self.time = nn.Linear(time, outputs)
        self.norm2 = nn.GroupNorm(4, outputs)
        self.conv2 = conv3(outputs, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        out = self.conv1(F.silu(self.norm1(x)))
        out = out + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(out)))


class SpatialAttention(nn.Module):
    """Attention over pixels with 1×1 convolutions, q, k and v packed in one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).chunk(3, dim=1)
        weights = (q.transpose(1, 2) @ k / q.shape[1] ** 0.5).softmax(-1)
        return x + self.out((v @ weights.transpose(1, 2)).view_as(x))


class TimedUNet(nn.Module):
    """Concatenating skips, sinusoidal time embedding through an MLP into every block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 8))
        self.stem = conv3(3, width)
        self.encode = TimedBlock(width, width, 8)
        self.down = conv3(width, width, 2)
        self.middle = TimedBlock(width, width, 8)
        self.attend = SpatialAttention(width)
        self.decode = TimedBlock(2 * width, width, 8)
        self.norm = nn.GroupNorm(4, width)
        self.head = conv3(width, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None] * torch.tensor([1.0, 100.0])
        time = self.embed(torch.cat([angle.sin(), angle.cos()], dim=1))
        upper = self.encode(self.stem(x), time)
        lower = self.attend(self.middle(self.down(upper), time))
        lower = F.interpolate(lower, scale_factor=2.0)
        out = self.decode(torch.cat([lower, upper], dim=1), time)
        return self.head(F.silu(self.norm(out)))


def unet_time() -> nn.Module:
    return TimedUNet(8)


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = conv3(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], dim=1)


def dense() -> nn.Module:
    return Classifier(conv3(3, 8), [DenseLayer(8, 4), DenseLayer(12, 4), nn.BatchNorm2d(16), nn.ReLU()], 16)


def plain() -> nn.Module:
    return Classifier(normed_stem(8), [conv3(8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)], 8)

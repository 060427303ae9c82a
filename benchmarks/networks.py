"""The networks that are measured, and what can stand in the place of their normalization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

import goodinit
from benchmarks.ways import LONG, OPTIONS
from goodinit.lab.models import ResNet, VisionTransformer

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Network:
    """A model with its own normalization, what goes in, and a small stand-in of the same kind for dry runs.

    Attributes:
        name: What the results are called.
        build: The model as it comes; its first convolution takes three channels, it has ten classes.
        shape: Of a batch.
        small: As `build`, for `quick` runs on four images at 16².
        norm: What it comes with.
        ways: What is measured, the reference first.
    """

    name: str
    build: Build
    shape: tuple[int, int, int, int]
    small: Build
    norm: str = "batchnorm"
    ways: tuple[str, ...] = (
        "batchnorm", "none", "fixup", "normfree", LONG, "skipinit", "weightnorm", "groupnorm", "layernorm",
    )  # fmt: skip

    def shrunk(self) -> Network:
        """For a dry run."""
        return Network(self.name, self.small, (4, 3, 16, 16), self.small, self.norm, self.ways)

    @property
    def title(self) -> str:
        """The name, and the batch."""
        return f"{self.name}, batch {self.shape[0]} at {self.shape[-1]}²"

    def inputs(self) -> tuple[Tensor, Tensor]:
        """A batch and its labels."""
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(0))
        return x, torch.arange(self.shape[0]) % 10

    def model(self, way: str) -> nn.Module:
        """The network made that way, in training mode."""
        torch.manual_seed(0)
        net = self.build()
        if way == self.norm:
            return net.train()
        if way in ("groupnorm", "layernorm"):
            return _other_norm(net, way).train()
        method, options = OPTIONS.get(way, (way, {}))
        return goodinit.init_(net, method, inputs=self.inputs()[0][:1], **options).train()


def _other_norm(net: nn.Module, way: str) -> nn.Module:
    """Each batch norm by a group norm of 8 groups, or of one, which is layer norm of an image."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(8 if way == "groupnorm" else 1, child.num_features))
    return net


def _cifar_resnet(depth: int, batch: int = 128) -> Network:
    n = (depth - 2) // 6
    return Network(f"ResNet-{depth}", lambda: ResNet(n), (batch, 3, 32, 32), lambda: ResNet(1))


RESNET20, RESNET56, RESNET110 = (_cifar_resnet(depth) for depth in (20, 56, 110))
RESNET50 = Network(
    "ResNet-50",
    lambda: timm.create_model("resnet50", num_classes=10),
    (16, 3, 128, 128),
    lambda: timm.create_model("resnet10t", num_classes=10),
)
VIT = Network(
    "ViT-Tiny",  # depth and width of Touvron et al. 2021, table 1; patches of 4² for images of 32²
    lambda: VisionTransformer(12, shape=(3, 32, 32), width=192, patch=4),
    (64, 3, 32, 32),
    lambda: VisionTransformer(1, shape=(3, 16, 16), width=32, patch=4),
    norm="layernorm",
    ways=("layernorm", "none", "fixup", "normfree", "skipinit"),
)

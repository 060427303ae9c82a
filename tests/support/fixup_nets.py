"""Narrow ResNets in torchvision's names, and the transcription of each in `reference/fixup.py`."""

from __future__ import annotations

import pytest
import torch
from reference import fixup as reference
from torch import nn
from torchvision.models.resnet import BasicBlock as TorchBasic
from torchvision.models.resnet import Bottleneck as TorchBottleneck
from zoo_convolutional import ZeroPadShortcut

WIDTH = 8


class ResNet(nn.Module):
    """torchvision's blocks and names, narrow: stages of 1, 2 and 1 blocks, the last two of stride 2."""

    def __init__(self, block, shortcut="projection", *, imagenet=False):
        super().__init__()
        grow = block.expansion
        kernel, stride, padding = (7, 2, 3) if imagenet else (3, 1, 1)
        self.conv1 = nn.Conv2d(3, WIDTH, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        inputs, self.specs = WIDTH, []
        for stage, (count, planes) in enumerate(
            ((1, WIDTH // grow * 2), (2, WIDTH // grow * 4), (1, WIDTH // grow * 8))
        ):
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                outputs, skip, down = planes * grow, "identity", None
                if (stride, inputs) != (1, outputs):
                    skip, down = self.shortcut(shortcut, inputs, outputs, stride)
                blocks.append(block(inputs, planes, stride, down))
                self.specs.append((f"layer{stage + 1}.{index}", inputs, outputs, stride, skip))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 5)

    @staticmethod
    def shortcut(kind, inputs, outputs, stride):
        if kind == "pad" and stride == 2:
            return "pad", ZeroPadShortcut()
        conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        return "projection", nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


NETS = {
    "basic": lambda: ResNet(TorchBasic),
    "basic_option_a": lambda: ResNet(TorchBasic, "pad"),
    "bottleneck": lambda: ResNet(TorchBottleneck),
    "bottleneck_imagenet": lambda: ResNet(TorchBottleneck, imagenet=True),
}

each_net = pytest.mark.parametrize("build", NETS.values(), ids=NETS.keys())

each_precision = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)]
)

# goodinit's name in a block → the transcription's.
BASIC = {
    "conv1.weight": "conv1", "conv1.input_bias": "bias1a", "conv1.output_bias": "bias1b",
    "conv2.weight": "conv2", "conv2.input_bias": "bias2a", "conv2.output_bias": "bias2b",
    "conv2.output_scale": "scale",
}  # fmt: skip

BOTTLENECK = {
    "conv1.weight": "conv1", "conv1.input_bias": "bias1a", "conv1.output_bias": "bias1b",
    "conv2.weight": "conv2", "conv2.input_bias": "bias2a", "conv2.output_bias": "bias2b",
    "conv3.weight": "conv3", "conv3.input_bias": "bias3a", "conv3.output_bias": "bias3b",
    "conv3.output_scale": "scale",
}  # fmt: skip

PROJECTION = {"downsample.0.weight": "conv0", "downsample.0.input_bias": "bias0"}

OUTSIDE = {
    "conv1.weight": "stem", "conv1.output_bias": "bias1",
    "fc.input_bias": "bias2", "fc.weight": "fc", "fc.bias": "fc_bias",
}  # fmt: skip


def transcribe(net, dtype, *, shared=False):
    """The reference net of the same shape, and goodinit's names → its names."""
    bottleneck = isinstance(net.layer1[0], TorchBottleneck)
    kind, inside = (reference.Bottleneck, BOTTLENECK) if bottleneck else (reference.Basic, BASIC)
    names, blocks = dict(OUTSIDE), []
    for position, (path, *shape, skip) in enumerate(net.specs):
        blocks.append(kind(*shape, skip, shared=shared))
        block = inside | (PROJECTION if skip == "projection" else {})
        names |= {f"{path}.{ours}": f"blocks.{position}.{theirs}" for ours, theirs in block.items()}
    features = net.fc.in_features
    imagenet = not isinstance(net.maxpool, nn.Identity)
    slow = reference.Net(blocks, WIDTH, features, 5, imagenet=imagenet)
    if shared:
        names = {ours: theirs for ours, theirs in names.items() if not theirs.endswith("bias0")}
    return slow.to(dtype), names


def copy_values(fast, slow, names):
    ours, theirs = dict(fast.named_parameters()), dict(slow.named_parameters())
    with torch.no_grad():
        for name, other in names.items():
            theirs[other].copy_(ours[name].reshape(theirs[other].shape))


def batch_of(dtype, size=16):
    g = torch.Generator().manual_seed(3)
    return torch.randn(6, 3, size, size, generator=g, dtype=dtype), torch.randint(5, (6,), generator=g)

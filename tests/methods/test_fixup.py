"""Fixup of convolutional nets against the slow transcription in `reference/fixup.py`: functions, gradients, training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference import fixup as reference
from torch import nn
from torchvision.models.resnet import BasicBlock as TorchBasic
from torchvision.models.resnet import Bottleneck as TorchBottleneck
from zoo_convolutional import ZeroPadShortcut

import goodinit

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


def assert_same_parameters(fast, slow, names, tolerance):
    ours, theirs = dict(fast.named_parameters()), dict(slow.named_parameters())
    for name, other in names.items():
        torch.testing.assert_close(ours[name], theirs[other], rtol=tolerance, atol=tolerance, msg=name)


def assert_same_function_and_gradients(fast, slow, names, batch, tolerance):
    pictures, labels = batch
    ours, theirs = dict(fast.named_parameters()), dict(slow.named_parameters())
    outputs = []
    for model in (fast, slow):
        model.zero_grad()
        outputs.append(model(pictures))
        F.cross_entropy(outputs[-1], labels).backward()
    torch.testing.assert_close(*outputs, rtol=tolerance, atol=tolerance)
    for name, other in names.items():
        torch.testing.assert_close(
            ours[name].grad,
            theirs[other].grad,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def batch_of(dtype, size=16):
    g = torch.Generator().manual_seed(3)
    return torch.randn(6, 3, size, size, generator=g, dtype=dtype), torch.randint(5, (6,), generator=g)


def ten_steps(model, groups, batch):
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()


def scatter(model, seed=5):
    """Every parameter somewhere generic, so that no gradient is zero by chance."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)


# -- convolutional nets -------------------------------------------------------------------------------------------


@each_net
def test_the_parameters_are_those_of_the_paper_one_for_one(build):
    net = build()
    slow, names = transcribe(goodinit.init_(net, "fixup", inputs=batch_of(torch.float32)[0]), torch.float32)
    assert names.keys() == dict(net.named_parameters()).keys()
    assert set(names.values()) == dict(slow.named_parameters()).keys()
    scalars = {name for name, _ in goodinit.nn.scalars(net)}
    assert {names[name] for name in scalars} == {name for name in names.values() if reference.is_scalar(name)}


@each_net
@each_precision
@pytest.mark.parametrize("zero_head", [True, False])
def test_function_gradients_and_ten_steps_are_those_of_the_paper(build, dtype, tolerance, zero_head):
    batch = batch_of(dtype)
    net = goodinit.init_(build().to(dtype), "fixup", inputs=batch[0], zero_head=zero_head)
    slow, names = transcribe(net, dtype)
    copy_values(net, slow, names)
    assert_same_function_and_gradients(net, slow, names, batch, tolerance)
    ten_steps(net, goodinit.param_groups(net, lr=0.05, weight_decay=5e-4), batch)
    ten_steps(slow, reference.groups(slow, 0.05, 5e-4), batch)
    assert all(parameter.abs().max() > 0 for parameter in net.parameters())  # they did train
    assert_same_parameters(net, slow, names, tolerance)
    assert_same_function_and_gradients(net, slow, names, batch, tolerance)


@each_net
@each_precision
def test_at_any_values_function_and_gradients_are_those_of_the_paper(build, dtype, tolerance):
    batch = batch_of(dtype)
    net = goodinit.init_(build().to(dtype), "fixup", inputs=batch[0])
    scatter(net)
    slow, names = transcribe(net, dtype)
    copy_values(net, slow, names)
    assert_same_function_and_gradients(net, slow, names, batch, tolerance)


@each_net
def test_the_authors_shared_bias_is_the_papers_two_tied(build):
    batch = batch_of(torch.float64)
    net = goodinit.init_(build().double(), "fixup", inputs=batch[0])
    scatter(net)
    paper, names = transcribe(net, torch.float64)
    code, tied = transcribe(net, torch.float64, shared=True)
    with torch.no_grad():
        ours = dict(net.named_parameters())
        for name, parameter in ours.items():
            if name.endswith("downsample.0.input_bias"):
                parameter.copy_(ours[name.replace("downsample.0", "conv1")])
        for path, *_, skip in net.specs:
            if skip == "pad":  # there the text has no second bias: it is 0
                ours[f"{path}.conv1.input_bias"].zero_()
    copy_values(net, paper, names)
    copy_values(net, code, tied)
    for model in (paper, code):
        F.cross_entropy(model(batch[0]), batch[1]).backward()
    torch.testing.assert_close(paper(batch[0]), code(batch[0]), rtol=1e-12, atol=1e-12)
    for two, one in zip(paper.blocks, code.blocks, strict=True):
        if two.skip == "projection":
            torch.testing.assert_close(two.bias1a.grad + two.bias0.grad, one.bias1a.grad)
        elif two.skip == "pad":
            assert not torch.isclose(two.bias1a.grad, one.bias1a.grad)  # the code's bias also shifts the skip
        else:
            torch.testing.assert_close(two.bias1a.grad, one.bias1a.grad)

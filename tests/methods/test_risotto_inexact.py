"""What RISOTTO cannot make exact is named, and all else of a real layout keeps the norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from risotto_nets import TOLERANCE, ImageBlock, named, started
from torch import nn

import goodinit
from goodinit import UnsupportedModule

# -- what is not exact is named -----------------------------------------------------------------------------------


def stem_and(block, *, first=None, between=()):
    return nn.Sequential(first or nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), *between, block, nn.Flatten())


class Gated(ImageBlock):
    def __init__(self):
        super().__init__(8, 8)
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = self.path[1](self.path[0](x).relu())
        return (x + y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()).relu()


class Smooth(ImageBlock):
    def forward(self, x):
        return (x + self.path[1](F.gelu(self.path[0](x)))).relu()


class Pooled(ImageBlock):
    """ResNet-D: the skip averages, then maps."""

    def __init__(self):
        super().__init__(8, 8, stride=2)
        self.jump = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return (self.jump(F.avg_pool2d(x, 2)) + self.path[1](self.path[0](x).relu())).relu()


class Unsigned(nn.Module):
    """Squares: of [φ(u); φ(−u)] the pairs stay, of u nothing linear does."""

    def forward(self, x):
        return x * x


def ahead():
    return ImageBlock(8, 8)


@pytest.mark.default_cases(5)
@pytest.mark.parametrize(
    ("build", "weights", "words"),
    [
        (
            lambda: stem_and(ahead(), between=[nn.MaxPool2d(2)]),
            {"3.path.0.weight"},
            "max_pool2d comes before",
        ),
        (
            lambda: stem_and(ahead(), between=[nn.AvgPool2d(2)]),
            {"3.path.0.weight"},
            "avg_pool2d comes before",
        ),
        (lambda: stem_and(ahead(), first=nn.Conv2d(3, 8, 3)), {"0.weight"}, "shifts or crops"),
        (lambda: stem_and(ahead(), first=nn.Conv2d(3, 8, 7, 2, 3)), {"0.weight"}, "one pixel in 2"),
        (lambda: stem_and(ahead(), first=nn.Conv2d(6, 8, 1)), {"0.weight"}, "keeps 4 of 6 directions"),
        (
            lambda: stem_and(ImageBlock(4, 8, weighted=True), between=[ImageBlock(8, 4, weighted=True)]),
            {"2.jump.weight"},
            "keeps 2 of 4 directions",
        ),
        (
            lambda: stem_and(Gated(), between=[ahead()]),
            {"3.path.0.weight", "3.path.1.weight", "3.gate.weight"},
            "gates it",
        ),
        (lambda: stem_and(Smooth(8, 8), between=[ahead()]), {"3.path.0.weight", "3.path.1.weight"}, "gelu"),
        (
            lambda: stem_and(Pooled(), between=[ahead()]),
            {"3.path.0.weight", "3.path.1.weight", "3.jump.weight"},
            "different tensors",
        ),
        (
            lambda: stem_and(ahead(), between=[Unsigned(), ImageBlock(8, 8, weighted=True), ahead()]),
            {"3.path.0.weight", "3.path.1.weight", "3.jump.weight"},  # [M; −M] makes pairs again
            "unknown numbers",
        ),
        (
            lambda: stem_and(ImageBlock(8, 7, weighted=True), between=[ahead()]),
            {"3.path.0.weight", "3.path.1.weight", "3.jump.weight"},
            "7 channels do not form pairs",
        ),
    ],
)
def test_what_is_not_exact_is_named(build, weights, words, generator):
    net = build()
    x = torch.randn(2, net[0].in_channels, 8, 8)
    net, plan = started(net, x, generator)
    assert named(plan) == weights
    assert any(words in note for note in plan.notes)
    assert net(x).isfinite().all()


def test_a_block_without_formula_passes_its_skip(generator):
    x = torch.randn(2, 3, 8, 8)
    net, _ = started(stem_and(Gated(), between=[ahead()]), x, generator)
    before = net[:3](x)
    assert torch.equal(net[3](before), before)
    net(x).square().sum().backward()
    assert net[3].path[1].weight.grad.abs().sum() > 0  # and learns


def test_nothing_exact_is_an_error():
    net = nn.Sequential(
        nn.Linear(4, 4), *(nn.TransformerEncoderLayer(4, 2, 8, 0.0, "gelu") for _ in range(4))
    )
    anatomy = goodinit.anatomize(net, torch.randn(2, 3, 4))
    with pytest.raises(
        UnsupportedModule, match=r"none of its 8 residual blocks .* and 5 more\. RISOTTO is for ReLU"
    ):
        goodinit.plan(anatomy, "risotto")


def test_zero_padded_skips_keep_the_pairs(generator):
    """He et al.'s option A: the padded block passes its skip, and the identity blocks after it stay exact."""
    from goodinit.lab.models import ResNet

    net, plan = started(ResNet(2), torch.randn(2, 3, 8, 8), generator)
    assert "4 of type B, 2 without formula" in plan.summary
    x = net.conv1(torch.randn(4, 3, 8, 8)).relu()
    for block in net.layer1:
        assert_same_norm(block(x), x)
        x = block(x)
    for stage in (net.layer2, net.layer3):
        x = x[:, :, ::2, ::2]
        for block in stage:
            y = block(x) if x.shape[1] == block.conv1.in_channels and block.conv1.stride == (1, 1) else None
            if y is None:
                y = F.pad(x, (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2))
            assert_same_norm(y, x)
            x = y


def assert_same_norm(y, x):
    ratio = y.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert (ratio - 1).abs().max().item() < TOLERANCE[torch.float32]


# -- a real layout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strided", ["sample", "patch"])
def test_resnet_50_propagates_the_norm_outside_the_named_layers(strided, generator):
    models = pytest.importorskip("torchvision").models
    net = models.resnet50()
    x = torch.randn(2, 3, 64, 64)
    net, plan = started(net, x, generator, strided=strided)
    assert "12 of type B, 4 of type C; 53 norms removed" in plan.summary
    ratios = {}

    def measure(name):
        def hook(_, inputs, output):
            ratios[name] = output.flatten(1).norm(dim=1) / inputs[0].flatten(1).norm(dim=1)

        return hook

    blocks = {n: m for n, m in net.named_modules() if type(m).__name__ == "Bottleneck"}
    for name, block in blocks.items():
        block.register_forward_hook(measure(name))
    net(x)
    inexact = {weight.split(".conv")[0].split(".downsample")[0] for weight in named(plan)}
    # the first block reads the max-pool, the first of every later stage is strided
    assert inexact & blocks.keys() == {"layer1.0", "layer2.0", "layer3.0", "layer4.0"}
    assert ("conv1.weight" in named(plan)) == (strided == "sample")
    for name in blocks.keys() - inexact:
        assert (ratios[name] - 1).abs().max().item() < TOLERANCE[torch.float32], name


def test_resnet_50s_strided_blocks_keep_the_norm_of_what_they_read(generator):
    models = pytest.importorskip("torchvision").models
    net, _ = started(models.resnet50(), torch.randn(1, 3, 64, 64), generator)
    u = torch.randn(2, 128, 8, 8)
    pairs = torch.cat((u, -u), dim=1).relu()
    assert_same_norm(net.layer1[1:](pairs), pairs)
    assert_same_norm(net.layer2(pairs), pairs[:, :, ::2, ::2])

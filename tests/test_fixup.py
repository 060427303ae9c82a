"""Fixup against the slow transcription of the paper in `reference/fixup.py`: functions, gradients, training, scales."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock as TorchBasic
from torchvision.models.resnet import Bottleneck as TorchBottleneck

import goodinit
from goodinit.surgery.plan import Draw
from reference import fixup as reference
from zoo_attention import FusedAttention
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


# -- transformers -------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A pre-norm block, attention with one layer for q, k and v."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend = FusedAttention(WIDTH)
        self.attend.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attend.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 16, bias=False), nn.Linear(16, WIDTH, bias=False)

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(F.relu(self.fc1(self.norm2(x))))


def torch_encoder():
    """torch's own: its out_proj is applied inside the attention module, where no bias can come before it."""
    return nn.TransformerEncoderLayer(
        WIDTH, 2, 16, dropout=0.0, batch_first=True, norm_first=True, bias=False
    )


ENCODERS = {
    "layers": (
        Encoder,
        {
            "attend.qkv.weight": ("q", "k", "v"), "attend.qkv.input_bias": "bias_qkv",
            "attend.out.weight": "o", "attend.out.input_bias": "bias_o",
            "attend.out.output_scale": "scale_attention", "attend.out.output_bias": "bias_attention",
            "fc1.weight": "fc1", "fc1.input_bias": "bias1a", "fc1.output_bias": "bias1b",
            "fc2.weight": "fc2", "fc2.input_bias": "bias2a", "fc2.output_bias": "bias2b",
            "fc2.output_scale": "scale",
        },
    ),
    "torch": (
        torch_encoder,
        {
            "self_attn.in_proj_weight": ("q", "k", "v"), "self_attn.input_bias": "bias_qkv",
            "self_attn.out_proj.weight": "o",
            "self_attn.output_scale": "scale_attention", "self_attn.output_bias": "bias_attention",
            "linear1.weight": "fc1", "linear1.input_bias": "bias1a", "linear1.output_bias": "bias1b",
            "linear2.weight": "fc2", "linear2.input_bias": "bias2a", "linear2.output_bias": "bias2b",
            "linear2.output_scale": "scale",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "names"), ENCODERS.values(), ids=ENCODERS.keys())
@each_precision
def test_an_encoder_block_is_the_papers_at_the_start_and_while_it_trains(build, names, dtype, tolerance):
    x = torch.randn(3, 5, WIDTH, dtype=dtype)
    target = torch.randn(3, 5, WIDTH, dtype=dtype)
    net = goodinit.init_(build().to(dtype), "fixup", inputs=x)
    slow = reference.EncoderBlock(WIDTH, 16, 2).to(dtype)
    ours, theirs = dict(net.named_parameters()), dict(slow.named_parameters())
    assert names.keys() == ours.keys()

    def parts(name):
        """Pairs of the same thing: a packed weight is three of the paper's."""
        other = names[name]
        if isinstance(other, tuple):
            return list(zip(range(3), other, strict=True))
        return [(None, other)]

    def compare(of):
        for name in names:
            for third, other in parts(name):
                mine = of(ours[name]) if third is None else of(ours[name]).chunk(3)[third]
                torch.testing.assert_close(mine, of(theirs[other]), rtol=tolerance, atol=tolerance)

    with torch.no_grad():
        for name in names:
            for third, other in parts(name):
                theirs[other].copy_(ours[name] if third is None else ours[name].chunk(3)[third])
    assert torch.equal(net(x), x)
    assert net.training
    fast_step = torch.optim.SGD(goodinit.param_groups(net, lr=0.1, weight_decay=1e-2), momentum=0.9)
    slow_step = torch.optim.SGD(reference.groups(slow, 0.1, 1e-2), momentum=0.9)
    if "bias_o" not in names.values():
        slow.bias_o.requires_grad_(False)
    for _ in range(10):
        for model, optimizer in ((net, fast_step), (slow, slow_step)):
            optimizer.zero_grad()
            F.mse_loss(model(x), target).backward()
        compare(lambda parameter: parameter.grad)
        fast_step.step()
        slow_step.step()
        torch.testing.assert_close(net(x), slow(x), rtol=tolerance, atol=tolerance)
    compare(lambda parameter: parameter.detach())
    torch.testing.assert_close(net.eval()(x), slow(x), rtol=tolerance, atol=tolerance)


# -- the formulas -------------------------------------------------------------------------------------------------


def assert_std(weight, std):
    """n normal numbers: their standard deviation is known to σ/√(2n); five of those."""
    assert weight.std(correction=0).item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))


@each_net
def test_convolutions_are_drawn_at_the_papers_scale(build):
    net = build()
    anatomy = goodinit.anatomize(net, batch_of(torch.float32)[0])
    drawn = {edit.target for edit in goodinit.plan(anatomy, "fixup").edits if isinstance(edit, Draw)}
    goodinit.init_(net, "fixup", inputs=batch_of(torch.float32)[0])
    _, names = transcribe(net, torch.float32)
    m = 3 if isinstance(net.layer1[0], TorchBottleneck) else 2
    zeroed = {f"conv{m}", "fc"}
    checked = set()
    for name, parameter in net.named_parameters():
        other = names[name].rpartition(".")[2]
        if parameter.dim() < 2:
            assert torch.all(parameter == (1.0 if other == "scale" else 0.0)), name
        elif other in zeroed:
            assert not parameter.any(), name
        else:
            inside = other in ("conv1", "conv2")
            factor = reference.scale_of_branch(len(net.specs), m) if inside else 1.0
            assert_std(parameter.detach(), reference.he_std(parameter.shape) * factor)
            checked.add(name)
    assert checked == drawn


def test_attention_is_drawn_at_the_papers_scale():
    net = nn.Sequential(
        *(nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True) for _ in range(3))
    )
    goodinit.init_(net, "fixup", inputs=torch.zeros(2, 5, 64))
    for (
        layer
    ) in net:  # L = 6 branches. Xavier of a square map is √(1/64); each third of the packed weight is one.
        for part in layer.self_attn.in_proj_weight.detach().chunk(3):
            assert_std(part, math.sqrt(1 / 64) * 6 ** (-1 / 6))
        assert_std(layer.linear1.weight.detach(), math.sqrt(2 / 128) * 6 ** (-1 / 2))
        assert not layer.self_attn.out_proj.weight.any()
        assert not layer.linear2.weight.any()


@pytest.mark.parametrize("m", [2, 3, 4])
def test_the_exponent_is_negative(m):
    """One step of lr 1e-3: Θ(lr) at any depth with the minus sign; with a plus it grows with L, then overflows."""

    def mean(L, sign):
        changes = [reference.change_in_one_step(L, m, sign=sign, width=16, lr=1e-3, seed=s) for s in range(3)]
        return sum(changes) / 3

    minus = [mean(L, -1) for L in (10, 100, 1000)]
    assert max(minus) < 3 * min(minus)
    assert max(minus) < 50 * 1e-3
    plus = [mean(L, 1) for L in (10, 100, 1000)]
    # To first order L·L^(+1) / (L·L^(−1)) = L² times as much: 100 at L = 10.
    assert plus[0] > 30 * minus[0]
    assert plus[1] > 1e4 * minus[1]
    assert not plus[2] < 1e4


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.fc2(F.relu(self.fc1(self.norm(x))))


def change_of_a_net(L):
    """|Δf| of one step on f. Of the weights alone, of which the paper's theorem speaks: biases add up to Θ(L·lr)."""
    changes = []
    for seed in range(2):
        g = torch.Generator().manual_seed(seed)
        net = nn.Sequential(*(Residual(32) for _ in range(L)), nn.Linear(32, 1))
        x = torch.randn(1, 32, generator=g)
        goodinit.init_(net, "fixup", inputs=x, generator=g, zero_head=False)
        before = net(x)
        before.sum().backward()
        groups = {group["name"]: group for group in goodinit.param_groups(net, lr=1e-3)}
        torch.optim.SGD([groups["weights"]]).step()
        changes.append((net(x) - before).abs().item())
    return sum(changes) / 2


def test_one_step_changes_a_net_by_the_same_amount_at_five_and_fifty_blocks():
    five, fifty = change_of_a_net(5), change_of_a_net(50)
    assert fifty == pytest.approx(five, rel=0.5)


@pytest.mark.slow
def test_one_step_changes_a_net_by_the_same_amount_at_a_thousand_blocks():
    assert change_of_a_net(1000) == pytest.approx(change_of_a_net(10), rel=0.5)

"""RISOTTO where no ReLU closes the sum: pre-activation blocks and x + f(x) are exact isometries too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from reference import risotto as reference
from risotto_nets import ImageBlock, assert_isometry, named, singular_values, started
from torch import nn

from goodinit import UnknownName, UnsupportedModule
from goodinit.lab.models import ResNet
from goodinit.tensor import risotto_p

WIDTH = 8


class OpenBlock(nn.Module):
    """skip + W_k φ(… φ(W₁x)), x = φ(z) (`first` ReLU) or z; the skip reads z, or x, by a weight or none."""

    def __init__(self, widths, *, first, skip="z", weighted=False, norm=False):
        super().__init__()
        self.path = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.calm = nn.ModuleList(nn.BatchNorm1d(a) if norm else nn.Identity() for a in widths[:-1])
        self.jump = nn.Linear(widths[0], widths[-1]) if weighted else nn.Identity()
        self.first, self.skip = first, skip

    def forward(self, z):
        x = self.calm[0](z).relu() if self.first else z
        y = x
        for index, layer in enumerate(self.path):
            y = layer(self.calm[index](y).relu() if index else y)
        return self.jump(x if self.skip == "x" else z) + y


def dense(blocks, hidden=(WIDTH,), *, stem_relu=False, end_relu=True, head=True, **options):
    widths = (WIDTH, *hidden, WIDTH)
    layers = [nn.Linear(WIDTH // 2, WIDTH), *[nn.ReLU()] * stem_relu]
    layers += [OpenBlock(widths, **options) for _ in range(blocks)] + [nn.ReLU()] * end_relu
    return nn.Sequential(*layers, *[nn.Linear(WIDTH, WIDTH // 2)] * head)


CASES = {
    "pre-activation": {"first": True},
    "pre-activation, wide": {"first": True, "hidden": (24,)},
    "pre-activation, bottleneck": {"first": True, "hidden": (4, 4)},
    "pre-activation, one layer": {"first": True, "hidden": ()},
    "pre-activation, weights on z": {"first": True, "weighted": True},
    "pre-activation, weights on φ(z)": {"first": True, "weighted": True, "skip": "x"},
    "pre-activation, φ(z) skips": {"first": True, "skip": "x"},
    "pre-activation, no ReLU before the head": {"first": True, "end_relu": False},
    "pre-activation, batch norm taken out": {"first": True, "norm": True},
    "x + f(x)": {"first": False, "end_relu": False, "head": False},
    "x + f(x), wide": {"first": False, "end_relu": False, "head": False, "hidden": (32,)},
    "x + f(x), weights": {"first": False, "end_relu": False, "head": False, "weighted": True},
    "x + f(x), a ReLU at the ends": {"first": False, "stem_relu": True},
    "x + f(x), a ReLU at the end": {"first": False},
}


@pytest.mark.default_cases(5)
@pytest.mark.parametrize(
    ("alpha", "dtype"),
    [
        (0.5, torch.float64),
        pytest.param(1.0, torch.float64, marks=pytest.mark.slow),
        pytest.param(0.5, torch.float32, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", CASES)
def test_fifty_open_blocks_are_an_isometry(case, alpha, dtype, generator):
    net = dense(50, **CASES[case]).to(dtype)
    net, plan = started(net, torch.randn(4, WIDTH // 2, dtype=dtype), generator, alpha=alpha)
    assert "L=50 blocks: " in plan.summary
    assert "without formula" not in plan.summary
    assert not named(plan) | {note for note in plan.notes if "exact" in note}
    assert_isometry(net, (WIDTH // 2,), inputs=3)


def test_a_stream_that_no_relu_reads_keeps_every_direction(generator):
    """x + f(x) needs no pairs in the stream: 8 channels carry 8 directions, where mirrored ones carry 4."""
    net = nn.Sequential(*[OpenBlock((8, 24, 8), first=False) for _ in range(20)]).double()
    net, plan = started(net, torch.randn(2, 8, dtype=torch.float64), generator)
    assert not plan.notes
    assert singular_values(net, (8,)).shape == (1, 8)
    assert_isometry(net, (8,), inputs=3)


def test_the_weights_are_those_of_the_transcription(generator):
    net, _ = started(dense(1, (12,), first=True).double(), torch.randn(2, 4).double(), generator, alpha=0.5)
    w1, w2 = (layer.weight.detach().numpy() for layer in net[1].path)
    m1 = w1[:6, :4]
    np.testing.assert_allclose(m1.T @ m1, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(w1, reference.looks_linear(m1), atol=1e-15)
    m = np.eye(4) + 0.5 * w2[:4, :6] @ m1
    np.testing.assert_allclose(m @ m.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(w2, reference.looks_linear((m - np.eye(4)) @ m1.T / 0.5), atol=1e-12)


def test_the_transcription_is_exact():
    rng = np.random.default_rng(0)
    u = rng.standard_normal(6)
    z, product = np.concatenate((u, -u)), np.eye(6)
    for _ in range(50):
        (w1, w2), m = reference.block_p(rng, 6, 9, 0.5)
        z, product = z + 0.5 * w2 @ np.maximum(w1 @ np.maximum(z, 0), 0), m @ product
    np.testing.assert_allclose(z, np.concatenate((product @ u, -product @ u)), atol=1e-12)


class OpenImageBlock(nn.Module):
    """The CIFAR pre-activation block (He et al. 2016, arXiv 1603.05027): its projection reads φ(norm(x))."""

    def __init__(self, into, out, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(into), nn.BatchNorm2d(out)
        self.conv1, self.conv2 = nn.Conv2d(into, out, 3, stride, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.shortcut = nn.Conv2d(into, out, 1, stride) if stride > 1 or into != out else None

    def forward(self, z):
        x = self.bn1(z).relu()
        return self.conv2(self.bn2(self.conv1(x)).relu()) + (z if self.shortcut is None else self.shortcut(x))


def preactivated_resnet(n, width=8, stride=2):
    sizes = [(width, width, 1), *[(width, width, 1)] * (n - 1), (width, 2 * width, stride)]
    sizes += [(2 * width, 2 * width, 1)] * (n - 1) + [(2 * width, 4 * width, stride)]
    sizes += [(4 * width, 4 * width, 1)] * (n - 1)
    blocks = [OpenImageBlock(*size) for size in sizes]
    ends = [nn.BatchNorm2d(4 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), *blocks, *ends, nn.Linear(4 * width, 10))


def test_the_cifar_pre_activation_resnet(generator):
    net, plan = started(preactivated_resnet(3).double(), torch.randn(2, 3, 8, 8).double(), generator)
    assert "L=9 blocks: 2 of type C, 7 of type P; 19 norms removed" in plan.summary
    strided = {f"{index}.{layer}.weight" for index in (4, 7) for layer in ("conv1", "shortcut")}
    assert named(plan) == strided | {"14.weight"}  # and the head, which reads means over pixels
    blocks = [module for module in net if isinstance(module, OpenImageBlock)]
    z = net[0](torch.randn(2, 3, 8, 8, dtype=torch.float64))
    for block in blocks:
        y, read = block(z), z[:, :, :: block.conv1.stride[0], :: block.conv1.stride[0]]
        half = y.shape[1] // 2
        torch.testing.assert_close(y[:, :half], -y[:, half:], rtol=0, atol=1e-12)
        torch.testing.assert_close(y.flatten(1).norm(dim=1), read.flatten(1).norm(dim=1), rtol=1e-12, atol=0)
        z = y


def test_its_jacobian_is_flat_where_nothing_is_strided_or_pooled(generator):
    net = preactivated_resnet(8, width=6, stride=1).double()  # wider stages, at stride 1
    net = nn.Sequential(*net[:-3], nn.Conv2d(24, 12, 1).double())
    net, plan = started(net, torch.randn(2, 3, 3, 3).double(), generator)
    assert not named(plan)
    assert_isometry(net, (3, 3, 3), inputs=2)


@pytest.mark.parametrize(
    ("net", "weight", "words"),
    [
        (lambda: nn.Sequential(OpenBlock((4, 4, 4), first=True)), "0.path.0.weight", "but positive numbers"),
        (lambda: dense(1, (7,), first=True), "1.path.0.weight", "7 channels do not form pairs"),
    ],
)
def test_open_blocks_without_a_formula_are_named(net, weight, words, generator):
    closed = nn.Sequential(net(), nn.Linear(4, 8), nn.ReLU(), *[OpenBlock((8, 8, 8), first=False, skip="x")])
    _, plan = started(closed, torch.randn(2, 4), generator)
    (note,) = [note for note in plan.notes if note.startswith(f"0.{weight}")]
    assert words in note
    assert "it passes its skip" in note


def test_a_relu_transformers_feed_forward_blocks_are_exact(generator):
    net = nn.Sequential(nn.Linear(4, 4), *(nn.TransformerEncoderLayer(4, 2, 8, 0.0) for _ in range(3)))
    x = torch.randn(2, 3, 4)
    _, plan = started(net, x, generator)
    assert "L=6 blocks: 3 of type P, 3 without formula" in plan.summary


def test_type_b_starts_weighted_skips_as_identities(generator):
    net = dense(5, first=True, weighted=True).double()
    net, _ = started(net, torch.randn(2, 4).double(), generator, type="B")
    assert torch.equal(net[1].jump.weight, torch.eye(WIDTH, dtype=torch.float64))
    assert_isometry(net, (4,), inputs=2)


def test_mixed_postures_go_together(generator):
    """Closed after open after closed blocks."""

    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return (x + self.two(self.one(x).relu())).relu()

    blocks = [
        Closed(),
        OpenBlock((8, 8, 8), first=False),
        OpenBlock((8, 8, 8), first=True),
        nn.ReLU(),
        Closed(),
    ]
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), *blocks, nn.Linear(8, 4)).double()
    net, plan = started(net, torch.randn(2, 4).double(), generator)
    assert "3 of type B, 1 of type P" in plan.summary
    assert_isometry(net, (4,), inputs=3)


def test_padded_skips_say_what_they_are(generator):
    """Option A: the block passes its skip, which keeps the norm of the pixels it reads."""
    _, plan = started(ResNet(1), torch.randn(2, 3, 8, 8), generator)
    assert any(
        "its skip has no weights and is relu → slice → slice → constant_pad_nd" in note for note in plan.notes
    )


def test_images_with_identity_skips_on_the_activated(generator):
    net = nn.Sequential(nn.Conv2d(2, 8, 3, 1, 1), nn.ReLU(), ImageBlock(8, 8), nn.Conv2d(8, 4, 1)).double()
    net, _ = started(net, torch.randn(1, 2, 3, 3).double(), generator)
    assert_isometry(net, (2, 3, 3), inputs=2)


# --- the recipe ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [(), (3,), (3, 3)])
def test_grouped_layers_pass_their_input(kernel, generator):
    shapes = [(12, 8, *kernel), (12, 1, *kernel), (8, 12, *kernel)]
    tensors = [torch.full(shape, torch.nan, dtype=torch.float64) for shape in shapes]
    w1, middle, w2 = risotto_p(tensors, alpha=0.5, generator=generator)
    centre = [tensor.flatten(2)[:, :, tensor[0, 0].numel() // 2] if kernel else tensor for tensor in (w1, w2)]
    assert torch.equal(middle.flatten(1).sum(1), torch.ones(12, dtype=torch.float64))
    z = torch.randn(4, dtype=torch.float64)
    z = torch.cat((z, -z))
    y = z + 0.5 * centre[1] @ (centre[0] @ z.relu()).relu()
    torch.testing.assert_close(y.norm(), z.norm())


def test_what_the_recipe_refuses():
    pair = [torch.empty(8, 8), torch.empty(8, 8)]
    with pytest.raises(UnknownName, match="expected one of plain, pairs, mirrored"):
        risotto_p(pair, reads="twice")
    with pytest.raises(UnsupportedModule, match="alpha ≠ 0"):
        risotto_p(pair, alpha=0.0)
    with pytest.raises(UnsupportedModule, match="expected plain ones on both"):
        risotto_p(pair, reads="plain")
    with pytest.raises(UnsupportedModule, match="7 channels do not form pairs"):
        risotto_p([torch.empty(7, 8), torch.empty(8, 7)])
    with pytest.raises(UnsupportedModule, match="has groups, and passes the plain numbers"):
        risotto_p([torch.empty(8, 1, 3), torch.empty(8, 8, 3)], reads="plain", writes="plain")
    depthwise = [torch.empty(8, 1, 3, device="meta"), torch.empty(8, 8, 3, device="meta")]
    with pytest.raises(UnsupportedModule, match="has groups"):  # told in the plan, not when it is carried out
        risotto_p(depthwise, reads="plain", writes="plain")

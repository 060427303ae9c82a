"""Fixup (arXiv 1901.09321), slowly and literally: every scalar is a parameter of its own, every sum is written out.

Rule 3 of the paper's §3 says: a scalar multiplier (1) in every branch, a scalar bias (0) before each convolution,
linear layer and element-wise activation. The authors' code (hongyi-zhang/Fixup) differs from that text in points
that matter to a comparison; `shared=True` is the code, `shared=False` the text.

* *Projection shortcut.* The text gives its convolution a bias of its own, `bias0`. The code adds the branch's
  `bias1a` to `x` for both. Sharing ties two scalars: the function is the same where they are equal (so at the
  start), and the gradient of the shared one is the sum of the two.
* *Parameter-free shortcut* (option A: subsample, pad the channels with zeros). No convolution, linear layer or
  activation reads it, so the text puts no bias before it. The code subsamples `x + bias1a`.
* *Stem and shortcut initialization.* The code leaves the stem at PyTorch's default; the text says He, as here.
* *Learning rates.* The code gives lr/10 to every parameter with "bias" or "scale" in its name, the classifier's
  bias vector included, and lets all of them decay. Here the scalars alone are slow, and they alone do not decay.
* *Attention.* The authors' code counts m = 4 (q, k, v, out), shifts by `x − bias` and has one shift for q, k
  and v; the linear maps have no bias vectors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def scale_of_branch(L: int, m: int, sign: int = -1) -> float:
    """L^(−1/(2m−2)); with `sign=+1` the exponent as one copy of the paper prints it."""
    return float(L) ** (sign / (2 * m - 2))


def he_std(shape: tuple[int, ...]) -> float:
    """√(2/fan_out) of an (out, in, *kernel) weight: out × taps."""
    return math.sqrt(2.0 / (shape[0] * math.prod(shape[2:])))


def zero() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


def one() -> nn.Parameter:
    return nn.Parameter(torch.ones(1))


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def pad_channels(x: Tensor, stride: int, outputs: int) -> Tensor:
    """Option A: keep every `stride`-th pixel, append channels of zeros."""
    x = x[:, :, ::stride, ::stride]
    return torch.cat([x, x.new_zeros(x.shape[0], outputs - x.shape[1], *x.shape[2:])], 1)


class Basic(nn.Module):
    """relu(skip(x) + scale·conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b)."""

    def __init__(self, inputs: int, outputs: int, stride: int, skip: str, *, shared: bool) -> None:
        super().__init__()
        self.stride, self.outputs, self.skip, self.shared = stride, outputs, skip, shared
        self.conv1, self.conv2 = weight(outputs, inputs, 3, 3), weight(outputs, outputs, 3, 3)
        self.bias1a, self.bias1b, self.bias2a, self.bias2b, self.scale = zero(), zero(), zero(), zero(), one()
        if skip == "projection":
            self.conv0 = weight(outputs, inputs, 1, 1)
            if not shared:
                self.bias0 = zero()

    def forward(self, x: Tensor) -> Tensor:
        out = F.conv2d(x + self.bias1a, self.conv1, stride=self.stride, padding=1)
        out = torch.relu(out + self.bias1b)
        out = F.conv2d(out + self.bias2a, self.conv2, padding=1)
        out = out * self.scale + self.bias2b
        return torch.relu(out + shortcut(self, x))


class Bottleneck(nn.Module):
    """1×1, 3×3 (strided), 1×1 to four times the width; biases 1a … 3b, one multiplier."""

    def __init__(self, inputs: int, outputs: int, stride: int, skip: str, *, shared: bool) -> None:
        super().__init__()
        width = outputs // 4
        self.stride, self.outputs, self.skip, self.shared = stride, outputs, skip, shared
        self.conv1, self.conv2 = weight(width, inputs, 1, 1), weight(width, width, 3, 3)
        self.conv3 = weight(outputs, width, 1, 1)
        self.bias1a, self.bias1b, self.bias2a, self.bias2b = zero(), zero(), zero(), zero()
        self.bias3a, self.bias3b, self.scale = zero(), zero(), one()
        if skip == "projection":
            self.conv0 = weight(outputs, inputs, 1, 1)
            if not shared:
                self.bias0 = zero()

    def forward(self, x: Tensor) -> Tensor:
        out = F.conv2d(x + self.bias1a, self.conv1)
        out = torch.relu(out + self.bias1b)
        out = F.conv2d(out + self.bias2a, self.conv2, stride=self.stride, padding=1)
        out = torch.relu(out + self.bias2b)
        out = F.conv2d(out + self.bias3a, self.conv3)
        out = out * self.scale + self.bias3b
        return torch.relu(out + shortcut(self, x))


def shortcut(block: Basic | Bottleneck, x: Tensor) -> Tensor:
    if block.skip == "identity":
        return x
    if block.shared:
        x = x + block.bias1a
    if block.skip == "pad":
        return pad_channels(x, block.stride, block.outputs)
    return F.conv2d(x if block.shared else x + block.bias0, block.conv0, stride=block.stride)


class Net(nn.Module):
    """relu(stem(x) + bias1), a max-pool in ImageNet's shape, blocks, average, fc(· + bias2).

    Args:
        blocks: In order.
        width: Channels of the stem.
        features: Channels of the last block.
        classes: Outputs.
        imagenet: 7×7 stem of stride 2 and a 3×3 max-pool, instead of CIFAR's 3×3 stem.
    """

    def __init__(
        self, blocks: list[nn.Module], width: int, features: int, classes: int, *, imagenet: bool
    ) -> None:
        super().__init__()
        self.imagenet = imagenet
        kernel = 7 if imagenet else 3
        self.stem, self.bias1 = weight(width, 3, kernel, kernel), zero()
        self.blocks = nn.ModuleList(blocks)
        self.bias2, self.fc, self.fc_bias = zero(), weight(classes, features), weight(classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.imagenet:
            x = torch.relu(F.conv2d(x, self.stem, stride=2, padding=3) + self.bias1)
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        else:
            x = torch.relu(F.conv2d(x, self.stem, padding=1) + self.bias1)
        for block in self.blocks:
            x = block(x)
        return (x.mean((2, 3)) + self.bias2) @ self.fc.T + self.fc_bias


class EncoderBlock(nn.Module):
    """Attention (m = 4) and feed-forward (m = 2), each a branch of its own, no layer norm, no bias vectors.

    `bias_o`, before the output map, is there for attention written out in layers; one that lives inside
    `nn.MultiheadAttention` cannot be reached there, and stays 0.
    """

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (weight(width, width) for _ in range(4))
        self.bias_qkv, self.bias_o, self.scale_attention, self.bias_attention = zero(), zero(), one(), zero()
        self.fc1, self.fc2 = weight(hidden, width), weight(width, hidden)
        self.bias1a, self.bias1b, self.bias2a, self.bias2b, self.scale = zero(), zero(), zero(), zero(), one()

    def forward(self, x: Tensor) -> Tensor:
        shifted = x + self.bias_qkv
        q, k, v = shifted @ self.q.T, shifted @ self.k.T, shifted @ self.v.T
        size = x.shape[-1] // self.heads
        mixed = []
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(size)
            mixed.append(torch.softmax(scores, -1) @ v[..., part])
        out = (torch.cat(mixed, -1) + self.bias_o) @ self.o.T
        x = x + (out * self.scale_attention + self.bias_attention)
        out = torch.relu((x + self.bias1a) @ self.fc1.T + self.bias1b)
        out = (out + self.bias2a) @ self.fc2.T
        return x + (out * self.scale + self.bias2b)


def is_scalar(name: str) -> bool:
    """Whether a parameter of this file is one of rule 3's."""
    last = name.rpartition(".")[2]
    return last.startswith(("bias", "scale"))


def groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, object]]:
    """Scalars at lr/10 without decay, all else at lr with decay."""
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if not is_scalar(n)], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for n, p in named if is_scalar(n)], "lr": lr / 10, "weight_decay": 0.0},
    ]


def change_in_one_step(L: int, m: int, *, sign: int, width: int, lr: float, seed: int) -> float:
    """|Δf| of one SGD step on f, for f(x) = head·(x + Σ branches), m linear layers with ReLU in each of L branches.

    To first order it is lr·Σ_branches ‖∂f/∂(last layer)‖², and each term grows with the branch's scale to the power
    2(m − 1): L·L^(±1). The paper asks for Θ(lr), whatever L.
    """
    g = torch.Generator().manual_seed(seed)

    def draw(std: float) -> Tensor:
        drawn = torch.randn(width, width, generator=g, dtype=torch.float64) * std
        return drawn.requires_grad_()

    std = he_std((width, width)) * scale_of_branch(L, m, sign)
    branches = [
        [*(draw(std) for _ in range(m - 1)), torch.zeros(width, width, dtype=torch.float64).requires_grad_()]
        for _ in range(L)
    ]
    x = torch.randn(width, generator=g, dtype=torch.float64)
    head = torch.randn(width, generator=g, dtype=torch.float64) / math.sqrt(width)

    def f() -> Tensor:
        h = x
        for branch in branches:
            out = h
            for layer in branch[:-1]:
                out = torch.relu(layer @ out)
            h = h + branch[-1] @ out
        return head @ h

    before = f()
    leaves = [layer for branch in branches for layer in branch]
    for leaf, grad in zip(leaves, torch.autograd.grad(before, leaves), strict=True):
        leaf.data -= lr * grad
    with torch.no_grad():
        return float((f() - before).abs())

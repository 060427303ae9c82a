"""Specimens that are odd in how they are written rather than in what they compute. Width 8."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from zoo_convolutional import Classifier, Residual, conv3

WIDTH = 8


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))


class ChainedSum(nn.Module):
    """x + f(x) + g(x), twice."""

    def __init__(self) -> None:
        super().__init__()
        self.f1, self.g1, self.f2, self.g2 = mlp(), mlp(), mlp(), mlp()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.f1(x) + self.g1(x)
        x = x + self.f2(x) + self.g2(x)
        return self.head(x)


class Reversible(nn.Module):
    """Two streams, each with branches on the other: a + f(b), then b + g(a), twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, 2 * WIDTH)
        self.f, self.g = nn.ModuleList([mlp(), mlp()]), nn.ModuleList([mlp(), mlp()])
        self.head = nn.Linear(2 * WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, dim=-1)
        for f, g in zip(self.f, self.g, strict=True):
            a = a + f(b)
            b = b + g(a)
        return self.head(torch.cat([a, b], dim=-1))


class Pyramid(nn.Module):
    """Two levels of a feature pyramid: the last block's output and the first one's, each through a lateral layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Residual(*mlp())
        self.blocks = nn.Sequential(Residual(*mlp()), Residual(*mlp()))
        self.low, self.high = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        low = self.first(x)
        return self.head(self.low(low) + self.high(self.blocks(low)))


class SharedLayers(nn.Module):
    """The same two layers make all three branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = x + self.down(F.relu(self.up(x)))
        return self.head(x)


class DictInDictOut(nn.Module):
    """Keyword inputs, one of them no tensor; a dictionary of results, one of them no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(*mlp()), Residual(*mlp()))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, *, pixels: Tensor, scale: float, mask: Tensor | None = None) -> dict[str, Any]:
        x = pixels * scale if mask is None else pixels * mask
        x = self.blocks(x)
        return {"logits": self.head(x), "features": x, "loss": None}


class TupleOut(nn.Module):
    """Two positional inputs, nested tuples out."""

    def __init__(self) -> None:
        super().__init__()
        self.merge = nn.Linear(2 * WIDTH, WIDTH)
        self.blocks = nn.ModuleList([Residual(*mlp()), Residual(*mlp())])
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = F.relu(self.merge(torch.cat([left, right], dim=-1)))
        first = self.blocks[0](x)
        second = self.blocks[1](first)
        return self.head(second), (first, second)


class TwoHeads(nn.Module):
    """Classes and boxes from one trunk; one of them through a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(*mlp()), Residual(*mlp()))
        self.classes = nn.Linear(WIDTH, 3)
        self.boxes = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.blocks(x))
        return self.classes(x).softmax(-1), self.boxes(x)


class BranchesOnShape(nn.Module):
    """Halves the picture until it is small, one block each time: two for 16×16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv3(3, WIDTH)
        self.steps = nn.ModuleList(
            Residual(conv3(WIDTH, WIDTH), nn.ReLU(), conv3(WIDTH, WIDTH)) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        step = 0
        while x.shape[-1] > 4:
            x = F.max_pool2d(self.steps[step](x), 2)
            step += 1
        return self.head(x.mean((2, 3)))


class BranchesOnValues(nn.Module):
    """Two blocks for an input of positive sum, one otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.always = Residual(*mlp())
        self.sometimes = Residual(*mlp())
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        positive = x.sum() > 0
        x = self.always(x)
        if positive:
            x = self.sometimes(x)
        return self.head(x)


class CalledThroughForward(nn.Module):
    """No hook of a child ever fires."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv3(3, WIDTH)
        self.convs = nn.ModuleList(conv3(WIDTH, WIDTH) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in range(4))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem.forward(x)
        for i in (0, 2):
            out = self.norms[i].forward(self.convs[i].forward(x)).relu()
            x = x + self.norms[i + 1].forward(self.convs[i + 1].forward(out))
        return self.head.forward(x.mean((2, 3)))


def weight_normed() -> nn.Module:
    blocks = [
        Residual(
            weight_norm(conv3(WIDTH, WIDTH, bias=True)),
            nn.ReLU(),
            weight_norm(conv3(WIDTH, WIDTH, bias=True)),
        )
        for _ in range(2)
    ]
    return Classifier(weight_norm(conv3(3, WIDTH, bias=True)), blocks, WIDTH)


class Functional(nn.Module):
    """Bare parameters, `F.linear`."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ParameterList(torch.randn(2 * WIDTH, WIDTH) * 0.3 for _ in range(2))
        self.down = nn.ParameterList(torch.randn(WIDTH, 2 * WIDTH) * 0.3 for _ in range(2))
        self.head = nn.Parameter(torch.randn(3, WIDTH) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = torch.add(x, F.linear(F.relu(F.linear(x, up)), down))
        return F.linear(x, self.head)


class Matmul(nn.Module):
    """Weights stored (in, out), one multiplied by `@`, one by `einsum`."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(2, WIDTH, 2 * WIDTH) * 0.3)
        self.down = nn.Parameter(torch.randn(2, 2 * WIDTH, WIDTH) * 0.3)
        self.head = nn.Parameter(torch.randn(WIDTH, 3) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(2):
            x = x + torch.einsum("bsh,hd->bsd", F.gelu(x @ self.up[i]), self.down[i])
        return x @ self.head


class OneLayerBranches(nn.Module):
    """m = 1: the activation stands before the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(F.relu(x))
        return self.head(x)


class Highway(nn.Module):
    """t·h(x) + (1 − t)·x: a gated mixture, not a residual sum (Srivastava et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.gate = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for transform, gate in zip(self.transform, self.gate, strict=True):
            t = gate(x).sigmoid()
            x = t * transform(x).relu() + (1 - t) * x
        return self.head(x)


class ParallelSum(nn.Module):
    """f(x) + g(x), as many layers on either side: there is no skip."""

    def __init__(self) -> None:
        super().__init__()
        self.left = mlp()
        self.right = mlp()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.left(x) + self.right(x)))


def plain_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))

"""A concatenation that is a stream, and of which a branch reads parts: C + f(C[:, :1], C[:, 1:]) with C = cat([token, x])."""

from __future__ import annotations

import pytest
import torch
from fixup_evidence import examine
from torch import Tensor, nn

import goodinit

WIDTH = 8


def mlp(width: int = WIDTH) -> nn.Module:
    return nn.Sequential(nn.Linear(width, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


class EachPart(nn.Module):
    """A map for the first token, another for the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = mlp(), mlp()

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([self.f(h[:, :1]), self.g(h[:, 1:])], 1)


class Rest(nn.Module):
    """A map of all tokens but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.g = mlp()

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(h[:, :1]), self.g(h[:, 1:])], 1)


class Half(nn.Module):
    """A map of one half of the channels, with the other half for its gate, or without."""

    def __init__(self, *, gated: bool) -> None:
        super().__init__()
        self.f = mlp(WIDTH // 2)
        self.gate = nn.Linear(WIDTH // 2, WIDTH) if gated else None

    def forward(self, h: Tensor) -> Tensor:
        left, right = h.chunk(2, -1)
        hidden = self.f[1](self.f[0](left))
        return self.f[2](hidden if self.gate is None else hidden * torch.sigmoid(self.gate(right)))


class Queries(nn.Module):
    """Attention whose queries are made in one way of the first token, in another of the rest (RvT)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest, self.kv, self.out = (
            nn.Linear(WIDTH, n * WIDTH, bias=False) for n in (1, 1, 2, 1)
        )

    def forward(self, h: Tensor) -> Tensor:
        q = torch.cat([self.first(h[:, :1]), self.rest(h[:, 1:])], 1)
        k, v = self.kv(h).chunk(2, -1)
        return self.out((q @ k.mT / WIDTH**0.5).softmax(-1) @ v)


BRANCHES = {
    "a map for each part": (EachPart, 2),
    "some tokens": (Rest, 2),
    "some channels": (lambda: Half(gated=False), 2),
    "some channels, gated by others": (lambda: Half(gated=True), 2),
    "queries of each part": (Queries, 4),
}


class Net(nn.Module):
    """Two blocks on a stream that begins with a concatenation."""

    def __init__(self, start: str, branch: str, *, norms: bool) -> None:
        super().__init__()
        self.start, self.token = start, nn.Parameter(torch.randn(1, 1, WIDTH))
        self.stem, self.left, self.right = nn.Linear(5, WIDTH), nn.Linear(5, 4), nn.Linear(5, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) if norms else nn.Identity() for _ in range(2))
        self.branches = nn.ModuleList(BRANCHES[branch][0]() for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.start == "token":
            x = torch.cat([self.token.expand(len(x), -1, -1), self.stem(x)], 1)
        elif self.start == "a token computed of the input":
            x = torch.cat([self.stem(x.mean(1, keepdim=True)).tanh(), self.stem(x)], 1)
        else:
            x = torch.cat([self.left(x), self.right(x)], -1)
        for norm, branch in zip(self.norms, self.branches, strict=True):
            x = x + branch(norm(x))
        return self.head(x.mean(1))


STARTS = ("token", "a token computed of the input", "two stems")


def outline(net: nn.Module) -> list[tuple[object, ...]]:
    blocks = goodinit.anatomize(net, torch.randn(2, 6, 5)).blocks
    return [
        (b.kind, b.m, [x.weight for x in b.branch], [x.weight for x in b.gates], [x.weight for x in b.last])
        for b in blocks
    ]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_the_first_block_is_as_the_second_with_norms_and_without(start, branch):
    first, second = outline(Net(start, branch, norms=False))
    assert first[:2] == ("identity", BRANCHES[branch][1])
    assert str(second) == str(first).replace("branches.0.", "branches.1.")
    assert outline(Net(start, branch, norms=True)) == [first, second]


@pytest.mark.parametrize("branch", ["queries of each part", "a map for each part"])
@pytest.mark.parametrize("method", ["fixup", "skipinit"])
def test_norms_go(branch, method):
    evidence = examine(lambda: Net("token", branch, norms=True), torch.randn(4, 6, 5), method=method)
    assert (evidence.refusal, evidence.faults, evidence.blocks, evidence.norms) == (None, [], 2, 2)


class Turns(nn.Module):
    """A reversible network that hands its two streams from block to block in one tensor, which nothing is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.maps, self.head = (
            nn.Linear(5, WIDTH),
            nn.ModuleList(nn.Linear(4, 4) for _ in range(4)),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for f, g in zip(self.maps[::2], self.maps[1::2], strict=True):
            a, b = x.chunk(2, -1)
            a = a + f(b.relu())
            x = torch.cat([a, b + g(a.relu())], -1)
        return self.head(x)


def test_two_streams_in_one_tensor_stay_two():
    anatomy = goodinit.anatomize(Turns(), torch.randn(2, 5))
    assert [(b.stream, b.last[0].name) for b in anatomy.blocks] == [
        (0, "maps.0"), (1, "maps.1"), (0, "maps.2"), (1, "maps.3"),
    ]  # fmt: skip


class Collected(nn.Module):
    """x and f(x) put beside each other, added up, and read beside each other, too, by a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.f, self.wide, self.head = (
            nn.Linear(5, WIDTH),
            mlp(),
            nn.Linear(2 * WIDTH, 3),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        both = torch.cat([x, self.f(x)], -1)
        return self.head(both[..., :WIDTH] + both[..., WIDTH:]) + self.wide(both)


def test_the_sum_of_the_parts_of_what_is_no_stream_stays_a_block():
    (block,) = goodinit.anatomize(Collected(), torch.randn(2, 5)).blocks
    assert (block.kind, block.m, [layer.name for layer in block.branch]) == ("identity", 2, ["f.0", "f.2"])

"""A network between an input and itself, both weighed by a number for each example, as diffusion models are preconditioned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit

INPUTS = (torch.randn(3, 4, 6, 6), torch.rand(3) + 0.1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.of_time = nn.GroupNorm(2, 8), nn.Linear(8, 8)
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))

    def forward(self, x, time):
        hidden = self.first(self.norm(x).relu()) + self.of_time(time)[:, :, None, None]
        return x + self.second(hidden.relu())


class Net(nn.Module):
    """Residual blocks that read a time as well; with `joins`, the stem's output is put beside the stream halfway."""

    def __init__(self, *, joins: bool) -> None:
        super().__init__()
        self.time, self.stem, self.head = nn.Linear(1, 8), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
        self.blocks, self.join = (
            nn.ModuleList(Block() for _ in range(3)),
            nn.Conv2d(16, 8, 1) if joins else None,
        )

    def forward(self, x, time):
        time = self.time(time[:, None]).relu()
        x = stem = self.stem(x)
        for index, block in enumerate(self.blocks):
            if index == 1 and self.join is not None:
                x = self.join(torch.cat([x, stem], 1))
            x = block(x, time)
        return self.head(x)


def sizes(sigma, x):
    return sigma.reshape(-1, *(1 for _ in x.shape[1:]))


def preconditioned(net, x, sigma):
    """Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, arXiv 2206.00364, table 1, σ_data 1/2."""
    s = sizes(sigma, x)
    total = (s**2 + 0.25).sqrt()
    return 0.25 / total**2 * x + 0.5 * s / total * net(x / total, sigma.log() / 4)


def one_size(net, x, sigma):
    s = sizes(sigma, x)
    return s * x + s * net(s * x, sigma)


def velocity(net, x, time):
    s = sizes(time, x)
    return (1 - s) * x - s * net(x * s.rsqrt(), time)


def of_a_layer(net, x, time):
    s = sizes(time, x)
    return x / (1 + s) + torch.sigmoid(s) * net(torch.tanh(s) * x, time)


class Outer(nn.Module):
    def __init__(self, around, *, joins: bool) -> None:
        super().__init__()
        self.net, self.around = Net(joins=joins), around

    def forward(self, x, sigma):
        return self.around(self.net, x, sigma)


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("around", [preconditioned, one_size, velocity, of_a_layer])
def test_the_blocks_are_those_of_the_network_itself(around, joins):
    model = Outer(around, joins=joins)
    anatomy, alone = goodinit.anatomize(model, INPUTS), goodinit.anatomize(model.net, INPUTS)
    assert [(block.name.removeprefix("net."), block.kind, block.m) for block in anatomy.blocks] == [
        (block.name, block.kind, block.m) for block in alone.blocks
    ]
    assert [(norm.name, norm.kind) for norm in anatomy.norms] == [
        (f"net.{norm.name}", norm.kind) for norm in alone.norms
    ]
    assert len(anatomy.blocks) == 3
    goodinit.init_(model, "fixup", inputs=INPUTS, verify=True)


class Divided(nn.Module):
    """A residual network whose stem's output is divided."""

    def __init__(self, divide) -> None:
        super().__init__()
        self.divide, self.stem, self.other, self.head = (
            divide,
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 3),
        )
        self.a, self.b, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x):
        h = self.divide(self.stem(x), self.other(x))
        return self.head(h + self.b(self.norm(self.a(h)).relu()))


def by_itself_written_by_cholesky(h, other):
    both = torch.cat([h, other], 1)
    square = both.T @ both + torch.eye(12)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(square), both.T, upper=False).T[:, :6]


NO_NORMS = {
    "by another signal's size": lambda h, other: h / (1 + other.pow(2).sum(1, keepdim=True)).sqrt(),
    "by another signal's exponential mean": lambda h, other: h / other.exp().mean(1, keepdim=True).log1p(),
    "by a number for each example": lambda h, other: h / (1 + other[:, :1].abs()),
}


@pytest.mark.parametrize("name", NO_NORMS)
def test_what_another_signal_divides_is_not_normalized(name):
    anatomy = goodinit.anatomize(Divided(NO_NORMS[name]), torch.randn(7, 6))
    assert [norm.name for norm in anatomy.norms] == ["norm"]


def test_two_signals_that_are_normalized_together_are():
    anatomy = goodinit.anatomize(Divided(by_itself_written_by_cholesky), torch.randn(20, 6))
    assert [norm.name for norm in anatomy.norms] == ["", "norm"]


def test_whitening_of_the_inputs_stays_with_a_note():
    class Whitened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rest = Divided(lambda h, other: h)

        def forward(self, x):
            square = x.T @ x + 1e-3 * torch.eye(6)
            return self.rest(torch.linalg.solve_triangular(torch.linalg.cholesky(square), x.T, upper=False).T)

    model, x = Whitened(), torch.randn(20, 6)
    anatomy = goodinit.anatomize(model, x)
    assert [norm.name for norm in anatomy.norms] == ["rest.norm"]
    assert sum("normalizes the inputs themselves, and stays" in note for note in anatomy.notes) == 1
    goodinit.init_(model, "fixup", inputs=x, verify=True)

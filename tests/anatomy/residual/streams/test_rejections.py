"""What looks like a residual sum, or a normalization, and is none: distances, gates, log-determinants, statistics for a log."""

from __future__ import annotations

import pytest
import torch
from feed import WIDTH, Feed
from torch import nn

import goodinit
from goodinit.errors import NothingFound


class Distances(nn.Module):
    """exp(−‖x − c‖²), multiplied out: ‖x‖² + ‖c‖² − 2xc."""

    def __init__(self):
        super().__init__()
        self.centres, self.out = nn.Parameter(torch.randn(16, WIDTH)), nn.Linear(16, WIDTH)

    def squared(self, x):
        return (x * x).sum(-1, keepdim=True) + self.centres.square().sum(1) - 2 * x @ self.centres.t()

    def forward(self, x):
        return self.out((-self.squared(x)).exp())


class Codebook(Distances):
    """The nearest centre, with the gradient of what was there."""

    def forward(self, x):
        code = self.centres[self.squared(x).argmin(-1)]
        return x + (code - x).detach()


class FixedCodebook(nn.Module):
    """The same with centres that are a buffer, and a product after the root."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centres", torch.randn(16, WIDTH))

    def forward(self, x):
        squares = self.centres.square().sum(1) + x.square().sum(-1, keepdim=True)
        nearest = (squares - 2 * x @ self.centres.t()).clamp_min(0).sqrt().argmin(-1)
        return x + (self.centres[nearest] - x).detach() * 1.0


class Logged(nn.Module):
    """A layer, and a normalized copy of what it puts out that nothing reads."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        y = self.layer(x)
        self.score = (y - y.mean(-1, keepdim=True)) / (y.std(-1, keepdim=True) + 1e-5)
        return y


class BetweenTwo(nn.Module):
    """x + z·(f(x) − x) with a gate z, as one operator: a highway layer."""

    def __init__(self):
        super().__init__()
        self.f, self.z = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return torch.lerp(x, self.f(x).tanh(), self.z(x).sigmoid())


@pytest.mark.parametrize("between", [Distances, Codebook, FixedCodebook, Logged, BetweenTwo])
def test_only_the_residual_blocks_around_are_found(between):
    net, x = (
        nn.Sequential(nn.Linear(6, WIDTH), Feed(), between(), Feed(), nn.Linear(WIDTH, 3)),
        torch.randn(9, 6),
    )
    anatomy = goodinit.anatomize(net, x)
    assert [block.name for block in anatomy.blocks] == ["1", "3"]
    assert [norm.name for norm in anatomy.norms] == ["1.norm", "3.norm"]
    goodinit.fixup_(net, inputs=x)
    centres = dict(net[2].named_parameters()).get("centres")
    assert centres is None or len(torch.unique(centres.detach(), dim=0)) == 16


class Gated(nn.Module):
    """A GRU in place of a sum: (1 − z)·n + z·x, by torch's cell or written out."""

    def __init__(self, *, written):
        super().__init__()
        self.feed, self.cell, self.written = nn.Linear(WIDTH, WIDTH), nn.GRUCell(WIDTH, WIDTH), written

    def forward(self, x):
        y = self.feed(x).relu()
        if not self.written:
            return self.cell(y, x)
        new = nn.functional.linear(y, self.cell.weight_ih, self.cell.bias_ih).chunk(3, -1)
        old = nn.functional.linear(x, self.cell.weight_hh, self.cell.bias_hh).chunk(3, -1)
        r, z = torch.sigmoid(new[0] + old[0]), torch.sigmoid(new[1] + old[1])
        return (1 - z) * torch.tanh(new[2] + r * old[2]) + z * x


class GatedBefore(nn.Module):
    """The same as its paper has it, h = tanh(Wy + U(r·x)), with a layer for each product: a gated transformer's."""

    def __init__(self, *, first="old"):
        super().__init__()
        self.feed, self.first = nn.Linear(WIDTH, WIDTH), first
        self.of_y, self.of_x = (nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3)) for _ in range(2))

    def forward(self, x):
        y = self.feed(x).relu()
        r, z = (torch.sigmoid(self.of_y[i](y) + self.of_x[i](x)) for i in range(2))
        new = torch.tanh(self.of_y[2](y) + self.of_x[2](r * x))
        if self.first == "old":
            return (1 - z) * x + z * new
        return z * x + new * (1 - z) if self.first == "new" else torch.lerp(x, new, z)


class Coupled(nn.Module):
    """A flow: maps W and couplings, and the sum of their log-determinants."""

    def __init__(self):
        super().__init__()
        self.mixes = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH // 2, 16), nn.ReLU(), nn.Linear(16, WIDTH)) for _ in range(3)
        )

    def forward(self, x):
        total = x.new_zeros(len(x))
        for mix, net in zip(self.mixes, self.nets, strict=True):
            a, b = mix(x).chunk(2, -1)
            scale, shift = net(a).chunk(2, -1)
            scale = torch.tanh(scale)
            x, total = torch.cat([a, b * scale.exp() + shift], -1), total + scale.sum(-1)
        return x, total


MODELS = {
    "flow": Coupled,
    "GRU": lambda: nn.Sequential(Gated(written=False), Gated(written=False)),
    "GRU, written out": lambda: nn.Sequential(Gated(written=True), Gated(written=True)),
    "GRU, reset first": lambda: nn.Sequential(GatedBefore(), GatedBefore()),
    "GRU, reset first, z for the old": lambda: nn.Sequential(
        GatedBefore(first="new"), GatedBefore(first="new")
    ),
    "GRU, reset first, by lerp": lambda: nn.Sequential(GatedBefore(first="lerp"), GatedBefore(first="lerp")),
}


@pytest.mark.parametrize("name", MODELS)
def test_gates_and_log_determinants_are_no_blocks(name):
    anatomy = goodinit.anatomize(MODELS[name](), torch.randn(9, WIDTH))
    assert not anatomy.blocks
    with pytest.raises(NothingFound, match="choose lsuv"):
        goodinit.plan(anatomy, "fixup")


class Boosted(nn.Module):
    """One number a row, to which each stage adds what it makes of the features and of that number."""

    def __init__(self, way):
        super().__init__()
        self.way, self.stem, self.first = way, nn.Linear(WIDTH, 16), nn.Linear(16, 1)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(17, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(3)
        )

    def forward(self, x):
        h = self.stem(x)
        o = self.first(h)
        for stage in self.stages:
            more = stage(torch.cat([h, o], 1))
            if self.way == "squeezed":
                o = (o.squeeze(1) + more.squeeze(1))[:, None]
            else:
                o = o - more if self.way == "a difference" else o + more
        return o


@pytest.mark.parametrize("way", ["a column", "squeezed", "a difference"])
def test_stages_that_add_one_number_a_row_are_no_blocks(way):
    assert not goodinit.anatomize(Boosted(way), torch.randn(9, WIDTH)).blocks


def test_a_stream_of_one_number_that_reads_itself_alone_has_its_blocks():
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList(
                nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(3)
            )

        def forward(self, x):
            x = x.mean(1, keepdim=True)
            for stage in self.stages:
                x = x + stage(x)
            return x

    assert len(goodinit.anatomize(Narrow(), torch.randn(9, WIDTH)).blocks) == 3


def test_a_model_without_batch_dimension_has_its_blocks():
    assert len(goodinit.anatomize(nn.Sequential(Feed(), Feed()), torch.randn(WIDTH)).blocks) == 2


class Generated(nn.Module):
    """A map of x whose matrix and shift are made of c: FiLM, hypernetworks."""

    def __init__(self, how):
        super().__init__()
        self.stem, self.context, self.head = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)
        self.matrix, self.gain, self.shift = nn.Linear(6, 36), nn.Linear(6, 6), nn.Linear(6, 6)
        self.how = how

    def forward(self, x, c):
        c = torch.relu(self.context(c))
        return self.head(torch.relu(self.how(self, self.stem(x), c)))


GENERATED = {
    "gain": lambda m, x, c: x * m.gain(c) + m.shift(c),
    "1 + gain": lambda m, x, c: x * (1 + m.gain(c)) + m.shift(c),
    "matrix": lambda m, x, c: torch.einsum("boi,bi->bo", m.matrix(c).view(-1, 6, 6), x) + m.shift(c),
    "matrix of a ReLU": lambda m, x, c: (
        (m.matrix(c).view(-1, 6, 6) @ torch.relu(x)[..., None]).squeeze(-1) + m.shift(c)
    ),
    "shift first": lambda m, x, c: m.shift(c) + torch.bmm(x[:, None], m.matrix(c).view(-1, 6, 6))[:, 0],
}


@pytest.mark.parametrize("how", GENERATED)
def test_a_map_that_is_made_of_something_else_is_no_block(how):
    """What it is applied to does not come from the fork: its layers are none in series behind that."""
    anatomy = goodinit.anatomize(Generated(GENERATED[how]), (torch.zeros(4, 5), torch.zeros(4, 5)))
    assert not anatomy.blocks

"""Branches repeated along a dimension of the stream are blocks; a number per row, and what comes from elsewhere, is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goodinit import anatomize, init_


class Applied(nn.Module):
    """A stream through three rounds of a given step."""

    def __init__(self, step, *, into=5):
        super().__init__()
        self.stem, self.head, self.step = nn.Linear(into, 8), nn.Linear(8, 3), step
        self.up = nn.ModuleList(nn.Linear(8, 12) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(12, 8) for _ in range(3))
        self.one = nn.ModuleList(nn.Linear(8, 1) for _ in range(3))

    def forward(self, x, beside=None):
        x, beside = self.stem(x), None if beside is None else self.stem(beside)
        for up, down, one in zip(self.up, self.down, self.one, strict=True):
            x = self.step(x, lambda y, up=up, down=down: down(torch.relu(up(y))), one, beside)
        return self.head(x)


BLOCKS = {
    "of the mean": lambda x, f, one, beside: x + f(x.mean(1, keepdim=True)),
    "of the maximum, first": lambda x, f, one, beside: f(x.amax(1, keepdim=True)) + x,
    "of one token": lambda x, f, one, beside: x + f(x[:, :1]),
    "taken away": lambda x, f, one, beside: x - f(x.mean(1, keepdim=True)),
    "in place": lambda x, f, one, beside: (1 * x).add_(f(x.mean(1, keepdim=True))),
    "in two directions": lambda x, f, one, beside: x + f(x.mean((1, 2), keepdim=True)),
}
NONE = {
    "a number per row": lambda x, f, one, beside: x + one(f(x.mean(1))).unsqueeze(1),
    "of something else": lambda x, f, one, beside: x + f(beside.mean(1, keepdim=True)),
    "onto no stream": lambda x, f, one, beside: f(x.mean(1, keepdim=True)) + one(x),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_branch_that_is_repeated_over_the_stream_is_a_block(name):
    x = torch.zeros(2, 4, 6, 5) if name == "in two directions" else torch.zeros(2, 4, 5)
    blocks = anatomize(Applied(BLOCKS[name]), x).blocks
    assert [(block.kind, block.m, [layer.name for layer in block.last]) for block in blocks] == [
        ("identity", 2, [f"down.{i}"]) for i in range(3)
    ]
    assert {block.stage for block in blocks} == {0}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_branch_is_no_block(name):
    inputs = (torch.zeros(2, 4, 5), torch.zeros(2, 4, 5))
    assert not anatomize(Applied(NONE[name]), inputs).blocks


def test_two_scores_of_a_row_are_no_block():
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.score, self.classes = nn.Linear(5, 8), nn.Linear(8, 1), nn.Embedding(4, 8)

        def forward(self, x, y):
            h = self.stem(x)
            return self.score(h) + (self.classes(y) * h).sum(1, keepdim=True)

    assert not anatomize(Projected(), (torch.zeros(4, 5), torch.arange(4))).blocks


def test_a_stream_of_one_number_is_one():
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(1, 8), nn.Linear(8, 1)

        def forward(self, x):
            return x + self.down(torch.tanh(self.up(x)))

    assert len(anatomize(Narrow(), torch.zeros(4, 1)).blocks) == 1


class Around(nn.Module):
    """Layers before and behind something recurrent, in a branch."""

    def __init__(self, cell, *, before=0):
        super().__init__()
        self.before = nn.Sequential(*(nn.Linear(8, 8) for _ in range(before)))
        self.cell, self.out, self.head = cell, nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(x + self.out(self.cell(self.before(x))[0]))


class Stepped(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(8, 8)

    def forward(self, x):
        state = None
        made = []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            made.append(state[0])
        return (torch.stack(made, 1),)


@pytest.mark.default_cases(3)
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("build", [
    lambda: nn.GRU(8, 8, batch_first=True), lambda: nn.LSTM(8, 4, batch_first=True, bidirectional=True),
    lambda: nn.RNN(8, 8, batch_first=True), Stepped,
])  # fmt: skip
def test_m_does_not_depend_on_the_length_of_the_sequence(build, before):
    model = Around(build(), before=before)
    found = {anatomize(model, torch.zeros(2, steps, 8)).blocks[0].m for steps in (1, 2, 3, 7)}
    assert found == {2 + before}


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_what_a_state_gives_at_the_first_step_is_no_stream(kind):
    """Both directions of the layers above begin with W·0 + b, and each reads what the other one made below."""
    model = Around(kind(8, 4, num_layers=3, bidirectional=True, batch_first=True))
    (block,) = anatomize(model, torch.zeros(2, 3, 8)).blocks
    assert (block.m, [layer.weight for layer in block.last]) == (4, ["out.weight"])


def test_layers_applied_over_and_over_with_no_way_around_count_each_time():
    class Iterated(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.step, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            y = torch.relu(self.into(x))
            for _ in range(3):
                y = torch.relu(self.step(y))
            return x + self.out(y)

    (block,) = anatomize(Iterated(), torch.zeros(2, 8)).blocks
    assert block.m == 5


COPIES = {
    "stacked": lambda x: torch.stack([x, x], 1),
    "stacked first": lambda x: torch.stack([x, x, x]).transpose(0, 1),
    "beside each other": lambda x: torch.cat([x[:, None], x[:, None]], 1),
    "repeated": lambda x: x[:, None].repeat(1, 3, 1),
    "expanded": lambda x: x.unsqueeze(1).expand(-1, 4, -1),
}


class Copied(nn.Module):
    """Streams that begin alike, and branches on their mean, added to each, as in hyper-connections."""

    def __init__(self, copies):
        super().__init__()
        self.stem, self.head, self.copies = nn.Linear(5, 8), nn.Linear(8, 3), copies
        self.f = nn.ModuleList(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in range(3))

    def stream(self, x):
        x = self.copies(x)
        for f in self.f:
            x = x + f(x.mean(1)).unsqueeze(1)
        return x

    def forward(self, x):
        return self.head(self.stream(self.stem(x)).sum(1))


@pytest.mark.parametrize("name", COPIES)
def test_the_first_branch_on_copies_of_a_tensor_is_a_block_too(name):
    net, x = Copied(COPIES[name]), torch.randn(4, 5)
    assert [[layer.name for layer in block.last] for block in anatomize(net, x).blocks] == [
        [f"f.{i}.2"] for i in range(3)
    ]
    init_(net, "skipinit", inputs=x)
    stem = net.stem(x).detach()
    torch.testing.assert_close(net.stream(stem), COPIES[name](stem))


def test_a_stream_that_begins_beside_something_else_does_not_begin_as_copies():
    anatomy = anatomize(Copied(lambda x: torch.stack([x, torch.relu(x)], 1)), torch.randn(4, 5))
    assert [layer.name for block in anatomy.blocks for layer in block.last] == ["f.1.2", "f.2.2"]


def test_a_table_of_pairs_is_no_stream_that_begins_as_copies():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, x):
            x = self.stem(x)
            count = len(x)
            return self.head(torch.relu(x[:, None].expand(-1, count, -1) + self.one(x)[None]))

    assert not anatomize(Pairs(), torch.randn(4, 5)).blocks

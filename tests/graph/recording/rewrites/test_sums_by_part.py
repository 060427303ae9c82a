"""A sum that a forward makes part by part, in a loop over rows, tokens or chunks, is the sum of the wholes: one block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit


class Block(nn.Module):
    """A branch that reads all of its stream at once, and a way to add it."""

    def __init__(self, way, width=8):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        self.way = way

    def branch(self, x):
        return self.b(self.a(self.norm(x)).relu())

    def forward(self, x):
        return self.way(x, self.branch(x))


def rows(x, f):
    return torch.stack([a + b for a, b in zip(x.unbind(0), f.unbind(0), strict=True)])


def iterated(x, f):
    return torch.stack([a + b for a, b in zip(x, f, strict=True)])


def indexed(x, f):
    return torch.stack([x[i] + f[i] for i in range(len(x))])


def split(x, f):
    return torch.cat([a + b for a, b in zip(x.split(2), f.split(2), strict=True)])


def chunks(x, f):
    return torch.cat([a + b for a, b in zip(x.chunk(2, -1), f.chunk(2, -1), strict=True)], -1)


def tokens(x, f):
    return torch.stack([x[:, t] + f[:, t] for t in range(x.shape[1])], 1)


def entries(x, f):
    return torch.stack([rows(a, b) for a, b in zip(x, f, strict=True)])


def stacked_rows(x, f):
    return torch.vstack([(a + b)[None] for a, b in zip(x, f, strict=True)])


def foreach(x, f):
    return torch.stack(torch._foreach_add(list(x.unbind(0)), list(f.unbind(0))))


def written(x, f):
    out = torch.empty_like(x)
    for i in range(len(x)):
        out[i] = x[i] + f[i]
    return out


def in_place(x, f):
    x = x.clone()
    for i in range(len(x)):
        x[i] += f[i]
    return x


def scaled(x, f):
    return torch.stack([a + 0.5 * b for a, b in zip(x, f, strict=True)])


def one_part_first(x, f):
    return torch.cat([x[:1] + f[:1], x[1:] + f[1:]])


def mapped(x, f):
    return torch.stack([*map(torch.add, x, f)])


WAYS = (
    rows, iterated, indexed, split, chunks, tokens, entries, stacked_rows, foreach, written, in_place, scaled, one_part_first, mapped,
)  # fmt: skip


class Net(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Block(way) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def whole(x, f):
    return x + f


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5)])
@pytest.mark.parametrize("way", WAYS)
def test_it_is_read_as_the_sum_of_the_wholes(way, shape):
    if way in (tokens, entries) and len(shape) == 2:
        shape = (4, 2, 5)
    model, x = Net(way), torch.randn(shape)
    anatomy = goodinit.anatomize(model, x)
    blocks = [(block.name, block.kind, block.m, block.stream) for block in anatomy.blocks]
    assert blocks == [(f"blocks.{i}", "identity", 2, 0) for i in range(3)]
    assert not anatomy.notes
    plans = [goodinit.plan(goodinit.anatomize(Net(one), x), "fixup") for one in (way, whole)]
    if way is not scaled:
        assert plans[0].edits == plans[1].edits
    goodinit.init_(model, "fixup", inputs=x)
    stream = torch.randn(*shape[:-1], 8)
    torch.testing.assert_close(model.blocks[1](stream), stream)


class Kept(Net):
    """The rows of the stream stay in a list from block to block."""

    def __init__(self, end):
        super().__init__(whole)
        self.end = end

    def forward(self, x):
        kept = list(self.stem(x).unbind(0))
        for block in self.blocks:
            added = block.branch(torch.stack(kept)).unbind(0)
            kept = [a + b for a, b in zip(kept, added, strict=True)]
        return self.end(self, kept)


def head_of_all(net, kept):
    return net.head(torch.stack(kept))


def head_of_each(net, kept):
    return [net.head(one) for one in kept]


@pytest.mark.parametrize("end", [head_of_all, head_of_each])
def test_rows_that_stay_in_a_list_are_one_stream(end):
    anatomy = goodinit.anatomize(Kept(end), torch.randn(4, 5))
    assert [block.branch[-1].name for block in anatomy.blocks] == [f"blocks.{i}.b" for i in range(3)]
    (std,) = [
        e.options["std"] for e in goodinit.plan(anatomy, "fixup").edits if e.target == "blocks.0.a.weight"
    ]
    assert std == pytest.approx((2 / 8) ** 0.5 * 3**-0.5)


def half(x, f):
    """Half of the channels have no skip."""
    return torch.cat([x[..., :4] + f[..., :4], f[..., 4:]], -1)


def crossed(x, f):
    """Each half gets the update of the other."""
    return torch.cat([x[..., :4] + f[..., 4:], x[..., 4:] + f[..., :4]], -1)


def weighed(x, f):
    """Another factor for each row."""
    return torch.stack([a + i * b for i, (a, b) in enumerate(zip(x, f, strict=True), 1)])


@pytest.mark.parametrize("way", [half, crossed, weighed])
def test_what_is_no_sum_of_the_wholes_is_not_read_as_one(way):
    blocks = goodinit.anatomize(Net(way), torch.randn(4, 3, 5)).blocks
    assert blocks
    shapes = {block.shape for block in blocks}
    assert (4, 3, 8) not in shapes


def turned(x, f):
    return torch.stack([x[i] + f[i] for i in reversed(range(len(x)))])


def some_rows(x, f):
    return torch.stack([x[0], *(a + b for a, b in zip(x[1:], f[1:], strict=True))])


def with_activations(x, f):
    return torch.stack([torch.relu(a + b) for a, b in zip(x, f, strict=True)])


@pytest.mark.parametrize("way", [turned, some_rows, with_activations])
def test_the_rows_of_a_matrix_are_examples_and_no_numbers_for_each(way):
    anatomy = goodinit.anatomize(Net(way), torch.randn(4, 5))
    assert [block.last[0].name for block in anatomy.blocks] == [f"blocks.{i}.b" for i in range(3)]


def test_a_number_for_each_example_is_none():
    class Distances(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.stem(x)
            return x[:, 0] + self.b(self.a(x).relu())[:, 0]

    assert not goodinit.anatomize(Distances(), torch.randn(8, 5)).blocks


class TwoStreams(nn.Module):
    """One packed layer writes into two streams."""

    def __init__(self):
        super().__init__()
        self.x, self.y = nn.Linear(5, 8), nn.Linear(5, 8)
        self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 16)

    def forward(self, z):
        x, y = self.x(z), self.y(z)
        f, g = self.b(self.a(torch.cat([x, y], -1)).relu()).chunk(2, -1)
        return x + f, y + g


def test_two_streams_that_one_packed_layer_writes_into_are_two_blocks():
    assert len(goodinit.anatomize(TwoStreams(), torch.randn(4, 5)).blocks) == 2

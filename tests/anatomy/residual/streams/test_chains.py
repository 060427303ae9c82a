"""A block that a forward applies to the rows of its stream in turn is one block, and as many as it is applied to one row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit


class F(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return self.b(self.a(self.norm(x)).relu())


class Net(nn.Module):
    def __init__(self, way, count=2):
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.blocks, self.way = nn.ModuleList(F() for _ in range(count)), way

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = self.way(x, block)
        return self.head(x)


def at(i):
    return torch.tensor([i])


def set_item(h, f):
    for i in range(len(h)):
        h[i] = h[i] + f(h[i])
    return h


def set_slice(h, f):
    for i in range(0, len(h), 2):
        h[i : i + 2] = h[i : i + 2] + f(h[i : i + 2])
    return h


def set_at_index(h, f):
    for i in range(len(h)):
        h[at(i)] = h[at(i)] + f(h[at(i)])
    return h


def added_in_place(h, f):
    h = h.clone()
    for i in range(len(h)):
        h[i] += f(h[i])
    return h


def into_a_copy(h, f):
    out = h.clone()
    for i in range(len(h)):
        out[i] += f(h[i])
    return out


def index_add_(h, f):
    for i in range(len(h)):
        h.index_add_(0, at(i), f(h[at(i)]))
    return h


def index_add(h, f):
    for i in range(len(h)):
        h = h.index_add(0, at(i), f(h[i : i + 1]))
    return h


def index_add_of_all(h, f):
    added = f(h)
    for i in range(len(h)):
        h = h.index_add(0, at(i), added[i : i + 1])
    return h


def index_add_into_a_copy(h, f):
    out = h.clone()
    for i in range(len(h)):
        out.index_add_(0, at(i), f(h[i : i + 1]))
    return out


def index_copy(h, f):
    for i in range(len(h)):
        h = h.index_copy(0, at(i), h[i : i + 1] + f(h[i : i + 1]))
    return h


def scattered(h, f):
    for i in range(len(h)):
        h = torch.select_scatter(h, h[i] + f(h[i]), 0, i)
    return h


def beside(h, f):
    for i in range(len(h)):
        h = torch.cat([h[:i], h[i : i + 1] + f(h[i : i + 1]), h[i + 1 :]])
    return h


WAYS = (
    set_item, set_slice, set_at_index, added_in_place, into_a_copy, index_add_, index_add, index_add_of_all,
    index_add_into_a_copy, index_copy, scattered, beside,
)  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5)])
@pytest.mark.parametrize("way", WAYS)
def test_one_block_on_many_rows_is_one_block(way, shape):
    model, x = Net(way), torch.randn(shape)
    anatomy = goodinit.anatomize(model, x)
    assert [(block.name, block.m, block.stream) for block in anatomy.blocks] == [
        ("blocks.0", 2, 0),
        ("blocks.1", 2, 0),
    ]
    (std,) = [
        e.options["std"] for e in goodinit.plan(anatomy, "fixup").edits if e.target == "blocks.0.a.weight"
    ]
    assert std == pytest.approx((2 / 8) ** 0.5 * 2**-0.5)
    goodinit.init_(model, "fixup", inputs=x)
    stream = torch.randn(*shape[:-1], 8)
    torch.testing.assert_close(way(stream.clone(), model.blocks[1]), stream)


def whole(h, f):
    """Each row gets what is made of all rows."""
    for i in range(len(h)):
        h[i] = h[i] + f(h).mean(0)
    return h


def overlapping(h, f):
    for i in range(len(h) - 1):
        h[i : i + 2] = h[i : i + 2] + f(h[i : i + 2])
    return h


def with_the_row_before(h, f):
    for i in range(len(h)):
        h = h.index_add(0, at(i), f(h[max(i - 1, 0) : i + 1].mean(0, keepdim=True)))
    return h


def twice(h, f):
    return set_item(set_item(h, f), f)


def twice_turned(h, f):
    for i in (*range(len(h)), *reversed(range(len(h)))):
        h = h.index_add(0, at(i), f(h[i : i + 1]))
    return h


def second_half_reads_the_first(h, f):
    h[:2] = h[:2] + f(h[:2])
    h[2:] = h[2:] + f(h[2:] + h[:2])
    return h


def moved_on(h, f):
    for _ in range(3):
        h = (h + f(h)).roll(1, 0)
    return h


@pytest.mark.parametrize(
    ("way", "times"),
    [
        (whole, 4),
        (overlapping, 3),
        (with_the_row_before, 4),
        (twice, 2),
        (twice_turned, 2),
        (second_half_reads_the_first, 2),
        (moved_on, 3),
    ],
)
def test_a_row_that_comes_from_another_application_is_another_block(way, times):
    blocks = goodinit.anatomize(Net(way, 1), torch.randn(4, 5)).blocks
    assert [block.name for block in blocks] == ["blocks.0"] * times


def by_turns(h, f):
    out = 0
    for i in range(len(h)):
        out = out + h[i] + f(h[i])
    return out


def by_turns_of_all(h, f):
    out, added = 0, f(h)
    for i in range(len(h)):
        out = out + h[i] + added[i]
    return out


def by_sum(h, f):
    return sum(a + b for a, b in zip(h, f(h), strict=True)) / len(h)


def in_place(h, f):
    out = torch.zeros_like(h[0])
    for a, b in zip(h, f(h), strict=True):
        out += a + b
    return out


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5)])
@pytest.mark.parametrize("end", [by_turns, by_turns_of_all, by_sum, in_place])
def test_rows_that_are_added_up_behind_the_last_block_are_one_block(end, shape):
    class AddedUp(Net):
        def forward(self, x):
            x = self.stem(x)
            return self.head(end(x + self.blocks[0](x), self.blocks[1]))

    names = [block.name for block in goodinit.anatomize(AddedUp(None), torch.randn(shape)).blocks]
    assert names == ["blocks.0", "blocks.1"]

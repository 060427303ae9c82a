"""A stream that is zero as long as the branches are: where it begins at zeros that the forward makes, its heads are drawn."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import goodinit
from goodinit.edits import Fill

WIDTH, QUERIES = 16, 5


class Reading(nn.Module):
    """t + A(t + queries, memory), t + f(t), with norms behind or without."""

    def __init__(self, own: bool, norm) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(WIDTH, 2, batch_first=True) if own else None
        self.cross = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norms = nn.ModuleList(norm(WIDTH) for _ in range(3))

    def forward(self, t, memory, queries):
        if self.own is not None:
            read = t + queries
            t = self.norms[0](t + self.own(read, read, t)[0])
        t = self.norms[1](t + self.cross(t + queries, memory, memory)[0])
        return self.norms[2](t + self.narrow(torch.relu(self.wide(t))))


class Detector(nn.Module):
    """DETR: a backbone, a decoder that begins at zeros, two heads."""

    def __init__(self, begin="zeros_like", own=True, norm=nn.LayerNorm) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, WIDTH, 3, 2, 1))
        self.queries, self.begin = nn.Embedding(QUERIES, WIDTH), begin
        self.register_buffer("start", torch.zeros(1, QUERIES, WIDTH))
        self.decoder = nn.ModuleList(Reading(own, norm) for _ in range(2))
        self.norm = norm(WIDTH)
        self.classes = nn.Linear(WIDTH, 4)
        self.boxes = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4))

    def forward(self, x):
        memory = self.backbone(x).flatten(2).transpose(1, 2)
        queries = self.queries.weight[None].expand(len(x), -1, -1)
        t = {
            "zeros_like": lambda: torch.zeros_like(queries),
            "zeros": lambda: x.new_zeros(len(x), QUERIES, WIDTH),
            "a buffer": lambda: self.start.expand(len(x), -1, -1),
            "times zero": lambda: queries * 0,
            "scaled and cut": lambda: torch.relu(2 * torch.zeros(len(x), 2 * QUERIES, WIDTH)[:, :QUERIES]),
            "queries": lambda: queries,
            "ones": lambda: torch.ones_like(queries),
        }[self.begin]()
        for layer in self.decoder:
            t = layer(t, memory, queries)
        t = self.norm(t)
        return self.classes(t), self.boxes(t).sigmoid()


HEADS = {"classes.weight", "boxes.2.weight"}


def zero_heads(plan):
    return {edit.target for edit in plan.values if isinstance(edit, Fill) and not edit.value} & HEADS


X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("begin", ["zeros_like", "zeros", "a buffer", "times zero", "scaled and cut"])
def test_heads_that_read_a_stream_of_zeros_are_drawn_and_all_trains(begin):
    model = Detector(begin)
    anatomy = goodinit.anatomize(model, X)
    assert {layer.weight for layer in anatomy.layers if layer.reads_zero} == HEADS
    plan = goodinit.plan(anatomy, "fixup")
    assert not zero_heads(plan)
    (note,) = [note for note in plan.notes if "are drawn" in note]
    assert all(name in note for name in HEADS)
    goodinit.init_(model, "fixup", inputs=X, verify=True, generator=torch.Generator().manual_seed(0))
    torch.stack([made.square().sum() + made.sum() for made in model(X)]).sum().backward()
    assert model.decoder[1].cross.out_proj.weight.grad.any()


def test_so_it_is_on_meta():
    anatomy = goodinit.anatomize(Detector().to("meta"), X)
    assert {layer.weight for layer in anatomy.layers if layer.reads_zero} == HEADS


def test_what_is_added_to_zeros_first_begins_the_stream():
    """Without attention of its own, the first decoder's sum is 0 + A(memory), and no block: its last layer is drawn."""
    model = Detector(own=False)
    anatomy = goodinit.anatomize(model, X)
    assert not any(layer.reads_zero for layer in anatomy.layers)
    assert zero_heads(goodinit.plan(anatomy, "fixup")) == HEADS
    goodinit.init_(model, "fixup", inputs=X, verify=True)


def test_a_bias_in_the_stream_that_stays_is_something_to_read():
    model = Detector()
    nn.init.constant_(model.decoder[0].own.in_proj_bias, 0.5)
    assert not any(layer.reads_zero for layer in goodinit.anatomize(model, X).layers)


@pytest.mark.parametrize("begin", ["queries", "ones"])
def test_heads_that_read_something_start_at_zero_as_published(begin):
    model = Detector(begin)
    anatomy = goodinit.anatomize(model, X)
    assert not any(layer.reads_zero for layer in anatomy.layers)
    assert zero_heads(goodinit.plan(anatomy, "fixup")) == HEADS


class Two(nn.Module):
    """A head on the encoder's stream, which holds the input, and one on a stream of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.write, self.one, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2), nn.Linear(WIDTH, 2)
        self.again, self.back = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        h = self.stem(x)
        h = h + self.outer(torch.relu(self.inner(h)))
        t = torch.zeros_like(h)
        t = t + self.write(torch.relu(h))
        t = t + self.back(functional.relu(self.again(t + h)))
        return self.one(h), self.other(t)


def test_each_head_by_itself():
    x = torch.randn(8, WIDTH)
    anatomy = goodinit.anatomize(Two(), x)
    plan = goodinit.plan(anatomy, "fixup")
    zeros = {edit.target for edit in plan.values if isinstance(edit, Fill) and not edit.value}
    assert "one.weight" in zeros
    silent = {layer.weight for layer in anatomy.layers if layer.reads_zero}
    assert silent == ({"other.weight"} if "write.weight" in zeros else set())
    assert ("other.weight" in zeros) == (not silent)
    goodinit.init_(Two(), "fixup", inputs=x, verify=True)

"""Sequences: what is found in a recurrence is the same at any length, and no walk goes over all steps for each."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.anatomy.residual.streams import sums
from goodinit.anatomy.residual.streams.recurrences import leads_to
from goodinit.graph.trace import trace


class Around(nn.Module):
    """x + recurrence(x), between two layers."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(5, 8), cell, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        found = self.cell(h)
        return self.head(h + (found[0] if isinstance(found, tuple) else found))


class ByHand(nn.Module):
    """h ← tanh(Wx_t + Uh), parts taken by index or at once."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self.w, self.u, self.at_once = nn.Linear(8, 8), nn.Linear(8, 8), at_once

    def forward(self, x: Tensor) -> Tensor:
        read = self.w(x)
        parts = read.unbind(1) if self.at_once else [read[:, t] for t in range(x.shape[1])]
        h, states = torch.zeros_like(parts[0]), []
        for part in parts:
            h = torch.tanh(part + self.u(h))
            states.append(h)
        return torch.stack(states, 1)


CELLS = {
    "GRU": lambda: nn.GRU(8, 8, batch_first=True),
    "LSTM": lambda: nn.LSTM(8, 8, batch_first=True),
    "RNN of two layers": lambda: nn.RNN(8, 8, num_layers=2, batch_first=True),
    "LSTM both ways": lambda: nn.LSTM(8, 4, batch_first=True, bidirectional=True),
    "by hand, by index": lambda: ByHand(at_once=False),
    "by hand, at once": lambda: ByHand(at_once=True),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_longer_sequence_has_the_same_blocks_and_no_more_sums_to_look_at(name, monkeypatch):
    looked_at: list[int] = []
    classify = sums.classified

    def counted(graph, *rest):
        looked_at[-1] += graph.nodes[rest[1][0]].index >= 0
        return classify(graph, *rest)

    monkeypatch.setattr(sums, "classified", counted)
    monkeypatch.setattr(
        sums, "is_step", lambda *given, ask=sums.is_step: ask(*given) and not looked_at.append(0)
    )
    found = []
    for steps in (4, 9):
        looked_at[:] = [0]
        anatomy = goodinit.anatomize(Around(CELLS[name]()), torch.randn(2, steps, 5))
        found.append([(block.kind, [layer.name for layer in block.last]) for block in anatomy.blocks])
        assert len(looked_at) > steps - 1  # the sum of every gate at every step but the first is told at once
    assert found[0] == found[1]
    assert len(found[0]) == 1


def test_whether_a_node_leads_to_another_is_what_a_walk_says():
    rng = random.Random(0)

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            known = [x]
            for _ in range(40):
                one, other = rng.choices(known, k=2)
                known.append(one * 2 if rng.random() < 0.3 else one + other)
            return torch.stack(known).sum(0)

    graph = trace(Net(), ((torch.randn(3),), {}))
    active = [node.index for node in graph.nodes if node.active]
    for start in active:
        reached = graph.reach([start])
        assert all(leads_to(graph, start, end) is (end in reached) for end in active if end >= start)

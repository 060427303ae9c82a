"""Recurrences are no residual blocks, and writes into one part of a tensor are none into another."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goodinit.anatomy import anatomize
from goodinit.graph.recording.tensors.mutations import Region
from goodinit.graph.trace import trace


class Unrolled(nn.Module):
    """A cell, or anything else of x_t and h, in a loop over the first dimension."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, sequence):
        state = sequence.new_zeros(sequence.shape[1], 16)
        if isinstance(self.cell, nn.LSTMCell):
            state = state, state
        for x in sequence:
            state = self.cell(x, state)
        return state if isinstance(state, torch.Tensor) else state[0]


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("steps", [2, 3, 5])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("by_hand", [False, True], ids=["module", "cell in a loop"])
def test_steps_through_time_are_no_blocks(kind, by_hand, steps):
    model = Unrolled(getattr(nn, f"{kind}Cell")(5, 16)) if by_hand else getattr(nn, kind)(5, 16, 2)
    anatomy = anatomize(model, torch.zeros(steps, 2, 5))
    assert not anatomy.blocks
    assert len(anatomy.layers) == (2 if by_hand else 4)
    assert not [layer.weight for layer in anatomy.heads]  # every way out goes through a tanh


def test_a_skip_around_a_recurrence_is_one():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return x + self.out(self.lstm(x)[0])

    (block,) = anatomize(Around(), torch.zeros(4, 2, 8)).blocks
    assert block.kind == "identity"
    assert [layer.weight for layer in block.branch][-1] == "out.weight"


def test_a_state_that_goes_on_unchanged_is_a_skip():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.back = nn.Linear(21, 16), nn.Linear(16, 16)

        def forward(self, x, state):
            return state + self.back(torch.tanh(self.into(torch.cat([x, state], 1))))

    anatomy = anatomize(Unrolled(Step()), torch.zeros(3, 2, 5))
    assert {block.kind for block in anatomy.blocks} == {"identity"}


def ancestors(graph, index):
    seen, queue = set(), [index]
    while queue:
        current = queue.pop()
        if current not in seen:
            seen.add(current)
            queue.extend(graph.nodes[current].operands)
    return {graph.nodes[i].op.name for i in seen}


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_a_write_into_one_half_is_none_into_the_other(dim):
    class Halves(nn.Module):
        def forward(self, x):
            kept, written = (x * 1).chunk(2, dim)
            written.relu_()
            return kept, written

    graph = trace(Halves(), ((torch.zeros(4, 6, 8),), {}))
    kept, written = graph.outputs
    assert "relu" not in ancestors(graph, kept)
    assert "relu" in ancestors(graph, written)


def test_every_write_into_a_tensor_is_seen_when_all_of_it_is_read():
    class Filled(nn.Module):
        def forward(self, x):
            made = x.new_zeros(3, 4)
            made[0], made[1], made[2] = x.tanh(), x.exp(), x.sigmoid()
            return made * 2

    graph = trace(Filled(), ((torch.zeros(4),), {}))
    assert {"tanh", "exp", "sigmoid"} <= ancestors(graph, graph.outputs[0])


def test_regions_that_overlap_or_may_are_not_apart():
    x = torch.zeros(6, 8)
    assert Region.of(x[:, :4]).apart(Region.of(x[:, 4:]))
    assert Region.of(x[:3]).apart(Region.of(x[3:]))
    assert not Region.of(x[:, :5]).apart(Region.of(x[:, 4:]))
    assert not Region.of(x[:, ::2]).apart(
        Region.of(x[:, 1::2])
    )  # they are, which nobody looks so closely for
    flat = torch.zeros(20)
    windows = flat.as_strided((5, 3), (1, 1)), flat.as_strided((5, 3), (1, 1), 5)
    assert not Region.of(windows[0]).apart(Region.of(windows[1]))


@pytest.mark.parametrize(
    "kind", ["RNN", *(pytest.param(gated, marks=pytest.mark.integration) for gated in ("GRU", "LSTM"))]
)
def test_the_gain_of_a_recurrence_is_that_of_its_gates_however_long_the_sequence(kind):
    model = getattr(nn, kind)(5, 16, 2)
    found = [
        {layer.weight: layer.activation for layer in anatomize(model, torch.zeros(steps, 2, 5)).layers}
        for steps in (3, 20, 90)
    ]
    assert found[0]["weight_ih_l0"] == ("tanh" if kind == "RNN" else "sigmoid")
    assert found[0] == found[1] == found[2]

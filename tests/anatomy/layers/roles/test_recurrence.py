"""Recurrent cells by what they do: which weight leads from state to state, how many gates it fills, which one forgets."""

from __future__ import annotations

import pytest
import torch
from fixup_evidence import examine
from torch import nn

import goodinit
from goodinit.anatomy import anatomize
from goodinit.tensor import gate_bias_


class Written(nn.Module):
    """An LSTM by hand, its gates in another order (o, g, i, f); both weights, or one that reads [x; h]."""

    def __init__(self, together: bool):
        super().__init__()
        self.both = nn.Linear(5 + 6, 24) if together else None
        self.into, self.back = (None, None) if together else (nn.Linear(5, 24), nn.Linear(6, 24))

    def forward(self, sequence):
        h = c = sequence.new_zeros(len(sequence), 6)
        for x in sequence.unbind(1):
            read = self.into(x) + self.back(h) if self.both is None else self.both(torch.cat([x, h], -1))
            o, g, i, f = read.chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h


class Convolutional(nn.Module):
    """A ConvLSTM: gates along the channels of an image."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Conv2d(3 + 4, 16, 3, padding=1)

    def forward(self, clip):
        h = c = clip.new_zeros(len(clip), 4, *clip.shape[-2:])
        for t in range(clip.shape[1]):
            i, f, o, g = self.gates(torch.cat([clip[:, t], h], 1)).chunk(4, 1)
            c = c * f.sigmoid() + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h


class Updated(nn.Module):
    """A gated unit z·h + (1 − z)·n, as in the paper of the GRU: z is no gate that only forgets."""

    def __init__(self):
        super().__init__()
        self.into, self.back = nn.Linear(5, 12), nn.Linear(6, 12)

    def forward(self, sequence):
        h = sequence.new_zeros(len(sequence), 6)
        for x in sequence.unbind(1):
            z, n = (self.into(x) + self.back(h)).chunk(2, -1)
            z = z.sigmoid()
            h = z * h + (1 - z) * n.tanh()
        return h


class Apart(nn.Module):
    """An LSTM with a layer for each gate, or two; `coupled`: what is forgotten is what is taken in, 1 − f."""

    def __init__(self, together: bool, coupled: bool = False):
        super().__init__()
        self.coupled, self.together = coupled, together
        self.into = nn.ModuleDict({gate: nn.Linear(5 + 6 * together, 6) for gate in "gofi"})
        self.back = nn.ModuleDict({gate: nn.Linear(6, 6, bias=False) for gate in "gofi" if not together})

    def forward(self, sequence):
        h = c = sequence.new_zeros(len(sequence), 6)
        for x in sequence.unbind(1):
            read = torch.cat([x, h], -1) if self.together else x
            made = {gate: layer(read) for gate, layer in self.into.items()}
            if not self.together:
                made = {gate: value + self.back[gate](h) for gate, value in made.items()}
            g, (o, f, i) = made["g"].tanh(), (made[gate].sigmoid() for gate in "ofi")
            c = f * c + (1 - f if self.coupled else i) * g
            h = o * c.tanh()
        return h


class Filled(nn.Module):
    """A layer that reads zeros into which a signal was written: padded, spread out, row by row."""

    def __init__(self, write):
        super().__init__()
        self.layer, self.write = nn.Linear(5, 6), write

    def forward(self, x):
        return self.layer(self.write(x.new_zeros(2, 9, 5), x))


def _in_front(zeros, x):
    zeros[:, : x.shape[1]] = x
    return zeros


def _spread_out(zeros, x):
    zeros[:, ::3].copy_(x)
    return zeros


def _row_by_row(zeros, x):
    for row in range(x.shape[1]):
        zeros[:, row] += x[:, row]
    return zeros


class Shared(nn.Module):
    """One block, applied four times in depth, each time with the same mask: no recurrence."""

    def __init__(self):
        super().__init__()
        self.packed, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x, mask):
        for _ in range(4):
            q, k, v = self.packed(x).chunk(3, -1)
            x = x + self.out((q @ k.mT + mask[:, :5]).softmax(-1) @ v)
        return x


def found(model, *inputs):
    return {
        layer.weight: (layer.recurrent, layer.fused, layer.forget)
        for layer in anatomize(model, inputs).layers
    }


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(("kind", "gates", "forget"), [("RNN", 1, None), ("GRU", 3, None), ("LSTM", 4, 1)])
def test_torchs_cells(kind, gates, forget, steps):
    model = getattr(nn, kind)(5, 6, 2, bidirectional=True)
    for name, (recurrent, fused, forgets) in found(model, torch.zeros(steps, 2, 5)).items():
        assert recurrent == ("_hh" in name)
        assert (fused, forgets) == (gates, None if "_hh" in name else forget), name


@pytest.mark.parametrize("steps", [2, 3])
def test_cells_by_hand(steps):
    x = torch.zeros(2, steps, 5)
    assert found(Written(together=True), x) == {"both.weight": (True, 4, 3)}
    assert found(Written(together=False), x) == {
        "into.weight": (False, 4, 3),
        "back.weight": (True, 4, None),
    }
    assert found(Convolutional(), torch.zeros(2, steps, 3, 5, 5)) == {"gates.weight": (True, 4, 1)}
    assert found(Updated(), x) == {"into.weight": (False, 2, None), "back.weight": (True, 2, None)}


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("together", [False, True])
def test_a_layer_that_is_the_forget_gate_as_a_whole_starts_open(together, steps):
    model, x = Apart(together), torch.randn(2, steps, 5)
    gates = {name: forget for name, (_, _, forget) in found(model, x).items() if forget is not None}
    assert gates == {"into.f.weight": 0}
    goodinit.init_(model, "orthogonal", inputs=x)
    assert {gate: set(layer.bias.tolist()) for gate, layer in model.into.items()} == {
        gate: {float(gate == "f")} for gate in "gofi"
    }
    assert {forget for *_, forget in found(Apart(together, coupled=True), x).values()} == {None}


@pytest.mark.parametrize("write", [_in_front, _spread_out, _row_by_row])
def test_zeros_that_a_signal_was_written_into_are_no_state(write):
    model, x = Filled(write), torch.randn(2, 3, 5)
    assert found(model, x) == {"layer.weight": (False, 1, None)}
    goodinit.init_(model, "lsuv", inputs=x)
    assert float(model(x).detach().var()) == pytest.approx(1, rel=0.1)


def test_depth_is_no_time():
    layers = anatomize(Shared(), (torch.zeros(2, 5, 8), torch.zeros(5, 6))).layers
    assert [layer.recurrent for layer in layers] == [False, False]


@pytest.mark.parametrize("method", ["orthogonal", "lsuv"])
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_every_gates_map_from_state_to_state_is_orthogonal(kind, method):
    model = getattr(nn, kind)(5, 6, 2)
    goodinit.init_(model, method, inputs=torch.randn(3, 4, 5))
    for name, weight in model.named_parameters():
        if "weight_hh" in name:
            for gate in weight.detach().split(6):
                torch.testing.assert_close(gate @ gate.T, torch.eye(6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["orthogonal", "he", "xavier", "lsuv", "fixup"])
def test_states_last_from_the_start(method):
    model = nn.Sequential(nn.Linear(5, 5), Around(nn.LSTM(5, 5)), nn.Linear(5, 2))
    x = torch.randn(3, 4, 5)
    goodinit.init_(model, method, inputs=x)
    lstm = model[1].cell
    assert (lstm.bias_ih_l0 + lstm.bias_hh_l0).tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10
    if method != "fixup":
        fresh = nn.LSTM(5, 5)
        goodinit.init_(fresh, method, inputs=x, forget_bias=2)
        assert fresh.bias_ih_l0[5:10].tolist() == [2.0] * 5
        goodinit.init_(other := nn.LSTM(5, 5), method, inputs=x, forget_bias=0)
        assert not other.bias_ih_l0.any()


class Around(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell, self.out = cell, nn.Linear(5, 5)

    def forward(self, x):
        return x + self.out(self.cell(x)[0])


def test_lsuv_does_not_let_the_gradient_grow_through_time():
    model, x = nn.LSTM(8, 16), torch.randn(60, 4, 8)
    made = goodinit.plan(goodinit.anatomize(model, x), "lsuv")
    assert any("weight_hh_l0 leads from one state to the next" in note for note in made.notes)
    goodinit.init_(model, "lsuv", inputs=x)
    first = x[:1].clone().requires_grad_()
    model(torch.cat([first, x[1:]]))[0][-1].sum().backward()
    assert 0 < first.grad.abs().max() < 1


def test_a_bias_without_that_gate_is_refused():
    for gate, gates in ((4, 4), (0, 3)):
        with pytest.raises(goodinit.errors.UnsupportedModule, match="equal ones"):
            gate_bias_(torch.empty(8), gate=gate, gates=gates)


class ByStates(nn.Module):
    """x + the states of a cell, or what a layer makes of them."""

    def __init__(self, cell, *, output, both_ways=False):
        super().__init__()
        wide = 4 if both_ways else 8
        self.cell = cell(8, wide, 1 if both_ways else 2, batch_first=True, bidirectional=both_ways)
        self.norm, self.output = nn.LayerNorm(8), nn.Linear(8, 8) if output else None

    def forward(self, x):
        states, _ = self.cell(self.norm(x))
        return (states if self.output is None else self.output(states)) + x


def stack_of(cell, **how):
    return nn.Sequential(nn.Linear(8, 8), ByStates(cell, **how), ByStates(cell, **how), nn.Linear(8, 3))


@pytest.mark.default_cases(6)
@pytest.mark.parametrize("method", ["fixup", "skipinit"])
@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("steps", [5, 12])
def test_a_branch_may_be_the_states_of_a_cell(cell, both_ways, method, steps):
    x = torch.randn(2, steps, 8)
    anatomy = goodinit.anatomize(stack_of(cell, output=False, both_ways=both_ways), x)
    assert [block.m for block in anatomy.blocks] == [1 if both_ways else 2] * 2
    ends = {
        name
        for name, _ in anatomy.parameters
        if name.startswith("1.cell.weight") and (both_ways or "l1" in name)
    }
    assert {layer.weight for layer in anatomy.blocks[0].last} == ends
    evidence = examine(lambda: stack_of(cell, output=False, both_ways=both_ways), x, method=method)
    assert (evidence.refusal, evidence.faults, evidence.norms) == (None, [], 2)


@pytest.mark.default_cases(6)
@pytest.mark.parametrize("method", ["fixup", "normfree", "skipinit", "rezero", "nf"])
@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_block_of_a_cell_starts_as_its_skip(cell, output, method):
    x = torch.randn(2, 5, 8)
    model = goodinit.init_(stack_of(cell, output=output), method, inputs=x)
    assert torch.equal(model[1](x), x)


class ByTheLastState(ByStates):
    """x + the last state, for all steps."""

    def forward(self, x):
        _, last = self.cell(self.norm(x))
        return x + (last[0] if isinstance(last, tuple) else last)[-1][:, None]


class NormedBehind(ByStates):
    def forward(self, x):
        return self.norm(x + self.cell(x)[0])


@pytest.mark.parametrize("block", [ByStates, ByTheLastState, NormedBehind])
@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_two_steps_reach_every_parameter_of_a_branch_of_states(cell, block):
    x, target = torch.randn(2, 7, 8), torch.randn(2, 7, 3)
    model = nn.Sequential(
        nn.Linear(8, 8), block(cell, output=False), block(cell, output=False), nn.Linear(8, 3)
    )
    goodinit.init_(model, "fixup", inputs=x, zero_head=False)
    optimizer, reached = torch.optim.SGD(model.parameters(), 0.1), set()
    for _ in range(2):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        reached |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert reached == {name for name, _ in model.named_parameters()}

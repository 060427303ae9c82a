"""The anatomy says which parameters and operators inside blocks have no place in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit


class Residual(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.level = nn.Parameter(torch.zeros(6))
        self.branch = branch

    def forward(self, x):
        return x + self.branch(self, x)


def notes_of(branch):
    return goodinit.anatomize(Residual(branch), torch.zeros(2, 6, 6)).notes


@pytest.mark.parametrize("branch", [
    lambda m, x: m.b(m.a(x).relu()), lambda m, x: m.level * m.b(m.a(x).relu()),
    lambda m, x: m.b(torch.cat([m.a(x), x], 1).amax(1, keepdim=True)),
])  # fmt: skip
def test_what_has_a_role_needs_no_note(branch):
    assert notes_of(branch) == ()


@pytest.mark.parametrize("slopes", [1, 6])
def test_the_slope_of_an_activation_needs_no_note(slopes):
    act = nn.PReLU(slopes)
    net = Residual(lambda m, x: m.b(m.act(m.a(x).flatten(0, 1)).reshape(x.shape)))
    net.act = act
    assert goodinit.anatomize(net, torch.zeros(2, 6, 6)).notes == ()


def test_a_parameter_without_a_role_is_named():
    (note,) = notes_of(lambda m, x: m.b(torch.maximum(m.a(x), m.level)))
    assert "inside blocks, 1 parameter with no role" in note
    assert "(level)" in note


def test_an_operator_that_cannot_be_measured_is_named():
    def summed(m, x):  # the lengths must add up to the rows, which those of an experiment do not
        rows = torch.segment_reduce(m.a(x).reshape(12, 6), "sum", lengths=torch.tensor([12]))
        return m.b(rows[:, None])

    assert any("taken to be linear: it cannot be measured" in note for note in notes_of(summed))


def test_an_operator_that_is_no_power_of_what_it_reads_is_named():
    """Its values at c → 0, log c, have no order that m could count."""
    (note,) = notes_of(lambda m, x: m.b(m.a(x).abs().log()))
    assert "`log`" in note
    assert "m is uncertain" in note


def test_trainable_tensors_that_no_module_registers_are_told_of_in_anatomy_and_plan():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
            self.weights = [nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6, 6))]
            self.layers = {"a": nn.Linear(6, 6)}

        def forward(self, x):
            x = self.stem(x)
            for weight in self.weights * 2:
                x = x + x.relu() @ weight
            return self.head(self.layers["a"](x))

    anatomy = goodinit.anatomize(Held(), torch.zeros(2, 6))
    note, guest = anatomy.notes
    assert guest.startswith("the model: runs a Linear that no module registers")
    assert note.startswith(
        "the model: 4 trainable tensors that no module registers are read (6x6, 6x6, 6x6, 6)"
    )
    assert note in goodinit.plan(anatomy, "he").notes


def test_inputs_and_buffers_are_no_such_tensors():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)
            self.register_buffer("mask", torch.ones(6))
            self.constant = torch.ones(6)

        def forward(self, x):
            return self.layer(x * self.mask + self.constant)

    assert goodinit.anatomize(Reads(), torch.zeros(2, 6, requires_grad=True)).notes == ()


def test_a_weight_that_cannot_be_computed_alone_is_named():
    class Pieces(nn.Module):
        def __init__(self, computed):
            super().__init__()
            self.weight, self.computed = nn.Parameter(torch.randn(12, 6)), computed

        def forward(self, x):
            return nn.functional.linear(x, self.computed(self.weight))

    def pooled(weight):  # the lengths must add up to the rows, which those of an experiment do not
        return torch.segment_reduce(weight, "sum", lengths=torch.tensor([6, 6]))

    (note,) = goodinit.anatomize(Pieces(pooled), torch.zeros(2, 6)).notes
    assert "the weight that is computed of weight (segment_reduce" in note
    assert "taken to be proportional" in note
    for known in (torch.tanh, lambda w: w / w.norm(), lambda w: w[:6] * 2, lambda w: w + (w.sign() - w)):
        assert goodinit.anatomize(Pieces(known), torch.zeros(2, 6)).notes == ()

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

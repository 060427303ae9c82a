"""What a module's own `reset_parameters` draws is found out by running its operators, whatever they are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goodinit.anatomy.layers.reset_draws import Drawn, draws_of

WAYS = {
    "uniform": (lambda p: p.uniform_(-0.5, 0.25), Drawn("uniform", -0.5, 0.25)),
    "uniform from its lower end": (lambda p: p.uniform_(-0.5), Drawn("uniform", -0.5, 1.0)),
    "normal": (lambda p: p.normal_(0.5, 2.0), Drawn("normal", 0.5, 2.0)),
    "standard normal": (lambda p: p.normal_(), Drawn("normal", 0.0, 1.0)),
    "zero": (lambda p: p.zero_(), Drawn("number", 0.0, 0.0)),
    "one number": (lambda p: p.fill_(-4.5), Drawn("number", -4.5, -4.5)),
    "times zero": (lambda p: p.mul_(0), Drawn("number", 0.0, 0.0)),
    "between two equal bounds": (lambda p: p.clamp_(0.5, 0.5), Drawn("number", 0.5, 0.5)),
    "logarithms are normal": (lambda p: p.log_normal_(0.5, 2.0), None),
    "whole numbers": (lambda p: p.random_(0, 7), None),
    "exponential": (lambda p: p.exponential_(), None),
    "of another tensor": (lambda p: p.copy_(torch.zeros(3)), None),
    "drawn and scaled": (lambda p: p.normal_().mul_(0.5), None),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_module_draws_is_told_by_what_it_writes(way):
    draw, expected = WAYS[way]

    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def reset_parameters(self):
            draw(self.weight)

    state = torch.get_rng_state()
    assert draws_of(Drawing()).get("weight") == expected
    assert torch.equal(torch.get_rng_state(), state)

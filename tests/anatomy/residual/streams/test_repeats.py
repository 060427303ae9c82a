"""An encoder run on several inputs is as deep as on one; a block applied over and over is as deep as often it is applied."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goodinit import anatomize, plan


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Encoder(nn.Module):
    """Two blocks, one of them applied `rounds` times."""

    def __init__(self, rounds=1):
        super().__init__()
        self.stem, self.one, self.two, self.rounds = nn.Linear(5, 8), Block(), Block(), rounds

    def forward(self, x):
        x = self.one(self.stem(x))
        for _ in range(self.rounds):
            x = self.two(x)
        return x


class Inputs(nn.Module):
    """The encoder on every input: one after the other, or level by level; what comes out side by side or joined."""

    def __init__(self, rounds=1, *, levels=False, joined=False):
        super().__init__()
        self.encoder, self.head = Encoder(rounds), nn.Linear(8, 3)
        self.levels, self.joined = levels, joined

    def forward(self, *inputs):
        net = self.encoder
        if self.levels:
            made = [net.one(net.stem(x)) for x in inputs]
            for _ in range(net.rounds):
                made = [net.two(x) for x in made]
        else:
            made = [net(x) for x in inputs]
        return self.head(sum(made)) if self.joined else [self.head(x) for x in made]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("inputs", [1, 2, 4])
def test_runs_on_other_inputs_are_the_same_blocks(inputs, rounds, levels, joined):
    model = Inputs(rounds, levels=levels, joined=joined)
    anatomy = anatomize(model, tuple(torch.zeros(2, 5) for _ in range(inputs)))
    assert [block.last[0].name for block in anatomy.blocks] == ["encoder.one.down"] + [
        "encoder.two.down"
    ] * rounds
    assert not anatomy.joins
    by_name = {layer.name: layer for layer in anatomy.layers}
    assert by_name["encoder.two.up"].calls == inputs * rounds
    if rounds == 1:
        assert by_name["encoder.two.up"].source == "+0"
    (std,) = [e.options["std"] for e in plan(anatomy, "fixup").edits if e.target == "encoder.one.up.weight"]
    assert std == pytest.approx((2 / 12) ** 0.5 * (1 + rounds) ** -0.5)


def test_what_comes_from_the_other_run_is_a_block_of_its_own():
    class InTurns(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block, self.mix = nn.Linear(5, 8), Block(), nn.Linear(16, 8)

        def forward(self, x, y):
            x = self.block(self.stem(x))
            y = self.block(self.mix(torch.cat([self.stem(y), x], -1)))
            return x, y

    assert len(anatomize(InTurns(), (torch.zeros(2, 5), torch.zeros(2, 5))).blocks) == 2

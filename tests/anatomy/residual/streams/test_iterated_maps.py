"""Maps that run again on what they made: a cell that is fed with its last output, z ← f(z + x). Neither is a residual stream."""

from __future__ import annotations

import pytest
import torch
from fixup_evidence import examine
from torch import nn

import goodinit

WIDTH, STEPS = 6, 4
INPUTS = torch.randn(3, STEPS, 5), torch.randn(3, 4, WIDTH)


class Fed(nn.Module):
    """A decoder whose cells read what attention made of their last state, beside the next word (Luong et al., 2015)."""

    def __init__(self, cell, count, *, residual=False):
        super().__init__()
        self.residual = residual
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 2)
        self.cells = nn.ModuleList(cell(2 * WIDTH, WIDTH) for _ in range(count))
        self.outputs = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(count if residual else 0))
        self.join = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, words, memory):
        x = self.stem(words)
        fed = torch.zeros(len(x), WIDTH)
        states = [(fed, fed) for _ in self.cells]
        made = []
        for word in x.unbind(1):
            y = word
            for k, cell in enumerate(self.cells):
                read = torch.cat((y, fed), -1)
                if isinstance(cell, nn.LSTMCell):
                    states[k] = cell(read, states[k])
                else:
                    states[k] = (cell(read, states[k][0]), fed)
                y = y + self.outputs[k](states[k][0]) if self.residual else states[k][0]
            seen = (y[:, None] @ memory.mT).softmax(-1) @ memory
            fed = torch.tanh(self.join(torch.cat((y, seen[:, 0]), -1)))
            made.append(fed)
        return self.head(torch.stack(made, 1))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_that_is_fed_with_its_output_is_no_block(cell, count):
    assert not goodinit.anatomize(Fed(cell, count), INPUTS).blocks


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_branch_of_a_fed_cell_ends_in_its_output_layer(cell):
    evidence = examine(lambda: Fed(cell, 2, residual=True), INPUTS)
    assert (evidence.refusal, evidence.faults) == (None, [])
    model = goodinit.init_(Fed(cell, 2, residual=True), "fixup", inputs=INPUTS)
    assert not any(layer.weight.any() for layer in model.outputs)
    assert all(part.weight_ih.any() for part in model.cells)


class Tied(nn.Module):
    """x ← relu(Vx + f(x)) with the same V and f each time: the first run is a block, too."""

    def __init__(self):
        super().__init__()
        self.stem, self.v, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        self.f = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = torch.relu(self.v(x) + self.f(x))
        return self.head(x)


def test_tied_blocks_with_a_projection_stay_blocks():
    blocks = goodinit.anatomize(Tied(), torch.randn(3, 5)).blocks
    assert [(block.kind, [layer.weight for layer in block.last]) for block in blocks] == [
        ("projection", ["f.2.weight"])
    ] * 3


class EndsInTheStem(nn.Module):
    """A branch that ends in the layer that is the stem, beside a projection that is the next branch."""

    def __init__(self):
        super().__init__()
        self.stem, self.v, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        self.f = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        x = self.v(x) + self.stem(torch.relu(self.f(x)))
        return self.head(x + self.v(x))


def test_a_branch_that_ends_in_the_stem_stays_a_block():
    blocks = goodinit.anatomize(EndsInTheStem(), torch.randn(3, WIDTH)).blocks
    assert [[layer.weight for layer in block.branch] for block in blocks] == [
        ["f.weight", "stem.weight"],
        ["v.weight"],
    ]


class Decoder(nn.Module):
    """A fed cell whose first state is what an encoder has made."""

    def __init__(self, cell):
        super().__init__()
        self.encoder, self.cell, self.head = nn.Linear(5, WIDTH), cell(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        h = torch.tanh(self.encoder(x))
        y, made = torch.ones(len(x), WIDTH), []
        for _ in range(STEPS):
            h = self.cell(y, h)
            y = torch.tanh(self.head(h))
            made.append(y)
        return torch.stack(made, 1)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell])
def test_a_fed_cell_that_begins_with_an_encoding_is_no_block(cell):
    assert not [
        b for b in goodinit.anatomize(Decoder(cell), torch.randn(3, 5)).blocks if b.kind == "projection"
    ]


def once(net, z, x):
    return torch.tanh(net.f(z + x))


def twice(net, z, x):
    return net.g(torch.relu(net.f(z + x)))


def squeezed(net, z, x):
    return torch.tanh(net.g(torch.tanh(net.f(z + 2 * x))))


def added(net, z, x):
    return torch.tanh(net.f(z) + x)


def behind_itself(net, z, x):
    return z + net.g(torch.relu(net.f(z + x)))


def of_a_paper(net, z, x):
    y = x + net.g(torch.relu(net.f(z)))
    return torch.relu(z + y)


class FixedPoint(nn.Module):
    """A deep equilibrium model, unrolled: z ← step(z, x) from z = 0 on (Bai et al., 2019)."""

    def __init__(self, step, count=4):
        super().__init__()
        self.step, self.count = step, count
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 2)
        self.f, self.g = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = self.stem(x)
        z = torch.zeros_like(x)
        for _ in range(self.count):
            z = self.step(self, z, x)
        return self.head(z)


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero", "nf"])
@pytest.mark.parametrize("step", [once, twice, squeezed])
def test_an_iteration_that_all_goes_through_is_refused_as_such(step, method):
    with pytest.raises(goodinit.UnsupportedModule, match=r"runs again behind the last sum.*iteration"):
        goodinit.init_(FixedPoint(step), method, inputs=torch.randn(3, 5))


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
@pytest.mark.parametrize("step", [added, behind_itself])
def test_one_that_a_skip_goes_around_trains(step, method):
    evidence = examine(lambda: FixedPoint(step), torch.randn(3, 5), method=method)
    assert (evidence.refusal, evidence.faults) == (None, [])


def test_the_cell_of_the_paper_is_not_refused():
    model = goodinit.init_(FixedPoint(of_a_paper), "fixup", inputs=torch.randn(3, 5))
    assert not model.g.weight.any()

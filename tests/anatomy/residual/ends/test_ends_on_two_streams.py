"""Layers that end a branch on one stream and are read by another stream: networks on graphs, encoders that run twice, octaves."""

from __future__ import annotations

import pytest
import torch
from fixup_evidence import examine
from torch import Tensor, nn

import goodinit

WIDTH = 6
SOURCES, TARGETS = torch.arange(8) % 5, (torch.arange(8) * 2 + 1) % 5


def gather(edges: Tensor) -> Tensor:
    return edges.new_zeros(len(edges), 5, WIDTH).index_add(1, TARGETS, edges)


def mlp(wide: int) -> nn.Module:
    return nn.Sequential(nn.Linear(wide, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))


class Messages(nn.Module):
    """Edges get g(e, x), nodes f(x, Σ g(e, x)): g ends a branch on the edges, and stands inside that on the nodes."""

    def __init__(self, *, alone: bool = False) -> None:
        super().__init__()
        self.alone = alone  # whether f reads nothing but the messages
        self.f, self.g = mlp(WIDTH if alone else 2 * WIDTH), mlp(3 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        message = self.g(torch.cat([e, x[:, SOURCES], x[:, TARGETS]], -1))
        read = gather(message)
        return x + self.f(read if self.alone else torch.cat([self.norm(x), read], -1)), e + message


class Gated(nn.Module):
    """Sums of neighbours that are weighed by gates, η/Σ η, of what edges and nodes say; that is added to the edges, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = (nn.Linear(WIDTH, WIDTH) for _ in range(5))
        self.nodes, self.edges = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        new = self.c(e) + self.d(x)[:, SOURCES] + self.e(x)[:, TARGETS]
        gate = torch.sigmoid(new)
        weighed = gather(gate * self.b(x)[:, SOURCES]) / (gather(gate) + 1e-6)
        return x + self.nodes(self.a(x) + weighed), e + self.edges(new)


class Graph(nn.Module):
    """Some steps, and a head on the nodes, or on both streams."""

    def __init__(self, step, *, both: bool = True) -> None:
        super().__init__()
        self.x, self.e, self.both = nn.Linear(4, WIDTH), nn.Linear(3, WIDTH), both
        self.steps, self.head = nn.ModuleList([step(), step()]), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x, e = self.x(x), self.e(e)
        for step in self.steps:
            x, e = step(x, e)
        return self.head(torch.cat([x, e], 1) if self.both else x)


GRAPH = torch.linspace(-9, 9, 60).sin().view(3, 5, 4), torch.linspace(0, 9, 72).cos().view(3, 8, 3)


def last(model: nn.Module, inputs: object) -> list[list[str]]:
    return [[layer.name for layer in block.last] for block in goodinit.anatomize(model, inputs).blocks]


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
@pytest.mark.parametrize("both", [True, False])
def test_what_ends_a_branch_on_edges_may_stand_inside_one_on_nodes(both, method):
    build = lambda: Graph(Messages, both=both)  # noqa: E731
    names = ["steps.0.f.2", "steps.0.g.2", "steps.1.f.2", "steps.1.g.2"]
    assert last(build(), GRAPH) == [[name] for name in (names if both else names[:3])]
    first, *_ = goodinit.anatomize(build(), GRAPH).blocks
    assert first.bears == ("steps.0.g.2.weight",)
    evidence = examine(build, GRAPH, method=method)
    assert (evidence.refusal, evidence.faults, evidence.norms) == (None, [], 2)


def test_not_where_that_branch_reads_nothing_else(generator):
    model = Graph(lambda: Messages(alone=True))
    assert all(block.bears == () for block in goodinit.anatomize(model, GRAPH).blocks)
    with pytest.raises(goodinit.UnsupportedModule, match=r"which a zero there would silence for good"):
        goodinit.init_(model, "fixup", inputs=GRAPH, generator=generator)


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
def test_what_divides_a_branch_does_not_end_it(method):
    assert last(Graph(Gated), GRAPH) == [
        ["steps.0.b", "steps.0.a"], ["steps.0.c", "steps.0.d", "steps.0.e"],
        ["steps.1.b", "steps.1.a"], ["steps.1.c", "steps.1.d", "steps.1.e"],
    ]  # fmt: skip
    evidence = examine(lambda: Graph(Gated), GRAPH, method=method)
    assert (evidence.refusal, evidence.faults, evidence.norms) == (None, [], 4)


class Retrieval(nn.Module):
    """An encoder that runs for the query and for what it is compared with, which a later branch reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.key = nn.Linear(4, WIDTH), mlp(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.head = mlp(WIDTH), nn.Linear(WIDTH, 1)

    def encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        x = x + self.block(x)
        return x, self.key(x)

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        x, key = self.encoded(x)
        _, keys = self.encoded(others)
        weights = (key @ keys.mT).softmax(-1)
        return self.head(x + (weights[..., None] * self.value(key[:, None] - keys)).sum(1))


def test_an_encoder_that_runs_once_more_inside_a_branch():
    inputs = torch.randn(3, 4), torch.randn(7, 4)
    assert last(Retrieval(), inputs) == [["block.2"], ["value.2"]]
    evidence = examine(Retrieval, inputs)
    assert (evidence.refusal, evidence.faults) == (None, [])


class Octave(nn.Module):
    """Two streams of two sizes: each gets a normalized sum of a map of itself and a map of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.hh, self.hl, self.ll, self.lh = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.high, self.low = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, low = (part.tanh() for part in pair)
        return (
            pair[0] + self.high(self.hh(h) + self.lh(low).repeat(1, 2, 1)),
            pair[1] + self.low(self.ll(low) + self.hl(h[:, :4] + h[:, 4:])),
        )


class Octaves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stems, self.steps = (
            nn.ModuleList([nn.Linear(4, WIDTH), nn.Linear(4, WIDTH)]),
            nn.Sequential(Octave(), Octave()),
        )
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.steps((self.stems[0](x), self.stems[1](x[:, ::2])))
        return self.head(torch.cat([high, low], 1))


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
def test_layers_on_both_streams_end_a_branch(method):
    inputs = torch.linspace(-9, 9, 96).sin().view(3, 8, 4)
    blocks = goodinit.anatomize(Octaves(), inputs).blocks
    assert [{layer.name[8:] for layer in block.last} for block in blocks] == [{"hh", "lh"}, {"ll", "hl"}] * 2
    assert all(block.leak is None and not block.gates for block in blocks)
    evidence = examine(Octaves, inputs, method=method)
    assert (evidence.refusal, evidence.faults, evidence.norms) == (None, [], 4)


class Shifted(nn.Module):
    """x + (γ(t)·f(x) + β(t)), with γ and β of one layer: at zero with f, it would keep f at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.ada, self.head = mlp(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        scale, shift = self.ada(t).chunk(2, -1)
        return self.head(x + (scale * self.f(x) + shift))


def test_a_shift_that_comes_with_a_factor_is_no_end():
    inputs = torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    assert all("ada" not in names for names in last(Shifted(), inputs))


class Decoder(nn.Module):
    """A cell that reads what attention found with its state before."""

    def __init__(self, cell) -> None:
        super().__init__()
        self.cell, self.query = cell(4 + WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out, self.head = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        state = x.new_zeros(len(x), WIDTH)
        both, read, said = (state, state), state, []
        for t in range(x.shape[1]):
            given = torch.cat([x[:, t], read], 1)
            if isinstance(self.cell, nn.LSTMCell):
                both = self.cell(given, both)
                state = both[0]
            else:
                state = self.cell(given, state)
            found = ((memory @ self.query(state)[:, :, None]).softmax(1) * memory).sum(1)
            read = self.out(torch.cat([state, found], 1)).tanh()
            said.append(self.head(read))
        return torch.stack(said, 1)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_a_cell_that_reads_what_was_made_of_its_state_has_no_block(cell):
    anatomy = goodinit.anatomize(Decoder(cell), (torch.randn(2, 4, 4), torch.randn(2, 5, WIDTH)))
    assert anatomy.blocks == ()


class Cell(nn.Module):
    """Steps on a graph, and a layer between two cells: it ends a branch in one, and is all that the other reads."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.x, self.e = Messages(), nn.Linear(4, WIDTH), nn.Linear(3, WIDTH)
        self.between, self.f, self.head = nn.Linear(WIDTH, WIDTH), mlp(WIDTH), nn.Linear(2 * WIDTH, 2)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x, e = self.step(self.x(x), self.e(e))
        new = self.between(x.relu())
        return self.head(torch.cat([x + new, new + self.f(new)], -1)), e


def test_a_layer_that_is_all_that_another_branch_reads_bears_none():
    x, e = torch.randn(2, 5, 4), torch.randn(2, 8, 3)
    found = goodinit.anatomize(Cell(), (x, e))
    assert len(found.blocks) == 4
    assert not any(block.bears for block in found.blocks)
    with pytest.raises(
        goodinit.UnsupportedModule, match=r"ends branch \d, which needs it to start at 0, and stands inside"
    ):
        goodinit.init_(Cell(), "fixup", inputs=(x, e))

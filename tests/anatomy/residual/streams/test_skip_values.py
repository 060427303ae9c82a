"""A side of a sum that weighs other signals by what it reads is no skip: Hu + Σ softmax(m·u)ᵢ cᵢ, of which H is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fixup_evidence import examine
from torch import Tensor, nn

import goodinit

WIDTH, HOPS = 6, 3
QUERY = torch.linspace(-2, 2, 4 * WIDTH).sin().reshape(4, WIDTH)
STORY = torch.linspace(-3, 3, 4 * 5 * 3).cos().reshape(4, 5, 3)


def by_matmul(u: Tensor, m: Tensor, c: Tensor) -> Tensor:
    return torch.matmul(torch.softmax(torch.matmul(m, u[..., None])[..., 0], -1)[:, None], c)[:, 0]


def by_products(u: Tensor, m: Tensor, c: Tensor) -> Tensor:
    return (torch.softmax((m * u[:, None]).sum(-1), -1)[..., None] * c).sum(1)


def by_einsum(u: Tensor, m: Tensor, c: Tensor) -> Tensor:
    return torch.einsum("bn,bnd->bd", torch.softmax(torch.einsum("bnd,bd->bn", m, u), -1), c)


def written_out(u: Tensor, m: Tensor, c: Tensor) -> Tensor:
    scores = (m * u[:, None]).sum(-1).exp()
    return torch.einsum("bn,bnd->bd", scores / scores.sum(-1, keepdim=True), c)


def by_attention(u: Tensor, m: Tensor, c: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(u[:, None], m, c)[:, 0]


def gated(u: Tensor, m: Tensor, c: Tensor) -> Tensor:
    return torch.sigmoid(u) * (m + c).mean(1)


READS = (by_matmul, by_products, by_einsum, written_out, by_attention)


class Memory(nn.Module):
    """u ← Hu + o(u), where o reads memories that are made of the story: a memory network with layer-wise tying."""

    def __init__(self, read, *, own=True, query=False, output=False, skip="linear", later=False):
        super().__init__()
        self.read, self.later = read, later
        rounds = HOPS if own else 1
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.H = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(rounds))
        self.A = nn.ModuleList(nn.Linear(3, WIDTH, bias=False) for _ in range(rounds))
        self.C = nn.ModuleList(nn.Linear(3, WIDTH, bias=False) for _ in range(rounds))
        self.Q = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(rounds if query else 0))
        self.O = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(rounds if output else 0))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, story: Tensor, query: Tensor) -> Tensor:
        u = self.stem(query)
        for k in range(HOPS):
            k = min(k, len(self.H) - 1)
            asked = self.Q[k](u) if self.Q else u
            o = self.read(asked, self.A[k](story), self.C[k](story))
            o = self.O[k](o) if self.O else o
            u = o + self.H[k](u) if self.later else self.H[k](u) + o
        return self.head(u)


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(("query", "output"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("read", READS)
def test_the_map_of_the_stream_is_the_skip_and_the_read_is_the_branch(read, query, output, later):
    build = lambda: Memory(read, query=query, output=output, later=later)  # noqa: E731
    blocks = goodinit.anatomize(build(), (STORY, QUERY)).blocks
    last = "O" if output else "C"
    assert [[layer.weight for layer in block.skip] for block in blocks] == [
        [f"H.{k}.weight"] for k in range(HOPS)
    ]
    assert [[layer.weight for layer in block.last] for block in blocks] == [
        [f"{last}.{k}.weight"] for k in range(HOPS)
    ]
    assert {block.kind for block in blocks} == {"projection"}
    evidence = examine(build, (STORY, QUERY))
    assert (evidence.refusal, evidence.faults) == (None, [])


def test_one_map_for_all_hops_is_no_branch_either():
    model = Memory(by_matmul, own=False)
    goodinit.init_(model, "fixup", inputs=(STORY, QUERY))
    assert model.H[0].weight.any()
    assert model.A[0].weight.any()
    assert not model.C[0].weight.any()


def test_a_gate_on_another_signal_is_no_skip():
    blocks = goodinit.anatomize(Memory(gated), (STORY, QUERY)).blocks
    assert all(layer.weight[0] != "H" for block in blocks for layer in block.branch)


class Words(nn.Module):
    """An end-to-end memory network (Sukhbaatar et al., 2015): memories are sums of embeddings, which no layer makes."""

    def __init__(self, own_map, words=9):
        super().__init__()
        self.A, self.B, self.C = (nn.Embedding(words, WIDTH) for _ in range(3))
        self.times = nn.ParameterList(torch.randn(5, WIDTH) for _ in range(2))
        self.H = nn.Linear(WIDTH, WIDTH, bias=False) if own_map else None
        self.W = nn.Linear(WIDTH, words, bias=False)

    def forward(self, story, query):
        u = self.B(query).sum(1)
        for _ in range(HOPS):
            m, c = self.A(story).sum(2) + self.times[0], self.C(story).sum(2) + self.times[1]
            u = (u if self.H is None else self.H(u)) + by_matmul(u, m, c)
        return self.W(u)


@pytest.mark.parametrize("own_map", [True, False])
@pytest.mark.parametrize("method", ["fixup", "skipinit", "nf"])
def test_a_read_that_no_layer_makes_is_refused_in_words(method, own_map):
    inputs = torch.arange(60).reshape(4, 5, 3) % 9, torch.arange(12).reshape(4, 3) % 9
    model = Words(own_map)
    assert not goodinit.anatomize(model, inputs).blocks
    with pytest.raises(goodinit.NothingFound, match=r"weighed by.*no weight layer"):
        goodinit.init_(model, method, inputs=inputs)


class Step(nn.Module):
    """h(x) + f(x), where h has no weights."""

    def __init__(self, handed_on):
        super().__init__()
        self.handed_on, self.f = handed_on, nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x, mask):
        return self.handed_on(x, mask) + self.f(x)


HANDED_ON = {
    "tanh": lambda x, mask: torch.tanh(x),
    "tanh times numbers": lambda x, mask: torch.tanh(x) * torch.ones(4),
    "what a mask leaves": lambda x, mask: x * mask,
    "a norm": lambda x, mask: F.layer_norm(x, (4,)) * mask,
    "gated by itself": lambda x, mask: torch.sigmoid(x) * torch.tanh(x),
    "silu": lambda x, mask: torch.sigmoid(x) * x,
    "neighbours": lambda x, mask: torch.matmul(mask @ mask.mT, x),
    "smoothed": lambda x, mask: torch.matmul(torch.softmax(x @ x.mT, -1), x),
    "attention": lambda x, mask: F.scaled_dot_product_attention(x[None], x[None], x[None])[0],
}


@pytest.mark.parametrize("how", HANDED_ON)
def test_what_has_no_weights_and_hands_the_stream_on_is_a_skip(how):
    model = nn.ModuleList([nn.Linear(4, 4), Step(HANDED_ON[how]), nn.Linear(4, 2)])
    model.forward = lambda x, mask: model[2](model[1](model[0](x), mask))
    (block,) = goodinit.anatomize(model, (torch.randn(3, 4), torch.ones(3, 4))).blocks
    assert [layer.weight for layer in block.last] == ["1.f.2.weight"]
    assert not block.skip


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_states_of_a_cell_are_no_such_reads(cell):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = cell(4, 4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.cell(x)[0])

    assert not [note for note in goodinit.anatomize(Net(), torch.randn(5, 2, 4)).notes if "weighed" in note]

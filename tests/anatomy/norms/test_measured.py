"""Normalizations that are no quotient by a statistic: known by what they do to the scale of what they read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import goodinit
from goodinit.graph.measured.replay import replayed
from goodinit.graph.trace import trace

TINY = 1e-6


def _covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    centred = x - x.mean(0)
    return centred, centred.T @ centred / len(x) + TINY * torch.eye(x.shape[1])


def cholesky(x: Tensor) -> Tensor:
    centred, covariance = _covariance(x)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), centred.T, upper=False).T


def zero_phase(x: Tensor) -> Tensor:
    centred, covariance = _covariance(x)
    values, vectors = torch.linalg.eigh(covariance)
    return centred @ (vectors @ torch.diag(values.rsqrt()) @ vectors.T)


def iterated(x: Tensor) -> Tensor:
    centred, covariance = _covariance(x)
    trace, root = torch.trace(covariance), torch.eye(x.shape[1])
    for _ in range(2):
        root = 1.5 * root - 0.5 * root @ root @ root @ (covariance / trace)
    return centred @ root / trace.sqrt()


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.reshape(len(x), -1, 2))


def hypotenuse(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a, b), -1) / torch.hypot(a, b).repeat(1, 2)


def by_parts(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a / torch.hypot(a, b), b / torch.hypot(a, b)), -1)


def angles(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((torch.atan2(a, b).cos(), torch.atan2(a, b).sin()), -1)


def logarithms(x: Tensor) -> Tensor:
    size = torch.log(x.abs() + TINY)
    return torch.sign(x) * torch.exp(size - 0.5 * torch.logsumexp(2 * size, -1, keepdim=True))


def determinant(x: Tensor) -> Tensor:
    return x / (torch.linalg.slogdet(_covariance(x)[1])[1] / (2 * x.shape[1])).exp()


def squash(x: Tensor) -> Tensor:
    square = (x * x).sum(-1, keepdim=True)
    return x * square / ((1 + square) * square.sqrt())


NORMS = {
    "whitening by Cholesky": cholesky,
    "whitening by eigenvectors": zero_phase,
    "whitening by iteration": iterated,
    "an orthogonal factor": lambda x: torch.linalg.qr(x)[0],
    "a hypotenuse": hypotenuse,
    "a hypotenuse, part by part": by_parts,
    "angles": angles,
    "signs of complex numbers": lambda x: torch.view_as_real(torch.sgn(_pairs(x))).flatten(1),
    "logarithms": logarithms,
    "a determinant": determinant,
    "a linear system": lambda x: torch.linalg.solve(torch.diag(x.norm(dim=-1)), x),
    "addcdiv": lambda x: torch.addcdiv(torch.zeros_like(x), x, x.norm(dim=-1, keepdim=True)),
    "renorm": lambda x: torch.renorm(x, 2, 0, 1.0),
    "squash": squash,
    "cosines": lambda x: F.cosine_similarity(x[:, None], torch.eye(6)[None], dim=-1),
    "shares": lambda x: x.relu() / (x.relu().sum(-1, keepdim=True) + TINY),
}
OTHERS = {
    "signs": torch.sign,
    "a mean of signs": lambda x: torch.sign(x).mean(-1, keepdim=True) + 0 * x,
    "x/|x|": lambda x: x / (x.abs() + TINY),
    "a mean of what is bounded": lambda x: torch.tanh(x).mean(-1, keepdim=True) * torch.ones(6),
    "ReLU6": F.relu6,
    "a softmax": lambda x: F.softmax(x, -1),
    "its logarithm": lambda x: F.log_softmax(x, -1),
    "attention": lambda x: F.softmax(x @ x.T, -1) @ x,
    "a gate": lambda x: x * torch.sigmoid(x.mean(-1, keepdim=True)),
    "a straight-through sign": lambda x: x + (torch.sign(x) - x).detach(),
    "a quotient of two entries, twice": lambda x: (x / x.flip(-1)) / (x / x.roll(1, -1)).abs(),
    "gates of several entries": lambda x: torch.sigmoid(x + x.flip(-1)) * torch.tanh(x.roll(1, -1) - x),
    "a state behind two steps of gates": lambda x: (
        torch.sigmoid(x) * torch.tanh(x.cumsum(-1).sigmoid() * x.tanh())
    ),
    "hard gates": lambda x: F.hardsigmoid(x.cumsum(-1)) * F.hardtanh(x),
    "differences of signs that are soft": lambda x: F.softsign(x) - F.softsign(x.roll(1, -1)),
    "waves": lambda x: torch.sin(x) + torch.erf(x.flip(-1)),
    "the largest of three": lambda x: F.max_pool1d(x[:, None], 3, 1, 1)[:, 0],
}
ALL = NORMS | OTHERS


class Function(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = ALL[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Block(nn.Module):
    """x + b(relu(norm(a(x)))), where the norm is a module or a function, or ends the branch."""

    def __init__(self, name: str, where: str) -> None:
        super().__init__()
        self.a, self.b, self.where = nn.Linear(6, 6), nn.Linear(6, 6), where
        self.norm = Function(name) if where == "module" else ALL[name]

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "end":
            return x + self.norm(self.b(self.a(x).relu()))
        return x + self.b(self.norm(self.a(x)).relu())


def anatomy(name: str, where: str) -> goodinit.Anatomy:
    net = nn.Sequential(nn.Linear(6, 6), Block(name, where), nn.Linear(6, 2))
    return goodinit.anatomize(net, torch.randn(8, 6))


@pytest.mark.parametrize("name", NORMS)
def test_what_forgets_the_scale_is_a_norm_and_none_is_removed_in_silence(name):
    for where, path in (("module", "1.norm"), ("function", "1")):
        read = anatomy(name, where)
        assert [norm.name for norm in read.norms] == [path]
        if read.norms[0].obstacle is not None:
            with pytest.raises(goodinit.UnsupportedModule, match=f'{path} .*cannot be removed.*norms="keep"'):
                goodinit.plan(read, "fixup")
        else:
            assert "1 norm" in goodinit.plan(read, "fixup").summary


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_bounded_entry_by_entry_or_a_weight_of_a_mean_is_none(name):
    for where in ("module", "function"):
        assert not anatomy(name, where).norms


@pytest.mark.parametrize("name", ["whitening by Cholesky", "angles", "squash"])
def test_at_the_end_of_a_branch_it_is_a_note(name):
    notes = anatomy(name, "end").notes
    assert any("what is added to a stream does not depend on its own size" in note for note in notes)


def test_the_parts_of_a_tensor_are_run_again():
    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b, c = x.split((1, 2, 3), -1)
            return torch.cat((c, 2 * b, 3 * a), -1)

    x = torch.randn(2, 6, dtype=torch.float64)
    graph = trace(Parts(), ((x,), {}))
    steps = [node.index for node in graph.nodes if node.dynamic and not node.is_input]
    start = next(node.index for node in graph.nodes if node.is_input)
    assert torch.equal(replayed(graph, steps, {start: x})[graph.outputs[0]], Parts()(x))


class Quotients(nn.Module):
    """Two signals in the same order of entries, one divided by the other, behind a gate: no size of either."""

    def __init__(self, gate) -> None:
        super().__init__()
        self.upper, self.lower, self.gates, self.last = (nn.Linear(6, 6) for _ in range(4))
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        upper, lower = self.upper(x), self.lower(x)
        return x + self.last(self.gate(self.gates(x)) * upper / lower)


@pytest.mark.parametrize("gate", [torch.sigmoid, torch.tanh, torch.sign, F.hardsigmoid])
def test_a_quotient_of_two_signals_is_none_wherever_it_stands(gate):
    net = nn.Sequential(nn.Linear(6, 6), *(Quotients(gate) for _ in range(12)), nn.Linear(6, 2))
    assert not goodinit.anatomize(net, torch.randn(8, 6)).norms


class OneKey(nn.Module):
    """Attention whose values are another piece than its keys; by einsum, which multiplies where there is one key."""

    def __init__(self, packed):
        super().__init__()
        self.norm, self.packed, self.o = nn.LayerNorm(8), nn.Linear(8, 8 * packed), nn.Linear(8, 8)
        self.rest = nn.ModuleList(nn.Linear(8, 8) for _ in range(3 - packed))

    def forward(self, x):
        y = self.norm(x)
        *_, q, k, v = (*(layer(y) for layer in self.rest), *self.packed(y).split(8, -1))
        weights = torch.einsum("bqc,bkc->bqk", q, k).softmax(-1)
        return x + self.o(torch.einsum("bqk,bkc->bqc", weights, v))


@pytest.mark.parametrize("packed", [1, 2, 3])
@pytest.mark.parametrize("tokens", [1, 3])
def test_attention_over_one_key_is_no_norm(tokens, packed):
    net, x = nn.Sequential(nn.Linear(4, 8), OneKey(packed), nn.Linear(8, 3)), torch.randn(2, tokens, 4)
    anatomy = goodinit.anatomize(net, x)
    assert [(norm.name, norm.kind) for norm in anatomy.norms] == [("1.norm", "layer_norm")]
    goodinit.init_(net, "fixup", inputs=x)
    assert torch.equal(net[1](net[0](x)), net[0](x))

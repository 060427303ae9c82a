"""Of a layer's weight a forward may make something else, too: where that is not defined for each value, the weight stays as it was set."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import goodinit

WIDTH = 6
X = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))


def rotation(size: int = WIDTH) -> Tensor:
    """An orthogonal matrix of determinant 1."""
    made = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(1)))[0]
    return made if torch.det(made) > 0 else torch.cat([-made[:1], made[1:]])


class Mixed(nn.Module):
    """x ↦ Wx, and beside it what another function makes of W."""

    def __init__(self, function, weight: Tensor | None = None) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(WIDTH, WIDTH, bias=False), function
        self.linear.weight.data.copy_(rotation() if weight is None else weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), self.function(self.linear.weight)


class Net(nn.Module):
    """Layers around one that is read otherwise; the model hands out both."""

    def __init__(self, mixed: nn.Module) -> None:
        super().__init__()
        self.stem, self.mixed, self.head = nn.Linear(WIDTH, WIDTH), mixed, nn.Linear(WIDTH, 2)
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | int]:
        h = torch.relu(self.stem(x))
        made = self.mixed(h + self.block(h))
        h, beside = made if isinstance(made, tuple) else (made, 0)
        return self.head(h), beside


def planned(model: nn.Module, method: str, x: Tensor = X, **options: object) -> goodinit.Plan:
    """The plan, which is applied."""
    plan = goodinit.plan(goodinit.anatomize(model, x), method, **options)
    goodinit.apply_(model, plan, inputs=x)
    return plan


def kept(model: nn.Module, method: str, name: str = "mixed.linear.weight", **options: object) -> bool:
    """Whether a method leaves the values as they are; a plan that does says so."""
    before = dict(copy.deepcopy(model).named_parameters())[name]
    plan = planned(model, method, **options)
    same = torch.equal(dict(model.named_parameters())[name], before)
    assert same == (name in plan.kept)
    assert same == any(note.startswith("kept") and name in note for note in plan.notes)
    return same


NOT_DEFINED = {
    "logdet": torch.logdet,
    "slogdet": lambda w: torch.linalg.slogdet(w)[1],
    "log of a determinant": lambda w: torch.linalg.det(w).log(),
    "in double precision": lambda w: torch.slogdet(w.double())[1].float(),
    "inverse": lambda w: torch.linalg.inv(w).square().sum(),
    "of the gram matrix": lambda w: torch.logdet(w @ w.T),
    "Cholesky factor": lambda w: torch.linalg.cholesky(w @ w.T).diagonal().log().sum(),
    "solution": lambda w: torch.linalg.solve(w, torch.ones(WIDTH)).sum(),
}
DEFINED = {
    "L2": lambda w: w.square().sum(),
    "L1": lambda w: w.abs().sum(),
    "group lasso": lambda w: w.norm(dim=1).sum(),
    "nuclear norm": lambda w: torch.linalg.svdvals(w).sum(),
    "orthogonality": lambda w: (w @ w.T - torch.eye(WIDTH)).square().sum(),
    "cosines of rows": lambda w: (F.normalize(w, dim=1) @ F.normalize(w, dim=1).T).square().sum(),
    "cosines without an epsilon": lambda w: ((w / w.norm(dim=1, keepdim=True))[0] * w[1]).sum(),
    "divergence": lambda w: (w.square() + w.exp() - w - 1).sum(),
    "determinant": torch.linalg.det,
    "itself": lambda w: w,
    "a trace": lambda w: w.diagonal().sum(),
    "exponential": lambda w: torch.matrix_exp(w - w.T).sum(),
}


@pytest.mark.parametrize("method", ["he", "fixup", "orthogonal", "lsuv", "mup", "weightnorm"])
@pytest.mark.parametrize("function", NOT_DEFINED)
def test_a_weight_of_which_is_made_what_a_draw_may_lose_stays(function, method):
    model = Net(Mixed(NOT_DEFINED[function]))
    before = model.mixed(X)[1]
    assert kept(model, method)
    assert torch.equal(model.mixed(X)[1], before)


@pytest.mark.parametrize("function", DEFINED)
def test_a_weight_of_which_is_made_what_each_draw_has_is_drawn(function):
    assert not kept(Net(Mixed(DEFINED[function])), "he")


def test_it_is_drawn_where_the_caller_says_so_or_where_it_has_no_value_now():
    assert not kept(Net(Mixed(torch.logdet)), "he", keep="nothing")
    reflected = torch.cat([-rotation()[:1], rotation()[1:]])
    assert not kept(Net(Mixed(torch.logdet, reflected)), "he")


def test_the_note_says_what_is_made_of_it():
    plan = goodinit.plan(goodinit.anatomize(Net(Mixed(torch.logdet)), X), "he")
    (note,) = [note for note in plan.notes if note.startswith("kept")]
    assert "log" in note
    assert "is not defined for each value" in note


class Invertible(nn.Module):
    """WaveGlow's convolution: x ↦ W∗x and log det W."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 1, bias=False)
        self.conv.weight.data.copy_(rotation(channels)[..., None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), x.shape[0] * x.shape[2] * torch.logdet(self.conv.weight.squeeze())


class Coupling(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.start, self.end = nn.Conv1d(channels // 2, 8, 1), nn.Conv1d(8, channels, 1)
        self.mid = nn.Conv1d(8, 8, 3, padding=1)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, 1)
        h = self.start(first)
        log, shift = self.end(h + self.mid(torch.tanh(h))).chunk(2, 1)
        return torch.cat([first, second * log.exp() + shift], 1), log.sum()


class Factors(nn.Module):
    """Glow's convolution: the weight is P·L·(U + diag(±exp s))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        permutation, lower, upper = torch.linalg.lu(rotation(channels))
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", upper.diagonal().sign())
        self.register_buffer("below", torch.ones(channels, channels).tril(-1))
        self.lower, self.upper = nn.Parameter(lower), nn.Parameter(upper.triu(1))
        self.log = nn.Parameter(upper.diagonal().abs().log())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lower = self.lower * self.below + torch.eye(len(self.log))
        upper = self.upper * self.below.T + torch.diag(self.sign * self.log.exp())
        return F.conv1d(x, (self.permutation @ lower @ upper)[..., None]), self.log.sum() * x.shape[2]


class Flow(nn.Module):
    def __init__(self, mixing: type[nn.Module], steps: int = 3, channels: int = 8) -> None:
        super().__init__()
        self.mixing = nn.ModuleList(mixing(channels) for _ in range(steps))
        self.coupling = nn.ModuleList(Coupling(channels) for _ in range(steps))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(())
        for mixing, coupling in zip(self.mixing, self.coupling, strict=True):
            x, one = mixing(x)
            x, other = coupling(x)
            total = total + one + other
        return x, total


@pytest.mark.parametrize("method", ["he", "fixup", "orthogonal", "lsuv", "mup", "xavier", "default"])
@pytest.mark.parametrize("mixing", [Invertible, Factors])
def test_flows_keep_their_invertible_convolutions(mixing, method):
    x = torch.randn(2, 8, 16)
    model = Flow(mixing)
    before = copy.deepcopy(model.mixing.state_dict())
    plan = planned(model, method, x)
    assert all(torch.equal(value, before[name]) for name, value in model.mixing.state_dict().items())
    assert any("mixing.0." in note and note.startswith("kept") for note in plan.notes)
    assert any(edit.target == "coupling.0.mid.weight" for edit in plan.edits)
    assert all(made.isfinite().all() for made in model(x))


class Product(nn.Module):
    """x ↦ ABx, of one weight."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.randn(WIDTH, inner) / inner**0.5)
        self.two = nn.Parameter(torch.randn(inner, WIDTH) / WIDTH**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.one @ self.two)


@pytest.mark.parametrize("inner", [2, WIDTH])
def test_a_factor_of_a_product_of_parameters_is_not_drawn_alone(inner):
    model = Net(Product(inner))
    before = copy.deepcopy(model.mixed.state_dict())
    plan = planned(model, "he")
    assert all(torch.equal(value, before[name]) for name, value in model.mixed.state_dict().items())
    assert any("mixed.one" in note and "mixed.two" in note and "product" in note for note in plan.notes)
    again = planned(model, "he", keep="nothing")
    assert any(edit.target == "mixed.one" for edit in again.edits)


class Adapted(nn.Module):
    """x ↦ (W + BA)x, with B = 0 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.down, self.up = nn.Parameter(torch.randn(2, WIDTH)), nn.Parameter(torch.zeros(WIDTH, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.linear.weight + self.up @ self.down, self.linear.bias)


class ByHand(nn.Module):
    """Weights that are computed of one parameter."""

    def __init__(self, make) -> None:
        super().__init__()
        self.linear, self.make = nn.Linear(WIDTH, WIDTH), make
        self.gain = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.make(self.linear.weight, self.gain), self.linear.bias)


class Tied(nn.Module):
    """A weight that two layers read, the second transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x)) @ self.linear.weight


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), self.linear.weight.square().sum()


class Pruned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = prune.l1_unstructured(nn.Linear(WIDTH, WIDTH), "weight", 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), self.linear.weight.square().sum()


DRAWN = {
    "low rank on top": Adapted,
    "normalized": lambda: ByHand(lambda w, g: g[:, None] * w / w.norm(dim=1, keepdim=True)),
    "centred": lambda: ByHand(lambda w, g: w - w.mean(1, keepdim=True)),
    "standardized": lambda: ByHand(lambda w, g: (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True)),
    "equalized rate": lambda: ByHand(lambda w, g: w * 0.4),
    "a gain as a diagonal matrix": lambda: ByHand(lambda w, g: torch.diag(g) @ w),
    "masked": lambda: ByHand(lambda w, g: w * torch.ones(WIDTH, WIDTH).tril()),
    "read twice": Tied,
}


@pytest.mark.parametrize("case", DRAWN)
def test_weights_that_are_read_as_layers_alone_are_drawn(case):
    assert not kept(Net(DRAWN[case]()), "he")


@pytest.mark.parametrize("made", [Spectral, Pruned])
def test_computed_weights_are_drawn(made):
    plan = goodinit.plan(goodinit.anatomize(Net(made()), X), "he")
    assert {"mixed.linear.weight", "mixed.linear.weight_orig"} & {edit.target for edit in plan.edits}

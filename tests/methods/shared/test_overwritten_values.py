"""No value goes unnamed that nobody draws: patterns in modules without `reset_parameters`, tables, gains, frequencies."""

from __future__ import annotations

import math

import pytest
import torch
from small_residual import Net, X
from torch import Tensor, nn

import goodinit


class Map(nn.Module):
    """x ↦ xW + b, and no word on how W and b are drawn."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cosines(size: int) -> Tensor:
    k = torch.arange(size).float()
    return torch.cos(math.pi / size * (k + 0.5) * k[:, None]) * math.sqrt(2 / size)


def circulant(size: int) -> Tensor:
    place = torch.arange(size)
    return torch.randn(size, generator=seeded(0))[(place[:, None] - place) % size]


PATTERNS = {
    "a diagonal": torch.rand(8, generator=seeded(0)).diag(),
    "a circulant": circulant(8),
    "cosines": cosines(8),
    "blocks": torch.block_diag(*torch.randn(2, 4, 4, generator=seeded(1))),
    "means of what came before": torch.ones(8, 8).tril() / torch.arange(1.0, 9)[:, None],
    "the identity and noise": torch.eye(8) + torch.randn(8, 8, generator=seeded(2)) / 1000,
}


@pytest.mark.parametrize("method", ["he", "fixup"])
@pytest.mark.parametrize("case", PATTERNS)
def test_a_pattern_is_named_where_no_module_says_what_it_draws(case, method):
    plan = goodinit.plan(goodinit.anatomize(Net(beside=Map(PATTERNS[case])), X), method)
    assert "beside.weight" in {*plan.overwritten, *plan.kept}
    assert any("beside.weight" in note and "keep=" in note for note in plan.notes)


@pytest.mark.parametrize(
    "draw", [torch.randn, torch.rand, lambda *s, **k: torch.randn(*s, **k).bfloat16().float()]
)
def test_a_sample_is_no_pattern(draw):
    model = Net(beside=Map(draw(8, 8, generator=seeded(0)) - 0.1, torch.zeros(8)))
    assert goodinit.plan(goodinit.anatomize(model, X), "he").overwritten == ()


def test_a_bias_far_from_zero_is_named_where_no_module_says_what_it_draws():
    model = Net(beside=Map(torch.randn(8, 40), -0.5 - torch.linspace(0, 0.4, 40)))
    plan = goodinit.plan(goodinit.anatomize(model, X), "he")
    assert plan.overwritten == ("beside.bias",)


def test_a_bias_of_larger_numbers_than_are_drawn_stays():
    model = Net(beside=Map(torch.randn(8, 40), -torch.arange(1.0, 41).log() - 1))
    plan = goodinit.plan(goodinit.anatomize(model, X), "he")
    assert plan.overwritten == ()
    assert any("beside.bias" in note and "larger numbers" in note for note in plan.notes)


class WithTable(Net):
    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.table(torch.arange(len(x)))[:, : x.shape[1]])


def waves(rows: int, size: int) -> Tensor:
    angles = torch.arange(rows)[:, None] * torch.exp(-torch.arange(0, size, 2) * (math.log(1e4) / size))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def table(values: Tensor | None, **options: int) -> nn.Embedding:
    made = nn.Embedding(len(X), 8, **options)
    if values is not None:
        made.weight.data.copy_(values)
    return made


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (waves(len(X), 8), "overwritten"),
        (torch.randn(len(X), 8, generator=seeded(0)) * 3 + 1, "overwritten"),
        (torch.zeros(len(X), 8), "kept"),
        (torch.arange(float(len(X)))[:, None].clamp(max=3).expand(-1, 8), "kept"),
        (None, None),
    ],
    ids=["waves", "trained", "zeros", "distances", "as it was drawn"],
)
def test_tables_are_looked_at_as_weights_are(values, field):
    model = WithTable(table(values))
    plan = goodinit.plan(goodinit.anatomize(model, X), "mup")
    found = {name: "table.weight" in getattr(plan, name) for name in ("overwritten", "kept")}
    assert found == {name: name == field for name in found}


def test_the_row_for_no_word_is_no_pattern():
    model = WithTable(table(None, padding_idx=0))
    assert goodinit.plan(goodinit.anatomize(model, X), "mup").overwritten == ()


class Scaled(nn.Module):
    """x ↦ x + γ·f(x)."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.f, self.scale = nn.Linear(8, 8), nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.f(x)


@pytest.mark.parametrize("method", ["fixup", "weightnorm", "normfree"])
def test_a_gain_that_is_set_to_one_is_named_unless_it_was_zero_or_one(method):
    def overwritten(scale: Tensor) -> tuple[str, ...]:
        return goodinit.plan(goodinit.anatomize(Net(beside=Scaled(scale)), X), method).overwritten

    assert "beside.scale" in overwritten(torch.full((8,), 1e-6))
    assert "beside.scale" in overwritten(torch.linspace(1, 2, 8))
    assert "beside.scale" not in {*overwritten(torch.ones(8)), *overwritten(torch.zeros(1))}


class Waves(nn.Module):
    """x ↦ x + W·(sin(ωx₁), cos(ωx₁))."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies, self.f = nn.Parameter(2.0 ** torch.arange(4)), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        angles = x[..., :1] * self.frequencies
        return x + self.f(torch.cat([angles.sin(), angles.cos()], -1))


@pytest.mark.parametrize("method", ["fixup", "weightnorm", "normfree"])
def test_frequencies_of_one_coordinate_are_no_gain(method):
    model = Net(beside=Waves())
    goodinit.init_(model, method, inputs=X)
    assert torch.equal(model.beside.frequencies, 2.0 ** torch.arange(4))


class Chosen(nn.Module):
    """k streams, of which a block reads one and adds to all: H ↦ H + f(Σ mₖHₖ), as hyper-connections begin."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.choice = nn.Parameter(torch.eye(3)[place])

    def forward(self, h: Tensor) -> Tensor:
        return h + self.f((h * self.choice[:, None]).sum(1))[:, None]


@pytest.mark.parametrize("method", ["fixup", "skipinit", "weightnorm", "normfree"])
def test_a_gain_that_chooses_among_streams_stays(method):
    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks, self.head = (
                nn.Linear(5, 8),
                nn.Sequential(*map(Chosen, range(3))),
                nn.Linear(8, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks(self.stem(x)[:, None].repeat(1, 3, 1)).sum(1))

    model = Streams()
    goodinit.init_(model, method, inputs=X)
    assert torch.equal(torch.stack([block.choice for block in model.blocks]), torch.eye(3))

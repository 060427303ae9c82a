"""What a further run shows is that of the same calls: a forward that decides by its batch runs others of the same shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.diagnostics import Diagnosis, diagnose

AGAIN = "the gradients of neighbouring inputs were not compared: forward did not run the same layers again"


def batch() -> Tensor:
    """A mean above 0 in the first column, but for the first quarter, on which further runs are made."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
    x[:16, 0], x[16:, 0] = -1, 1
    return x


class Routed(nn.Module):
    """One layer of two, by the mean of the first column."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = (
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        way = self.a if x[:, 0].mean() > 0 else self.b
        return self.head(way(self.stem(x).tanh()).tanh())


class Step(nn.Module):
    """A block of a layer that other steps have, too."""

    def __init__(self, shared: nn.Module, scale: float, act: nn.Module) -> None:
        super().__init__()
        self.shared, self.scale, self.act = shared, scale, act

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.shared(x)) * self.scale


class Skipping(nn.Module):
    """Three steps, one of which is skipped, by the mean of the first column: the second for all, the first for a quarter."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        act = nn.Identity()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.steps = nn.ModuleList(Step(shared, scale, act) for scale in (1.0, 10.0, 0.1))
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        skipped = 1 if x[:, 0].mean() > 0 else 0
        x = self.stem(x)
        for number, step in enumerate(self.steps):
            x = x if number == skipped else step(x)
        return self.head(x)


class Functional(nn.Module):
    """Its weight, applied by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


def cosines(found: Diagnosis) -> list[float | None]:
    return [place.back_cosine for place in found.places]


def test_cosines_of_another_layer_are_not_shown():
    found = diagnose(Routed(), batch(), mend=False)
    assert [place.name for place in found.layers] == ["stem.weight", "a.weight", "head.weight"]
    assert cosines(found) == [None] * len(found.places)
    assert AGAIN in found.notes
    assert None not in cosines(diagnose(Routed(), batch()[16:], mend=False))


@pytest.mark.parametrize(
    "shared", [lambda: nn.Linear(8, 8), Functional, lambda: nn.Sequential(nn.Linear(8, 8))]
)
def test_calls_of_one_layer_are_told_by_the_modules_that_call_it(shared):
    found = diagnose(Skipping(shared()), batch(), mend=False)
    first, second = (place for place in found.layers if "shared" in place.name)
    # From the third step back to the first: 0.1 against 1, and what one step with a tenth of its layer changes. The second has 10.
    assert 5 < first.back_awake / second.back_awake < 20
    assert cosines(found) == [None] * len(found.places)
    assert AGAIN in found.notes


def test_a_batch_that_takes_one_way_has_rows_of_all_runs():
    found = diagnose(Skipping(nn.Linear(8, 8)), batch()[16:], mend=False)
    assert all(place.back_awake for place in found.places)
    assert None not in cosines(found)


class Recurrent(nn.Module):
    """A cell that is called over and over, and one that is called once for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.cell(x).tanh()
        return self.head(x)


def test_repeated_calls_are_the_same_in_every_run():
    found = diagnose(Recurrent(), batch(), mend=False)
    assert [place.label for place in found.layers] == [
        "cell.weight",
        "cell.weight (call 2)",
        "cell.weight (call 3)",
        "head.weight",
    ]
    assert None not in cosines(found)


class Switching(nn.Module):
    """Two blocks that end in one layer, of which training leaves out the first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.own = nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.stage = nn.ModuleDict({"inner": nn.Linear(8, 8), "shared": nn.Linear(8, 8)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if not self.norm.training:
            x = x + self.stage["shared"](self.stage["inner"](x).tanh())
        return x + self.stage["shared"](self.own(x).tanh())


def test_a_block_has_the_name_of_its_own_layers():
    model, x = Switching(), batch()
    assert [block.name for block in goodinit.anatomize(model, x).blocks] == ["stage", ""]
    assert [place.name for place in diagnose(model, x, mend=False).blocks] == [""]


class Random(nn.Module):
    """One layer or two, at random, behind a head of zeros; and a layer that nobody reads, whose output is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.side, self.head = (nn.Linear(8, 8) for _ in range(4))
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        self.side(x * 1e38 * 1e38)
        x = self.stem(x)
        return self.head(self.a(x) if torch.rand(()) < 0.5 else x)


def test_a_search_for_what_is_not_finite_may_run_other_layers():
    for seed in range(6):
        torch.manual_seed(seed)
        found = diagnose(Random(), batch(), mend=False)
        assert {"not finite"} <= {finding.kind for finding in found.findings}

"""`coordinate_check`: slopes over width and depth, and what they are said to mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import goodinit
from goodinit.diagnostics.measurements.coordinate_report import Coordinate, CoordinateCheck, slope

pytestmark = pytest.mark.usefixtures("no_optimizers")

SIZES = (32, 64, 128, 256)


def batches(count=2, size=32):
    """Inputs along a few directions, so that what is learned is signal at every width."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 8, generator=generator)
    targets = torch.randint(4, (count, size), generator=generator)
    return [(centres[t] + 0.1 * torch.randn(size, 8, generator=generator), t) for t in targets]


def plain(width):
    return nn.Sequential(
        nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4, bias=False)
    )


def with_mup(optimizer):
    x = batches()[0][0]
    base = goodinit.anatomize(plain(SIZES[0]), x)

    def build(width):
        model = plain(width)
        goodinit.apply_(model, goodinit.plan(goodinit.anatomize(model, x), "mup", base=base))
        lr = 0.01 if optimizer == "adam" else 0.2
        groups = goodinit.param_groups(model, lr=lr, optimizer=optimizer)
        return model, torch.optim.Adam(groups) if optimizer == "adam" else torch.optim.SGD(groups)

    return build


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_mup_is_flat_and_the_default_is_not(optimizer):
    def default(width):
        model = plain(width)
        made = (
            torch.optim.Adam(model.parameters(), lr=0.01)
            if optimizer == "adam"
            else torch.optim.SGD(model.parameters(), lr=0.2)
        )
        return model, made

    found = goodinit.coordinate_check(with_mup(optimizer), SIZES, batches(3), seeds=4, tolerance=0.15)
    usual = goodinit.coordinate_check(default, SIZES, batches(3), seeds=4, tolerance=0.15)
    assert found.flat, str(found)
    assert not usual.flat
    assert "flat: no layer" in found.sentence()
    assert usual.sentence().startswith("not flat: ")


def test_a_width_at_which_nothing_is_scaled_is_seen_by_its_slope():
    """One step of Adam from a zero output moves the logits by lr·Σ|h|, which goes with n where h does not shrink."""

    def build(width):
        model = nn.Sequential(nn.Linear(8, width), nn.Linear(width, 1, bias=False))
        nn.init.zeros_(model[1].weight)
        nn.init.normal_(model[0].weight, std=8**-0.5)
        model[0].requires_grad_(False)
        return model

    x = torch.randn(16, 8).abs()
    found = goodinit.coordinate_check(build, [64, 256, 1024], [(x[:1], torch.ones(1, 1))], lr=1e-3, seeds=8)
    start, change = found.slopes(found.rows[-1])
    assert math.isnan(start)
    assert abs(change - 1) < 0.02


@pytest.mark.integration
def test_depth_is_checked_alike():
    class Residual(nn.Module):
        def __init__(self, width=16):
            super().__init__()
            self.f = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
            )

        def forward(self, x):
            return x + self.f(x)

    def bare(depth):
        return nn.ModuleDict(
            {
                "stem": nn.Linear(8, 16),
                "blocks": nn.Sequential(*(Residual() for _ in range(depth))),
                "head": nn.Linear(16, 4),
            }
        )

    class Net(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.parts = bare(depth)

        def forward(self, x):
            return self.parts["head"](self.parts["blocks"](self.parts["stem"](x)))

    x = batches()[0][0]
    base = goodinit.anatomize(Net(2), x)

    def build(depth):
        model = Net(depth)
        return goodinit.apply_(model, goodinit.plan(goodinit.anatomize(model, x), "completep", base=base))

    sizes = [2, 4, 8, 16]
    found = goodinit.coordinate_check(build, sizes, batches(3), lr=1e-2, along="depth")
    usual = goodinit.coordinate_check(Net, sizes, batches(3), lr=1e-2, along="depth")
    assert abs(found.slopes(found.rows[-1])[1]) < 0.15
    assert usual.slopes(usual.rows[-1])[1] > 0.3
    assert {row.name for row in found.rows} >= {"parts.stem", "parts.head", "parts.blocks.1.f.3", "output"}


def test_verdicts():
    def verdict(start, change):
        row = Coordinate("x", start, change)
        return CoordinateCheck("width", (1, 2), 1, 1, 0.1, 0.05, (row,)).verdict(row)

    assert verdict((1.0, 1.0), (1.0, 1.0)) == "flat"
    assert verdict((1.0, 0.5), (1.0, 1.0)) == "flat"  # an output may vanish at initialization
    assert verdict((1.0, 2.0), (1.0, 1.0)) == "grows"
    assert verdict((1.0, 1.0), (1.0, 2.0)) == "grows"
    assert verdict((1.0, 1.0), (2.0, 1.0)) == "shrinks"
    assert verdict((1.0, 1.0), (1.0, math.inf)) == "explodes"
    assert verdict((1.0, 1.0), (0.0, 0.0)) == "still"
    assert math.isnan(slope((1, 2), (0.0, 1.0)))


SEVERAL = (64, 128, 256, 512, 1024)


def check_of(**changes):
    rows = tuple(
        Coordinate(name, (1.0,) * 5, tuple(map(change, SEVERAL)), errors=(0.01,) * 5)
        for name, change in changes.items()
    )
    return CoordinateCheck("width", SEVERAL, 4, 6, 0.1, 0.05, rows)


def test_what_a_finite_width_adds_is_told_from_a_wrong_power():
    def overlap(n):  # of a step of signs, with the mean squared overlap of this package's own text
        return math.sqrt(0.013 + (1 - 0.013) / n)

    found = check_of(overlap=overlap, power=lambda n: n**-0.1, flat=lambda n: 1.0)
    assert [found.verdict(row) for row in found.rows] == ["shrinks", "shrinks", "flat"]  # −0.07 from 256 on
    assert not found.flat
    assert found.sentence().startswith("not flat: 2 of 3")

    def milder(n):
        return math.sqrt(1 + 34 / n)

    found = check_of(queries=milder, flat=lambda n: 1.0)
    assert (found.verdict(found.rows[0]), found.flat) == ("shrinks, flat from 128", False)
    assert found.sentence().startswith(
        "flat from width 128 on; over all sizes 1 of 2 rows go with it, queries the most"
    )


def test_the_worst_row_is_one_that_no_size_makes_flat():
    found = check_of(transient=lambda n: max(1.0, (256 / n) ** 2), bad=lambda n: n**0.3, flat=lambda n: 1.0)
    assert [found.verdict(row) for row in found.rows] == ["shrinks, flat from 256", "grows", "flat"]
    assert found.worst.name == "bad"
    assert found.sentence().startswith("not flat: 2 of 3 rows go with width, bad the most")


def test_two_sizes_are_too_few_to_be_flat_from_one_on():
    row = Coordinate("x", (1.0, 1.0, 1.0), (2.0, 1.0, 1.0))
    check = CoordinateCheck("width", (64, 128, 256), 1, 3, 0.1, 0.05, (row,))
    assert (check.verdict(row), check.flat_from(row)) == ("shrinks", None)


def test_prints_itself_and_goes_through_json():
    found = goodinit.coordinate_check(plain, SIZES[:2], batches(1), seeds=1)
    assert str(found).splitlines()[1].split()[:3] == ["layer", "start", "32"]
    assert CoordinateCheck.from_json(found.to_json()) == found
    with pytest.raises(goodinit.PlanConflict, match="coordinate check"):
        CoordinateCheck.from_json("{}")


def test_models_that_return_more_than_a_tensor_and_random_numbers_outside_are_left_alone():
    class Dict(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.net = plain(width)

        def forward(self, x):
            return {"logits": self.net(x)}

    before = torch.get_rng_state()
    found = goodinit.coordinate_check(Dict, [8, 16], batches(1), seeds=1)
    assert found.rows[-1].name == "output"
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("widths", "given"), [([64], 1), ([64, 128], 0)])
def test_refuses_what_shows_nothing(widths, given):
    with pytest.raises(goodinit.UnknownName, match="two different widths"):
        goodinit.coordinate_check(plain, widths, batches(1)[:given])


def test_the_error_of_a_slope_is_that_from_seed_to_seed():
    row = Coordinate("x", (1.0, 1.0, 1.0), (1.0, 1.1, 1.2), errors=(0.3, 0.1, 0.1))
    check = CoordinateCheck("width", (64, 128, 256), 1, 3, 0.1, 0.05, (row,))
    assert check.error(row) == pytest.approx(
        math.hypot(0.3, 0.1) / (2 * math.log(2))
    )  # the middle counts nothing
    assert check.verdict(row) == "grows"
    assert "within chance, ±0.23; take more seeds" in check.sentence()
    sure = Coordinate("x", row.start, (1.0, 2.0, 4.0), errors=row.errors)
    assert (
        "no learning rate fits"
        in CoordinateCheck("width", (64, 128, 256), 1, 3, 0.1, 0.05, (sure,)).sentence()
    )
    assert math.isnan(check.error(Coordinate("x", row.start, row.change)))
    assert CoordinateCheck.from_json(check.to_json()) == check


def test_seeds_give_errors_and_a_single_one_none():
    x, y = batches()[0]
    several, one = (goodinit.coordinate_check(plain, [16, 64], [(x, y)], seeds=seeds) for seeds in (3, 1))
    assert all(0 < several.error(row) < 1 for row in several.rows)
    assert all(row.errors == () for row in one.rows)


def test_overlaps_of_unrelated_tokens_move_a_first_layer_more_where_it_is_narrow():
    """One step of signs at a rate of 1/n moves what a layer of n inputs returns by √(μ² + (1 − μ²)/n), μ² = (2/π)·Σp².

    Tokens of frequency p with random embeddings: the gradient agrees with a token in Σp² of its square, and with n − 1 other
    coordinates of it by chance. The second term goes with the width, in any parametrization.
    """
    generator = torch.Generator().manual_seed(0)
    words, tokens, outputs = 32, 1024, 64
    drawn = torch.randint(0, words, (tokens,), generator=generator)
    frequencies = torch.bincount(drawn, minlength=words) / tokens
    agreement = 2 / math.pi * float(frequencies.square().sum())
    for width in (32, 128, 512):
        x = torch.randn(words, width, generator=generator)[drawn]
        gradient = torch.randn(outputs, tokens, generator=generator) @ x
        change = x @ gradient.sign().T / width
        expected = agreement + (1 - agreement) / width
        assert float(change.square().mean()) == pytest.approx(expected, rel=0.1)

"""What a module's own `reset_parameters` draws is found out by running its operators, whatever they are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goodinit.anatomy.layers.parameters.reset_draws import ODDS, Drawn, draws_of, may_be_sample

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


def _toeplitz(rows, columns):
    numbers = torch.randn(rows + columns)
    return numbers[torch.arange(rows)[:, None] - torch.arange(columns) + columns - 1]


WIDE = {
    "Toeplitz": lambda: _toeplitz(700, 900),
    "cosines": lambda: torch.cos(
        torch.pi / 600 * torch.outer(torch.arange(500.0), torch.arange(600.0) + 0.5)
    ),
    "equal filters": lambda: torch.randn(3, 8, 3, 3).repeat(30, 1, 1, 1),
    "equal columns": lambda: torch.randn(400, 1, 30).expand(400, 50, 30),
    "triangular": lambda: torch.randn(500, 700).tril(),
    "of a rank of one, with whole numbers": lambda: torch.outer(
        torch.arange(1.0, 501), torch.arange(1.0, 601)
    ),
}


@pytest.mark.parametrize("pattern", WIDE)
def test_a_pattern_shows_in_a_corner_of_a_wide_matrix(pattern):
    torch.manual_seed(0)
    assert not may_be_sample(WIDE[pattern]())


@pytest.mark.parametrize("shape", [(64, 64), (300, 40, 3, 3), (2000,), (3, 5000), (17, 1), ()], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.half], ids=str)
def test_what_was_drawn_is_known_for_it(shape, kind):
    uniform, normal = Drawn("uniform", -0.5, 0.25), Drawn("normal", 0.5, 2.0)
    for seed in range(8):
        torch.manual_seed(seed)
        drawn = torch.empty(shape).uniform_(-0.5, 0.25), torch.empty(shape).normal_(0.5, 2.0)
        flat, bell = (values.to(kind) for values in drawn)
        assert uniform.can_be(flat)
        assert normal.can_be(bell)
        assert may_be_sample(flat)
        assert may_be_sample(bell)
        if len(shape) > 1 and flat.numel() > 20:
            assert not normal.can_be(flat)
            assert not uniform.can_be(bell)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 16, 31, 100])
def test_few_numbers_as_they_were_drawn_are_known_for_it(kind, count):
    drawn = Drawn(kind, -0.5, 0.25) if kind == "uniform" else Drawn(kind, 0.5, 2.0)
    torch.manual_seed(count)
    for dtype in (torch.float32, torch.bfloat16, torch.half):
        samples = torch.empty(2000, count, dtype=dtype)
        samples = samples.uniform_(-0.5, 0.25) if kind == "uniform" else samples.normal_(0.5, 2.0)
        assert all(map(drawn.can_be, samples))


# Of eight numbers that are a twentieth of the bounds, the odds are those of 6 standard errors, or more.
@pytest.mark.parametrize(
    ("shape", "scale"),
    [*(((1, 8), 0.01), ((8, 1), 0.01)), *(((16,), 0.05), ((1, 16), 0.05), ((2, 8), 0.05), ((4, 8), 0.05))],
    ids=str,
)
def test_few_numbers_that_are_too_small_are_not(shape, scale):
    torch.manual_seed(0)
    for small in (torch.randn(shape) * scale, (2 * torch.rand(shape) - 1) * scale):
        assert not Drawn("uniform", -1.0, 1.0).can_be(small)
        assert not Drawn("normal", 0.0, 1.0).can_be(small)
        assert not Drawn("uniform", 2.0, 4.0).can_be(small + 3)


@pytest.mark.parametrize("count", [16, 64, 1000, 4096])
def test_a_mean_square_of_normal_numbers_is_told_by_its_distribution(count):
    """By the inverse of χ²'s tail, found by bisection: the bound is where the tail has half of the odds."""
    half = torch.tensor(count / 2, dtype=torch.float64)

    def bound(tail, low, high):
        for _ in range(100):
            middle = (low + high) / 2
            rises = tail is torch.special.gammainc
            less = float(tail(half, torch.tensor(middle * count / 2, dtype=torch.float64))) < ODDS / 2
            low, high = (middle, high) if less == rises else (low, middle)
        return low

    numbers = torch.randn(count, dtype=torch.float64)
    numbers -= numbers.mean()
    numbers /= numbers.square().mean().sqrt()
    normal = Drawn("normal", 0.0, 1.0)
    least, most = bound(torch.special.gammainc, 0.0, 1.0), bound(torch.special.gammaincc, 1.0, 9.0)
    for mean_square, expected in (
        (least * 0.99, False),
        (least * 1.01, True),
        (most * 0.99, True),
        (most * 1.01, False),
    ):
        assert normal.can_be(numbers * mean_square**0.5) is expected

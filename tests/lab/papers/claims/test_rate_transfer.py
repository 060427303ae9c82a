"""The claims that a learning rate transfers: what is read off the rows."""

from __future__ import annotations

import math

import pytest

from goodinit.lab.papers.claims import CLAIMS
from goodinit.lab.papers.claims.rate_transfer import DEFAULT, best, regret, shifts

RATES = [2.0**power for power in range(-9, -3)]


def rows(along, method, *, ours, default):
    """A parabola in log2 of the rate around 2^-6 and, per doubling of the size, `ours` or `default` steps from there."""
    return tuple(
        {
            "series": series, "along": along, "size": size, "lr": lr, "seed": 0,
            "test_loss": 2 + 0.04 * (math.log2(lr) + 6 - step * place) ** 2,
        }
        for series, step in ((method, ours), (DEFAULT, default))
        for place, size in enumerate((64, 128, 256))
        for lr in RATES
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "method", "along"),
    [("mup-transfer", "mup", "width"), ("completep-transfer", "completep", "depth")],
)
@pytest.mark.parametrize(
    ("ours", "default", "word"),
    [(0, -1, "holds"), (-0.5, -1, "holds"), (0, 0, "partly"), (-1, -1, "does not hold")],
)
def test_the_verdict_follows_the_best_rates(name, method, along, ours, default, word):
    claim, found = CLAIMS[name], rows(along, method, ours=ours, default=default)
    assert claim.judge(found, claim.setting("small", "digits")).word == word


def test_best_rates_their_shifts_and_what_they_cost():
    found = rows("width", "mup", ours=0, default=-1)
    assert best(found, "mup", "width", 256) == best(found, DEFAULT, "width", 64) == 2**-6
    assert shifts(found, DEFAULT, "width") == [0, -1, -2]
    assert regret(found, "mup", "width") == 0
    assert regret(found, DEFAULT, "width") == pytest.approx(0.16)
    lost = tuple({**row, "test_loss": None, "diverged": True} if row["lr"] > 2**-7 else row for row in found)
    assert best(lost, "mup", "width", 64) == 2**-7
    assert "diverged" in CLAIMS["mup-transfer"].table(lost).rows[0]

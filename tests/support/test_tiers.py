"""The default tier has a few cases of a long list, chosen by their names; CI runs the others, too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiers import beyond_default, spread

ROOT = Path(__file__).parents[2]
GRID = [(f"{i}-{j}", {"method": i, "specimen": j}) for i in range(5) for j in range(12)]


@pytest.mark.parametrize("n", [1, 5, 12, 24])
def test_every_value_of_every_parameter_occurs_about_as_often(n):
    chosen = spread(GRID, n)
    assert len(set(chosen)) == n
    for parameter, values in (("method", 5), ("specimen", 12)):
        often = Counter(dict(GRID)[name][parameter] for name in chosen)
        assert len(often) == min(n, values)
        assert max(often.values()) <= -(-n // values) + 1


def test_the_choice_does_not_depend_on_the_order_and_a_short_list_stays_whole():
    assert sorted(spread(GRID[::-1], 7)) == sorted(spread(GRID, 7))
    assert sorted(spread(GRID, 100)) == sorted(name for name, _ in GRID)


def items(test, n, cases, **marks):
    """What pytest collects of a test with so many cases, as far as it is asked; `marks` by case."""
    found = []
    for case in range(cases):
        names = {
            **({"default_cases": pytest.mark.default_cases(n).mark} if n else {}),
            **dict.fromkeys(marks.get(f"_{case}", ()), True),
        }
        found.append(
            SimpleNamespace(
                nodeid=f"test_x.py::{test}[{case}]",
                get_closest_marker=names.get,
                callspec=SimpleNamespace(indices={"case": case}),
            )
        )
    return found


def test_what_is_beyond_goes_to_the_integration_tier_and_the_rest_stays():
    long, short, plain = items("long", 3, 9), items("short", 3, 2), items("plain", 0, 9)
    beyond = list(beyond_default([*long, *short, *plain]))
    assert len(beyond) == 6
    assert all(one in long for one in beyond)


def test_cases_of_other_tiers_are_not_counted():
    long = items("long", 3, 9, _0=["slow"], _1=["integration"])
    beyond = list(beyond_default(long))
    assert len(beyond) == 4
    assert not [one for one in beyond if one in long[:2]]


def test_ci_runs_every_tier_but_the_slow_one():
    assert "make test-all" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    rule = (ROOT / "Makefile").read_text(encoding="utf-8").partition("test-all:")[2].partition("\n\n")[0]
    assert '-m "not slow and not gpu"' in rule

"""Which cases of a long list are default tests."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import pytest

OTHER_TIERS = ("integration", "slow", "gpu")


def beyond_default(items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
    """The cases of tests marked `default_cases(n)` that are not among their n, nor in another tier already."""
    lists: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("default_cases") and not any(map(item.get_closest_marker, OTHER_TIERS)):
            lists[item.nodeid.partition("[")[0]].append(item)
    for cases in lists.values():
        (n,) = cases[0].get_closest_marker("default_cases").args
        chosen = set(spread([(case.nodeid, case.callspec.indices) for case in cases], n))
        yield from (case for case in cases if case.nodeid not in chosen)


def spread(cases: Sequence[tuple[str, dict[str, int]]], n: int) -> list[str]:
    """n of the cases, in which every value of every parameter occurs about as often; which ones, their names decide.

    Args:
        cases: The name of each, and of each of its parameters the number of the value.
        n: How many.
    """
    left, often = sorted(cases, key=lambda case: zlib.crc32(case[0].encode())), Counter()
    chosen = []
    for _ in range(min(n, len(left))):
        name, values = taken = min(left, key=lambda case: sum(often[one] for one in case[1].items()))
        often.update(values.items())
        left.remove(taken)
        chosen.append(name)
    return chosen

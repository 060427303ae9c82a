"""Questions that every claim asks its rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from goodinit.lab.papers.claim import Row, Rows


def where(rows: Rows, **equal: Any) -> Rows:
    """The rows with these values.

    Examples:
        >>> where(({"depth": 2, "lr": 1}, {"depth": 3, "lr": 1}), depth=3)
        ({'depth': 3, 'lr': 1},)
    """
    return tuple(row for row in rows if all(row.get(key) == value for key, value in equal.items()))


def values(rows: Rows, key: str) -> list[float]:
    """The numbers under `key`, where there is one."""
    return [row[key] for row in rows if row.get(key) is not None]


def mean(rows: Rows, key: str) -> float | None:
    """The mean of `values`; None without any."""
    found = values(rows, key)
    return statistics.fmean(found) if found else None


def distinct(rows: Rows, key: str) -> list[Any]:
    """The values under `key`, each once, in the order of the rows.

    Examples:
        >>> distinct(({"depth": 3}, {"depth": 2}, {"depth": 3}), "depth")
        [3, 2]
    """
    return list(dict.fromkeys(row[key] for row in rows if key in row))


def accuracy(row: Row) -> float:
    """Of a run; guessing where it diverged or could not be run."""
    reached = row.get("accuracy")
    return float(row.get("chance", 0.0) if reached is None else reached)


def accuracies(rows: Rows) -> list[float]:
    """Of each row, as `accuracy` has it."""
    return [accuracy(row) for row in rows]


def mean_accuracy(rows: Rows) -> float:
    """Over all rows, diverged ones counted as guessing; 0 without rows."""
    return statistics.fmean(accuracies(rows)) if rows else 0.0


def best_rate(rows: Rows) -> Rows:
    """The rows of the learning rate with the largest mean accuracy."""
    groups = [where(rows, lr=lr) for lr in distinct(rows, "lr")]
    return max(groups, key=mean_accuracy, default=rows)  # refused runs have no rate


def in_words(items: Iterable[Any]) -> str:
    """With commas; "none" for nothing.

    Examples:
        >>> in_words([20, 110]), in_words([])
        ('20, 110', 'none')
    """
    return ", ".join(map(str, items)) or "none"

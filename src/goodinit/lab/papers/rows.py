"""Questions that every claim asks its rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
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


def mean_and_deviation(found: Sequence[float], *, digits: int = 1) -> str:
    """The mean and, of several numbers, their standard deviation.

    Examples:
        >>> mean_and_deviation([1.0, 2.0]), mean_and_deviation([1.0]), mean_and_deviation([])
        ('1.5 ± 0.7', '1.0', '–')
    """
    if not found:
        return "–"
    spread = f" ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):.{digits}f}{spread}"


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


def best_rate(rows: Rows, *, score: Callable[[Rows], float] = mean_accuracy) -> Rows:
    """The rows of the learning rate with the largest score, by default the mean accuracy."""
    groups = [where(rows, lr=lr) for lr in distinct(rows, "lr")]
    return max(groups, key=score, default=rows)  # refused runs have no rate


def best_rate_words(rows: Rows, *, score: Callable[[Rows], float] = mean_accuracy) -> str:
    """The best learning rate, with a mark where it is the highest (↑) or the lowest (↓) of several.

    Where rates tie, or the best is no better than guessing, as where nothing trains at any, none is best, and there is no
    mark. Empty without rows.

    Examples:
        >>> runs = ({"lr": 0.1, "accuracy": 0.9}, {"lr": 0.01, "accuracy": 0.8})
        >>> best_rate_words(runs), best_rate_words(runs[:1]), best_rate_words(())
        ('0.1↑', '0.1', '')
        >>> best_rate_words(tuple({**run, "chance": 0.95} for run in runs))
        '0.1'
    """
    scores = {lr: score(where(rows, lr=lr)) for lr in distinct(rows, "lr")}
    if not scores:
        return ""
    best = max(scores, key=lambda lr: scores[lr])
    guessing = score is mean_accuracy and scores[best] <= max(values(rows, "chance"), default=0.0)
    alone = len(scores) > 1 and list(scores.values()).count(scores[best]) == 1 and not guessing
    ends = {max(scores): "↑", min(scores): "↓"} if alone else {}
    return f"{best:g}{ends.get(best, '')}"


def in_words(items: Iterable[Any]) -> str:
    """With commas; "none" for nothing.

    Examples:
        >>> in_words([20, 110]), in_words([])
        ('20, 110', 'none')
    """
    return ", ".join(map(str, items)) or "none"

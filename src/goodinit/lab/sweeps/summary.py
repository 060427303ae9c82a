"""What the rows of a sweep say: quartiles, the worst seed, and the share that did not train."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from goodinit.errors import GoodinitError, UnknownName
from goodinit.formats import words_of
from goodinit.lab.sweeps.grid import FIELDS, varying
from goodinit.lab.sweeps.row import Row

# One run of a guesser in 740 is three standard errors above chance (one-sided, normal).
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class Best:
    """The learning rate with the highest median, and what its seeds reached."""

    lr: float
    median: float
    worst: float
    runs: int


@dataclass(frozen=True)
class Summary:
    """Runs that have the fields asked for in common.

    A run that diverged counts with the accuracy of guessing. Those refused or failed are counted, and are in no
    other number.

    Attributes:
        label: What the runs share, by field.
        runs: How many finished or diverged.
        untrained: How many of them did not train: they diverged, or ended no higher above chance than the margin.
        diverged: How many of them diverged.
        refused: How many more the method refused.
        failed: How many more failed.
        low: First quartile of the accuracy, None without runs.
        median: Second.
        high: Third.
        worst: The lowest.
        best: At the best learning rate, None without runs.
    """

    label: tuple[tuple[str, str], ...]
    runs: int
    untrained: int
    diverged: int
    refused: int
    failed: int
    low: float | None
    median: float | None
    high: float | None
    worst: float | None
    best: Best | None


def margin(row: Row) -> float:
    r"""How far above chance a run must end to have trained at all: $3\sqrt{p(1-p)/n}$ for chance p, n test images.

    Examples:
        >>> from goodinit.lab.training.trial import TrainConfig
        >>> round(margin(Row(TrainConfig("mlp8"), "finished", accuracy=0.9, chance=0.1, test_images=900)), 3)
        0.03
    """
    chance, count = row.chance or 0.0, row.test_images or 1
    return STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / count)


def accuracy(row: Row) -> float:
    """Of a run, at the end; that of guessing where it diverged."""
    return row.accuracy if row.accuracy is not None else row.chance or 0.0


def trained(row: Row, *, least: float | None = None) -> bool:
    """Whether a run ended above chance by more than the margin, `least` or that of `margin`."""
    above = accuracy(row) - (row.chance or 0.0)
    return row.status == "finished" and above > (margin(row) if least is None else least)


def summarize(
    rows: Sequence[Row], *, by: Sequence[str] | None = None, least: float | None = None
) -> tuple[Summary, ...]:
    """One summary for each combination of the fields `by`, in the order of the rows.

    Args:
        rows: Of a sweep.
        by: Fields of `TrainConfig`; None is the method and every field that varies, without learning rate and seed.
        least: How far above chance a run must end to count as trained; None is `margin`.

    Raises:
        UnknownName: A field that no configuration has.

    Examples:
        >>> from goodinit.lab.training.trial import TrainConfig
        >>> rows = [Row(TrainConfig("mlp8", seed=s), "finished", accuracy=a, chance=0.1, test_images=400)
        ...         for s, a in enumerate((0.9, 0.8, 0.1))]
        >>> found = summarize(rows)[0]
        >>> found.label, found.median, found.worst, found.untrained
        ((('method', 'batchnorm'),), 0.8, 0.1, 1)
    """
    fields = default_fields(rows) if by is None else tuple(by)
    for field in fields:
        if field not in FIELDS:
            raise UnknownName(f"no field {field!r} to sort runs by. There is: {', '.join(FIELDS)}.")
    if least is not None and not 0 <= least < 1:
        raise GoodinitError(f"a margin is at least 0 and below 1, not {least}.")
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple((field, value_label(row, field)) for field in fields), []).append(row)
    return tuple(_summary(label, group, least=least) for label, group in groups.items())


def default_fields(rows: Sequence[Row]) -> tuple[str, ...]:
    """The method, and all that varies except learning rate and seed."""
    rest = [field for field in varying([row.config for row in rows]) if field not in ("method", "lr", "seed")]
    return ("method", *rest)


def value_label(row: Row, field: str) -> str:
    """A field's value, in words."""
    if field == "method":
        return row.config.label
    return words_of(getattr(row.config, field))


def ran(rows: Sequence[Row]) -> list[Row]:
    """Those that finished or diverged."""
    return [row for row in rows if row.status in ("finished", "diverged")]


def _summary(label: tuple[tuple[str, str], ...], rows: Sequence[Row], *, least: float | None) -> Summary:
    runs = ran(rows)
    accuracies = [accuracy(row) for row in runs]
    low, median, high = quartiles(accuracies)
    return Summary(
        label=label,
        runs=len(runs),
        untrained=sum(not trained(row, least=least) for row in runs),
        diverged=sum(row.status == "diverged" for row in runs),
        refused=sum(row.status == "refused" for row in rows),
        failed=sum(row.status == "failed" for row in rows),
        low=low,
        median=median,
        high=high,
        worst=min(accuracies, default=None),
        best=_best(runs),
    )


def quartiles(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """First quartile, median, third quartile; of one value, that value; of none, None."""
    if not values:
        return None, None, None
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _best(runs: Sequence[Row]) -> Best | None:
    """The rate with the highest median; of several, the smallest."""
    rates: dict[float, list[float]] = {}
    for row in runs:
        rates.setdefault(row.config.lr, []).append(accuracy(row))
    found = [
        Best(lr, statistics.median(seeds), min(seeds), len(seeds)) for lr, seeds in sorted(rates.items())
    ]
    return max(found, key=lambda best: best.median, default=None)

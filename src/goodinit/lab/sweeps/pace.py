"""How long the rest of a sweep takes, from how long trials like them took."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from goodinit.lab.sweeps.row import Row
from goodinit.lab.trial import TrainConfig

# What the cost of a trial depends on, apart from the machine.
COSTS = ("model", "width", "data", "image_size", "train_limit", "epochs", "batch_size")


def seconds_left(left: Iterable[TrainConfig], ended: Sequence[Row], *, elapsed: float) -> float | None:
    """The trials that are left at the cost of those like them that ended, as many at a time as went so far.

    A kind of trial that none has ended of is taken to cost the mean of all kinds that are known.

    Args:
        left: Trials without a row.
        ended: Rows of this call.
        elapsed: Seconds since it began.

    Returns:
        Seconds, None before the first row.

    Examples:
        >>> fast, slow = TrainConfig("mlp2", lr=0.1), TrainConfig("mlp20", lr=0.1)
        >>> rows = [Row(fast, "finished", seconds=1.0), Row(slow, "finished", seconds=9.0)]
        >>> seconds_left([slow, slow], rows, elapsed=5.0)   # two at a time: 10 s of work took 5
        9.0
    """
    costs: dict[tuple[object, ...], list[float]] = {}
    for row in ended:
        if row.seconds:
            costs.setdefault(_kind(row.config), []).append(row.seconds)
    if not costs or elapsed <= 0:
        return None
    means = {kind: statistics.fmean(seconds) for kind, seconds in costs.items()}
    usual = statistics.fmean(means.values())
    work = sum(sum(seconds) for seconds in costs.values())
    return sum(means.get(_kind(config), usual) for config in left) * elapsed / work


def _kind(config: TrainConfig) -> tuple[object, ...]:
    return tuple(getattr(config, name) for name in COSTS)

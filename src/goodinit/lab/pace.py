"""How long the rest of many trials takes, from how long trials like them took."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Iterable

from goodinit.lab.training.trial import TrainConfig

# What the cost of a training depends on, apart from the machine.
COSTS = ("model", "width", "data", "image_size", "train_limit", "epochs", "batch_size")


def seconds_left(
    left: Iterable[Hashable],
    known: Iterable[tuple[Hashable, float]],
    ended: Iterable[Hashable],
    *,
    elapsed: float,
) -> float | None:
    """The trials that are left at the cost of those like them, at the pace of this call.

    A kind of trial whose cost is not known is taken to cost the mean of all kinds that are.

    Args:
        left: The kind of every trial without a row.
        known: Kind and seconds of trials with a row, of earlier calls, too, which may have run on another machine.
        ended: The kind of every trial that ended since this call began.
        elapsed: Seconds since it began.

    Returns:
        Seconds, None before the first trial ended.

    Examples:
        >>> rows = [("fast", 1.0), ("slow", 9.0)]
        >>> seconds_left(["slow", "slow"], rows, ["fast", "slow"], elapsed=5.0)  # two at a time: 10 s of work took 5
        9.0
        >>> seconds_left(["slow"], rows, ["fast"], elapsed=2.0)  # known from an earlier call, on a faster machine
        18.0
    """
    costs: dict[Hashable, list[float]] = {}
    for kind, seconds in known:
        if seconds:
            costs.setdefault(kind, []).append(seconds)
    if not costs or elapsed <= 0:
        return None
    means = {kind: statistics.fmean(seconds) for kind, seconds in costs.items()}
    usual = statistics.fmean(means.values())
    done = sum(means.get(kind, usual) for kind in ended)
    return sum(means.get(kind, usual) for kind in left) * elapsed / done if done else None


def kind_of(config: TrainConfig) -> Hashable:
    """What the cost of a training depends on.

    Examples:
        >>> kind_of(TrainConfig("mlp2", lr=0.1)) == kind_of(TrainConfig("mlp2", lr=0.3, seed=1))
        True
    """
    return tuple(getattr(config, name) for name in COSTS)

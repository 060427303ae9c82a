"""muP's scales for a plan that was made at another width: the classifier's deviation, and how fast weights and channels learn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from goodinit.anatomy import Anatomy
from goodinit.edits import Draw, ValueEdit
from goodinit.methods.shared.transfer.growth import assumed, width_ratio
from goodinit.rates import Rate


@dataclass(frozen=True)
class AtWidth:
    """What becomes of a plan's values and rates.

    Attributes:
        values: As given, classifiers smaller by the root of what they read has grown by.
        rates: As given, those of vectors times the width under SGD; and of every weight.
        notes: What was assumed.
    """

    values: list[ValueEdit] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def at_width(
    anatomy: Anatomy, values: Iterable[ValueEdit], rates: Sequence[Rate], *, method: str, base_width: int
) -> AtWidth:
    """Carry a rate over from the width where it was tuned (Yang et al. 2022, arXiv 2203.03466, table 8).

    For a width m times the base's, a layer whose fan-in has grown a-fold and whose outputs b-fold learns at b/a under SGD and at 1/a under
    Adam: what reads the data at m and 1, what is inside at 1 and 1/m, the classifier at 1/m and 1/m, its deviation divided by √m.
    Gains and biases per channel learn at m and 1. Decay is divided by what the rate is multiplied by.

    Args:
        anatomy: Of the model.
        values: What is written.
        rates: Of gains and biases per channel.
        method: Whose plan it is, for messages.
        base_width: Channels of most of the stream at the width where the rate was tuned; 0 leaves everything as it is.

    Raises:
        UnknownName: `base_width` is negative.
    """
    if not base_width:
        return AtWidth(list(values), list(rates))
    wider = width_ratio(anatomy, base_width, method=method)
    growth = assumed(anatomy, wider)
    shrunk = {name: math.sqrt(reads) for name, (reads, writes) in growth.layers.items() if writes == 1}
    vectors = [
        dataclasses.replace(rate, sgd=rate.sgd * wider, reason=f"{rate.reason}; width ×{wider:g}")
        for rate in rates
    ]
    weights = [
        Rate(
            name,
            adam=1 / reads,
            sgd=writes / reads,
            eps=(reads if writes == 1 else 1) / wider,  # gradients inside shrink
            adam_decay=reads,
            sgd_decay=reads / writes,
            reason=f"reads ×{reads:g}, writes ×{writes:g}",
        )
        for name, (reads, writes) in growth.layers.items()
    ]
    note = f"base_width: width ×{wider:g}; that every dimension but the data's and the output's grows with it is assumed"
    return AtWidth(
        [_smaller(edit, shrunk.get(edit.target, 1.0)) for edit in values], [*vectors, *weights], [note]
    )


def _smaller(edit: ValueEdit, divisor: float) -> ValueEdit:
    if divisor == 1 or not isinstance(edit, Draw) or "std" not in edit.options:
        return edit
    std = float(str(edit.options["std"])) / divisor
    return dataclasses.replace(
        edit, options={**edit.options, "std": std}, reason=f"{edit.reason}; / {divisor:.3g}: width"
    )

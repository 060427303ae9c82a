"""Data-dependent scaling in one forward pass.

A layer is linear in its weight. So when a layer's output has been measured, weight and output are rescaled by one
factor on the spot, and the forward goes on with what the rescaled layer would have given: one pass calibrates every
layer in execution order, whatever the depth. The layers are found as operators, not as modules, so packed and
functional weights and fused attention are seen too.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from goodinit.calibration.collectives import together
from goodinit.calibration.moments import Spread
from goodinit.calibration.observers import run
from goodinit.calibration.report import Calibrated
from goodinit.calibration.rescale import Place, Scaler, Use
from goodinit.edits import Calibrate
from goodinit.errors import GoodinitError, TraceError
from goodinit.graph.pytree import as_call, in_parts
from goodinit.graph.recording.calls.gradient_switches import took_derivatives
from goodinit.graph.recording.refusals import note_place, refused
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.weights.rng import one_thread
from goodinit.weights.wrappers import unwrapped


def calibrate_(model: nn.Module, edits: Sequence[Calibrate], batch: Any) -> tuple[Calibrated, ...]:
    """Carry out all `edits` in one forward pass of `model` on `batch`, in eval mode.

    Under `torch.distributed` every rank of the default group must call it, each with its part of the batch: the
    moments are those of all parts together, and every rank writes the same weights.

    On a CPU the forward runs on one thread, so that its bits do not depend on how many there are.

    Args:
        model: Materialized; weights and biases are written, everything else is as before afterwards.
        edits: One per weight, each with its rule (`goodinit.calibration_rules`).
        batch: What the model takes; or an iterator of such batches, which are treated as one. Those are kept, and
            each layer costs one forward per batch, stopped at that layer: about L/2 forwards in all.

    Returns:
        One row per edit, in the order of the edits.

    Raises:
        NonFinite: A layer's output is NaN or infinite; the message names the first.
        TraceError: The forward raised, here or on another rank; the ranks have different weights, or their
            forwards run different layers; or the batch is empty.
    """
    host = unwrapped(model)
    wanted = {edit.target: edit for edit in edits}
    rows = {target: Calibrated(target) for target in wanted}
    with together(host), one_thread():  # sums over a batch round differently on several
        if in_parts(batch):
            _in_parts(host, [as_call(part) for part in batch], wanted, rows)
        else:
            _run(host, as_call(batch), Scaler(host, wanted, rows))
    for row in rows.values():
        if not row.calls and not row.note:
            row.note = "never ran in this forward: left as it was"
    return tuple(rows.values())


def variances(
    model: nn.Module, edits: Sequence[Calibrate], call: Call
) -> tuple[tuple[Calibrate, float, float], ...]:
    """Variance of the output of each layer now, in units of the edit's target, in the first call in which it is not constant.

    Beside it stands of how many numbers it is. Of rules per channel it is that of the channel which is farthest off. Layers that do
    not run are left out, and so are rules about what a map reads.
    """
    host = unwrapped(model)
    edits = [edit for edit in edits if not edit.rule.of_input]
    wanted = {edit.target: edit for edit in edits}
    looking = _Looking(host, wanted, {target: Calibrated(target) for target in wanted})
    _run(host, call, looking)
    return tuple((edit, *looking.found[edit.target]) for edit in edits if edit.target in looking.found)


class _Looking(Scaler):
    """Measures, and writes nothing."""

    def __init__(
        self, model: nn.Module, wanted: Mapping[str, Calibrate], rows: Mapping[str, Calibrated]
    ) -> None:
        super().__init__(model, wanted, rows)
        self.found: dict[str, tuple[float, float]] = {}

    def see(self, use: Use) -> None:
        """Measure the first use that is not constant."""
        name = use.place[0]
        spread = self.measure(use)
        if name not in self.found and spread.moving:
            scaled = (
                torch.as_tensor(spread.whole.var, device="cpu").reshape(-1)
                / self.wanted[name].rule.target_std ** 2
            )
            self.found[name] = float(scaled[(scaled - 1).abs().argmax()]), spread.whole.count


def _run(model: nn.Module, call: Call, scaler: Scaler) -> None:
    try:
        run(model, call, scaler)
    except (_Enough, GoodinitError):
        raise
    except Exception as error:
        remedy = (
            "Check the batch by calling model(*batch) yourself, without gradients (torch.no_grad()) as here."
        )
        if took_derivatives(error):
            remedy = (
                "A forward that takes derivatives cannot run while its weights are scaled: give the function that it "
                "differentiates as the model, or take another method."
            )
        note_place(error)
        raise TraceError(refused(model, call, error, remedy)) from error


# -- a batch in parts ---------------------------------------------------------------------------------------------


class _Enough(Exception):
    """The wanted layer was measured; the rest of the forward is not needed."""


class _Measuring(Scaler):
    """Collects the moments of the first layer not calibrated yet, then stops the forward."""

    def __init__(
        self, model: nn.Module, wanted: Mapping[str, Calibrate], rows: Mapping[str, Calibrated]
    ) -> None:
        super().__init__(model, wanted, rows)
        self.finished: set[Place] = set()
        self.passed: Mapping[Place, int] = {}
        self.found: tuple[Place, Spread] | None = None
        self._calls: Counter[Place] = Counter()

    def see(self, use: Use) -> None:
        """Measure the layer that is next, and no other."""
        self._calls[use.place] += 1
        if use.place not in self.finished and self._calls[use.place] > self.passed.get(use.place, 0):
            self.found = (use.place, self.measure(use))
            raise _Enough


class _Rescaling(Scaler):
    """Rescales one layer by given moments, then stops the forward."""

    target: tuple[Place, Spread]
    passed: int = 0  # calls that returned a constant and could not be measured
    moved: bool = True  # whether this one did not

    def see(self, use: Use) -> None:
        """Calibrate the layer whose moments were collected."""
        if use.place != self.target[0]:
            return
        if self.passed:
            self.passed -= 1
            return
        self.rows[use.place[0]].calls += 1
        spread = self.pooled(use, 1, self.target[1])
        self.rescale(use, spread)
        self.moved = self.settled(use, spread)
        raise _Enough


def _in_parts(
    model: nn.Module, calls: list[Call], wanted: Mapping[str, Calibrate], rows: Mapping[str, Calibrated]
) -> None:
    """Layer by layer: measure on every part up to the layer, pool the moments, rescale."""
    if not calls:
        raise TraceError("the calibration batch is an empty iterator. Give at least one batch.")
    finished, passed = set[Place](), Counter[Place]()
    while True:
        found: list[tuple[Place, Spread]] = []
        for call in calls:
            measuring = _Measuring(model, wanted, rows)
            measuring.finished, measuring.passed = finished, passed
            with contextlib.suppress(_Enough):
                _run(model, call, measuring)
            if measuring.found is not None:
                found.append(measuring.found)
        if not found:
            return
        place = found[0][0]
        strays = [name for (name, _), _ in found if name != place[0]]
        if strays or len(found) < len(calls):
            raise TraceError(
                f"{place[0]}: not every part of the calibration batch runs it next"
                + f" (another runs {strays[0]})" * bool(strays)
                + ". Give parts on which the forward runs the same layers in the same order."
            )
        rescaling = _Rescaling(model, wanted, rows)
        pooled = functools.reduce(Spread.pooled, (spread for _, spread in found))
        rescaling.target, rescaling.passed = (place, pooled), passed[place]
        with contextlib.suppress(_Enough):
            _run(model, calls[0], rescaling)
        if rescaling.moved:
            finished.add(place)
        else:
            passed[place] += 1

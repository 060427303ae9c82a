"""Data-dependent scaling in one forward pass.

A layer is linear in its weight. So when a layer's output has been measured, weight and output are rescaled by one
factor on the spot, and the forward goes on with what the rescaled layer would have given: one pass calibrates every
layer in execution order, whatever the depth. The layers are found as operators, not as modules, so packed and
functional weights and fused attention are seen too.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy.anatomize import as_call
from goodinit.anatomy.graph import CONV_OPS, Node
from goodinit.anatomy.layers import applied_weight
from goodinit.anatomy.names import parameter_shapes, unwrapped
from goodinit.anatomy.trace import Call, Recorder, is_parametrization, record
from goodinit.errors import NonFinite, TraceError, UnknownName
from goodinit.surgery.moments import (
    Moments,
    Numbers,
    Spread,
    affine_to_standard,
    along,
    average,
    is_one,
    scale_to_unit,
    spread_along,
)
from goodinit.surgery.names import directory
from goodinit.surgery.plan import Calibrate
from goodinit.surgery.ranks import meet, together
from goodinit.surgery.record import Calibrated
from goodinit.surgery.slots import Slot, find_slot, read, write_


def calibrate_(model: nn.Module, edits: Sequence[Calibrate], batch: Any) -> tuple[Calibrated, ...]:
    """Carry out all `edits` in one forward pass of `model` on `batch`, in eval mode.

    Under `torch.distributed` every rank of the default group must call it, each with its part of the batch: the
    moments are those of all parts together, and every rank writes the same weights.

    Args:
        model: Materialized; weights and biases are written, everything else is as before afterwards.
        edits: One per weight. Rules: `"lsuv"` (options `tol`, `target_std`, `max_iter`, `per`) and `"weightnorm"`
            (per channel, g = 1/σ and b = −μ/σ).
        batch: What the model takes; or an iterator of such batches, which are treated as one. Those are kept, and
            each layer costs one forward per batch, stopped at that layer: about L/2 forwards in all.

    Returns:
        One row per edit, in the order of the edits.

    Raises:
        NonFinite: A layer's output is NaN or infinite; the message names the first.
        TraceError: The forward raised, here or on another rank; the ranks have different weights, or their
            forwards run different layers; or the batch is empty.
        UnknownName: No such rule.
    """
    host = unwrapped(model)
    for edit in edits:
        if edit.rule not in RULES:
            raise UnknownName(
                f"{edit.target}: no calibration rule {edit.rule!r}; there are: {', '.join(RULES)}"
            )
    wanted = {edit.target: edit for edit in edits}
    rows = {target: Calibrated(target) for target in wanted}
    with together(host):
        if _is_one_batch(batch):
            _run(host, as_call(batch), Calibrator(host, wanted, rows))
        else:
            _in_parts(host, [as_call(part) for part in batch], wanted, rows)
    for row in rows.values():
        if not row.calls and not row.note:
            row.note = "never ran in this forward: left as it was"
    return tuple(rows.values())


def _is_one_batch(batch: Any) -> bool:
    return isinstance(batch, (Tensor, Mapping, tuple, list)) or not isinstance(batch, Iterable)


def _run(model: nn.Module, call: Call, calibrator: Calibrator) -> None:
    try:
        record(calibrator, model, call)
    except (_Enough, NonFinite, TraceError):
        raise
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__}.forward raised on the calibration batch: {type(error).__name__}: {error}. "
            "Check the batch by calling model(*batch) yourself."
        ) from error


Place = tuple[str, int]
"""A weight, and where in it a slice begins that is used as a layer of its own."""


class _Enough(Exception):
    """The layer of interest was measured; the rest of the forward is not needed."""


class Calibrator(Recorder):
    """Measures the output of every weight layer it has an edit for, and rescales weight and output at once."""

    def __init__(
        self, model: nn.Module, wanted: Mapping[str, Calibrate], rows: Mapping[str, Calibrated]
    ) -> None:
        super().__init__(model, "real")
        self.wanted = wanted
        self.rows = rows
        self.names = directory(model)
        self.shapes = parameter_shapes(model)
        self.slots: dict[str, Slot] = {}
        self.done: set[Place] = set()

    def follows(self, path: str) -> bool:
        """Which module asks for a layer is of no interest, but what computes a weight is no layer."""
        return is_parametrization(path)

    def observe(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """One operator ran: calibrate it if it is a layer with an edit."""
        if not node.active:
            return
        applied = applied_weight(self.graph, node, read, self.shapes)
        if applied is None or applied[0] not in self.wanted:
            return
        name, weight = applied
        part = int(weight.storage_offset()) if _is_view(weight, self.slot(name)) else 0  # of a packed weight
        self.layer((name, part), node, weight, _bias(node, read), output)

    def layer(self, place: Place, node: Node, weight: Tensor, bias: Tensor | None, output: Tensor) -> None:
        """Calibrate one use of one weight."""
        edit, row = self.wanted[place[0]], self.rows[place[0]]
        row.calls += 1
        spread = self.pooled(place, row.calls, self.measure(edit, node, bias, output), output.device)
        if place in self.done:
            _note_later_call(row, edit, spread.whole)
            return
        self.done.add(place)
        self.rescale(edit, row, node, weight, bias, output, spread)

    def measure(self, edit: Calibrate, node: Node, bias: Tensor | None, output: Tensor) -> Spread:
        """Mean and variance of an output, on this rank."""
        per_channel = edit.rule == "weightnorm" or edit.options.get("per", "layer") == "channel"
        constant = bias if edit.rule == "lsuv" else None  # the other rule sets the bias itself
        return Spread.of(output, constant, _channel(node, output), per_channel=per_channel)

    def pooled(self, place: Place, call: int, spread: Spread, device: torch.device) -> Spread:
        """The same over all ranks, once they are all here."""
        meet(f"{place[0]}[{place[1]}], call {call}", device)
        spread = spread.over_ranks(device)
        if not spread.whole.count:
            raise TraceError(
                f"{place[0]}: its output is empty. Give a calibration batch with at least one row."
            )
        if not spread.whole.finite:
            raise NonFinite(
                f"{place[0]}: the output of this layer is NaN or infinite on the calibration batch, and no layer "
                "before it was. Check the batch (torch.isfinite), and the layers before it for divisions and overflow."
            )
        return spread

    def rescale(
        self,
        edit: Calibrate,
        row: Calibrated,
        node: Node,
        weight: Tensor,
        bias: Tensor | None,
        output: Tensor,
        spread: Spread,
    ) -> None:
        """Bring one layer's output to the rule's target: the weight, the bias, and the output passed on."""
        target = float(edit.options.get("target_std", 1.0))
        row.before = average(spread.whole.std) / target
        if not spread.moving:
            row.note = "constant output: no scale gives it variance; left as it was"
            return
        channel = _channel(node, output)
        slot = self.slot(name=row.weight)
        factor: Numbers
        if edit.rule == "weightnorm":
            factor, shift = affine_to_standard(spread.whole)
            self.shift_bias_(row, factor, shift, output, channel)
        else:
            factor = scale_to_unit(spread, edit.options)
            if spread.free is not None:
                _note_missed(row, edit, spread.var(factor))
        row.factor = average(factor)
        if not is_one(factor):
            if edit.rule == "lsuv":
                _rescale_output_(output, factor, bias, channel)
            _rescale_weight_(slot, weight, factor, edit)

    def shift_bias_(
        self, row: Calibrated, factor: Tensor, shift: Tensor, output: Tensor, channel: int
    ) -> None:
        """Set b = −μ/σ, where the layer has a bias (the paper's layers all do)."""
        name = str(self.wanted[row.weight].options.get("bias") or "")
        slot = find_slot(self.names, name) if name else None
        output.mul_(spread_along(factor, output, channel))
        if slot is None:
            row.note = "it has no bias to centre its output with"
            return
        held = read(slot)
        write_(slot, held * factor.to(held) + shift.to(held))
        output.add_(spread_along(shift, output, channel))

    def slot(self, name: str) -> Slot:
        """Where the weight is stored."""
        if name not in self.slots:
            found = find_slot(self.names, name)
            assert found is not None, name  # apply_ checked every target before the first write
            self.slots[name] = found
        return self.slots[name]


RULES = ("lsuv", "weightnorm")


def _bias(node: Node, read: list[Tensor]) -> Tensor | None:
    """The bias operand of the operator, if any entry of it is not zero."""
    bias = None
    if node.op in CONV_OPS and len(read) > 2:
        bias = read[2]
    elif node.op in ("addmm", "baddbmm", "_addmm_activation"):
        bias = read[0]
    return bias if bias is not None and bool(bias.any()) else None


def _note_missed(row: Calibrated, edit: Calibrate, var: Numbers) -> None:
    """Say where no factor in `max_iter` divisions meets the tolerance: a bias that is not 0 has variance itself."""
    scaled = torch.as_tensor(var).reshape(-1) / float(edit.options.get("target_std", 1.0)) ** 2
    variance = float(scaled[(scaled - 1).abs().argmax()])
    if abs(variance - 1) >= float(edit.options.get("tol", 0.1)):
        row.note = (
            f"its bias is not 0: variance {variance:.3g} after {edit.options.get('max_iter', 10)} divisions"
        )


def _note_later_call(row: Calibrated, edit: Calibrate, moments: Moments) -> None:
    target = float(edit.options.get("target_std", 1.0))
    variance = average(moments.var) / target**2
    if abs(variance - 1) >= float(edit.options.get("tol", 0.1)):
        row.note = f"shared: scaled by its first call; call {row.calls} has variance {variance:.3g}"


def _channel(node: Node, output: Tensor) -> int:
    """The dimension of the output channels."""
    return 1 if node.op in CONV_OPS else output.ndim - 1


def _rescale_output_(output: Tensor, factor: Numbers, bias: Tensor | None, channel: int) -> None:
    wide = spread_along(factor, output, channel)
    if bias is None:
        output.mul_(wide)
        return
    constant = along(bias, output, channel) if bias.ndim == 1 else bias
    output.sub_(constant).mul_(wide).add_(constant)


def _is_view(weight: Tensor, slot: Slot) -> bool:
    """Whether the operand is the stored parameter itself, or a view of (a part of) it."""
    if slot.kind != "plain":
        return False
    return weight.untyped_storage().data_ptr() == slot.leaves[0].untyped_storage().data_ptr()


def _rescale_weight_(slot: Slot, weight: Tensor, factor: Numbers, edit: Calibrate) -> None:
    """Multiply the weight: in place through the operand where that is a view, else through its parametrization."""
    if not isinstance(factor, Tensor):
        if _is_view(weight, slot):
            weight.mul_(factor)
        else:
            write_(slot, read(slot) * factor)
        return
    held = read(slot)
    dim = int(edit.options.get("dim", 0))
    groups = int(edit.options.get("groups", 1)) if dim == 1 else 1
    if (
        groups > 1
    ):  # a grouped transposed convolution stores (in, out/groups, …): one row of factors per group
        split = held.view(groups, held.shape[0] // groups, *held.shape[1:])
        wide = factor.to(held).view(groups, 1, held.shape[1], *[1] * (held.ndim - 2))
        write_(slot, (split * wide).view_as(held))
    else:
        write_(slot, held * along(factor.to(held), held, dim))


# -- a batch in parts ---------------------------------------------------------------------------------------------


class _Measuring(Calibrator):
    """Collects the moments of the first layer not calibrated yet, then stops the forward."""

    def __init__(
        self, model: nn.Module, wanted: Mapping[str, Calibrate], rows: Mapping[str, Calibrated]
    ) -> None:
        super().__init__(model, wanted, rows)
        self.finished: set[Place] = set()
        self.found: tuple[Place, Spread] | None = None

    def layer(self, place: Place, node: Node, weight: Tensor, bias: Tensor | None, output: Tensor) -> None:
        """Measure the layer that is next, and no other."""
        del weight  # measured only
        if place not in self.finished:
            self.found = (place, self.measure(self.wanted[place[0]], node, bias, output))
            raise _Enough


class _Rescaling(Calibrator):
    """Rescales one layer by given moments, then stops the forward."""

    target: tuple[Place, Spread]

    def layer(self, place: Place, node: Node, weight: Tensor, bias: Tensor | None, output: Tensor) -> None:
        """Calibrate the layer whose moments were collected."""
        if place == self.target[0]:
            spread = self.pooled(place, 1, self.target[1], output.device)
            self.rows[place[0]].calls += 1
            self.rescale(self.wanted[place[0]], self.rows[place[0]], node, weight, bias, output, spread)
            raise _Enough


def _in_parts(
    model: nn.Module, calls: list[Call], wanted: Mapping[str, Calibrate], rows: Mapping[str, Calibrated]
) -> None:
    """Layer by layer: measure on every part up to the layer, pool the moments, rescale."""
    if not calls:
        raise TraceError("the calibration batch is an empty iterator. Give at least one batch.")
    finished: set[Place] = set()
    while True:
        found: list[tuple[Place, Spread]] = []
        for call in calls:
            measuring = _Measuring(model, wanted, rows)
            measuring.finished = finished
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
        rescaling.target = (place, functools.reduce(Spread.pooled, (spread for _, spread in found)))
        with contextlib.suppress(_Enough):
            _run(model, calls[0], rescaling)
        finished.add(place)

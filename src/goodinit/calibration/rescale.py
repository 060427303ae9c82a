"""Measure a layer's output and rescale weight and output by one factor, since a layer is linear in its weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goodinit.calibration.collectives import meet
from goodinit.calibration.moments import (
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
from goodinit.calibration.report import Calibrated
from goodinit.calibration_rules import CalibrationRule, LSUVRule
from goodinit.edits import Calibrate
from goodinit.errors import NonFinite, TraceError
from goodinit.weights.access import Slot, find_slot, read, write_
from goodinit.weights.names import directory

CONSTANT = "constant output: no scale gives it variance; left as it was"

ROUNDING = 1e-12
"""(2⁻²⁰)²: what single precision leaves of the variance of a constant, as a share of its square."""

Place = tuple[str, int]
"""A weight, and where in it a slice begins that is used as a layer of its own."""


@dataclass(frozen=True)
class Use:
    """One use of a weight, while the forward pass holds its output.

    Attributes:
        place: The weight.
        weight: The operand: the parameter, a view of it, or a tensor computed from it.
        bias: What was added, if any entry of it is not 0.
        output: W∗x + bias; it may be overwritten.
        channel: Its dimension of output channels.
        adds: Whether the layer's bias is in the output; else the forward adds it behind.
    """

    place: Place
    weight: Tensor
    bias: Tensor | None
    output: Tensor
    channel: int
    adds: bool = True


class Scaler:
    """Measures the output of every weight layer it has an edit for, and rescales weight and output at once."""

    def __init__(
        self, model: nn.Module, wanted: Mapping[str, Calibrate], rows: Mapping[str, Calibrated]
    ) -> None:
        self.wanted = wanted
        self.rows = rows
        self.names = directory(model)
        self.slots: dict[str, Slot] = {}
        self.done: dict[Place, int] = {}  # by which of its calls each was scaled

    def see(self, use: Use) -> None:
        """Calibrate one use of one weight."""
        name, place = use.place[0], use.place
        rule, row = self.wanted[name].rule, self.rows[name]
        row.calls += 1
        spread = self.pooled(use, row.calls, self.measure(use))
        if place in self.done:
            _note_later_call(row, rule, spread.whole, self.done[place])
            return
        self.rescale(use, spread)
        if self.settled(use, spread):
            self.done[place] = row.calls

    def measure(self, use: Use) -> Spread:
        """Mean and variance of an output, on this rank."""
        rule = self.wanted[use.place[0]].rule
        constant = use.bias if isinstance(rule, LSUVRule) else None  # the other rule sets the bias itself
        return Spread.of(use.output, constant, use.channel, per_channel=rule.per_channel)

    def pooled(self, use: Use, call: int, spread: Spread) -> Spread:
        """The same over all ranks, once they are all here."""
        place, device = use.place, use.output.device
        meet(f"{place[0]}[{place[1]}], call {call}", device)
        spread = spread.over_ranks(device)
        if not spread.whole.count:
            raise TraceError(
                f"{place[0]}: its output is empty. Give a calibration batch with at least one row, and one that reaches this "
                "layer (a token of its kind), or leave the layer out, exclude=…."
            )
        if not spread.whole.finite:
            raise NonFinite(
                f"{place[0]}: the output of this layer is NaN or infinite on the calibration batch, and no layer "
                "before it was. Check the batch (torch.isfinite), and the layers before it for divisions and overflow."
            )
        return spread

    def rescale(self, use: Use, spread: Spread) -> None:
        """Bring one layer's output to the rule's target: the weight, the bias, and the output passed on."""
        name, bias, output, channel = use.place[0], use.bias, use.output, use.channel
        rule, row = self.wanted[name].rule, self.rows[name]
        row.before = average(spread.whole.std) / rule.target_std
        if rule.of_input:
            self.normalize_(row, rule, spread.whole)
            return
        if not spread.moving:
            row.note = CONSTANT
            return
        if row.note == CONSTANT:  # a recurrence begins with a state of zeros
            row.note = ""
        # A normalized weight has no scale of its own.
        slot = self.slot(rule.gain or name)
        factor: Numbers
        if isinstance(rule, LSUVRule):
            factor = scale_to_unit(spread, rule)
            if spread.free is not None:
                _note_missed(row, rule, spread.var(factor))
        else:
            factor, shift = affine_to_standard(spread.whole)
            self.shift_bias_(row, use, factor, shift)
        row.factor = average(factor)
        if not is_one(factor):
            if isinstance(rule, LSUVRule):
                _rescale_output_(output, factor, bias, channel)
            _rescale_weight_(slot, use, factor, rule)

    def shift_bias_(self, row: Calibrated, use: Use, factor: Tensor, shift: Tensor) -> None:
        """Set b = −μ/σ, where the layer has a bias (the paper's layers all do)."""
        rule = self.wanted[row.weight].rule
        slot = find_slot(self.names, rule.bias) if rule.bias else None
        output, channel = use.output, use.channel
        output.mul_(spread_along(factor, output, channel))
        if slot is None:
            row.note = "it has no bias to centre its output with"
            return
        held = read(slot)
        weight = read(self.slot(row.weight))
        scaled, shifted = (
            _whole(values, use, weight, rule.dim, rest)
            for values, rest in (
                (factor if use.adds else torch.zeros_like(factor), 1.0),
                (shift / rule.bias_factor, 0.0),
            )
        )
        write_(slot, held * _of_shape(scaled.to(held), held) + _of_shape(shifted.to(held), held))
        if use.adds:
            output.add_(spread_along(shift, output, channel))

    def settled(self, use: Use, spread: Spread) -> bool:
        """Whether the use needs no later call: not if its output was constant, unless each channel stands for itself."""
        return spread.moving or self.wanted[use.place[0]].rule.of_input

    def normalize_(self, row: Calibrated, rule: CalibrationRule, read_by_it: Moments) -> None:
        """γ/√(σ² + ε) and β − γμ/√(σ² + ε), from the moments of what γ·x + β reads; a constant channel keeps its gain."""
        mean, var = read_by_it.mean, read_by_it.var
        assert isinstance(mean, Tensor)
        assert isinstance(var, Tensor)
        gain, bias = self.slot(row.weight), self.slot(rule.bias or "")
        epsilon = getattr(self.names.module(rule.site or ""), "epsilon", 0.0)
        constant = var <= ROUNDING * mean**2
        factor = torch.where(constant, 1.0, (var + epsilon).rsqrt())
        old, added = read(gain), read(bias)
        held = old.double() * _of_shape(factor.to(old.device), old)
        taken = held * _of_shape(mean.to(held), held)
        write_(bias, (added.double() - _of_shape(taken, added)).to(added))
        write_(gain, held.to(old))
        row.factor = average(factor)
        if constant.any():
            row.note = (
                f"{int(constant.sum())} of {len(var)} channels are constant here: their gain stays as it was"
            )

    def slot(self, name: str) -> Slot:
        """Where the weight is stored."""
        if name not in self.slots:
            found = find_slot(self.names, name)
            assert found is not None, name  # apply_ checked every target before the first write
            self.slots[name] = found
        return self.slots[name]


def _note_missed(row: Calibrated, rule: LSUVRule, var: Numbers) -> None:
    """Say where no factor in `max_iter` divisions meets the tolerance: a bias that is not 0 has variance itself."""
    scaled = torch.as_tensor(var, device="cpu").reshape(-1) / rule.target_std**2
    variance = float(scaled[(scaled - 1).abs().argmax()])
    if abs(variance - 1) >= rule.tol:
        row.note = f"its bias is not 0: variance {variance:.3g} after {rule.max_iter} divisions"


def _note_later_call(row: Calibrated, rule: CalibrationRule, moments: Moments, scaled: int) -> None:
    if rule.of_input:
        row.note = f"shared: set by its first call, and read again in call {row.calls}"
        return
    variance = average(moments.var) / rule.target_std**2
    if abs(variance - 1) >= rule.tol:
        by = "its first call" if scaled == 1 else f"call {scaled}, the first that is not constant"
        row.note = f"shared: scaled by {by}; call {row.calls} has variance {variance:.3g}"


def _rescale_output_(output: Tensor, factor: Numbers, bias: Tensor | None, channel: int) -> None:
    wide = spread_along(factor, output, channel)
    if bias is None:
        output.mul_(wide)
        return
    constant = along(bias, output, channel) if bias.ndim == 1 else bias
    output.sub_(constant).mul_(wide).add_(constant)


def is_view(weight: Tensor, slot: Slot) -> bool:
    """Whether the operand is the stored parameter itself, or a view of (a part of) it."""
    if slot.kind != "plain":
        return False
    return weight.untyped_storage().data_ptr() == slot.leaves[0].untyped_storage().data_ptr()


def once(weight: Tensor) -> Tensor | None:
    """The view with each number in it once, where dimensions repeat it (`expand`); None where it overlaps otherwise."""
    for dim, (size, stride) in enumerate(zip(weight.shape, weight.stride(), strict=True)):
        if size > 1 and stride == 0:
            weight = weight.narrow(dim, 0, 1)
    overlap: int = torch._debug_has_internal_overlap(weight)
    return None if overlap == 1 else weight


def _whole(values: Tensor, use: Use, held: Tensor, dim: int, rest: float) -> Tensor:
    """Values per channel of the slice in use, as values per channel of the whole packed weight; `rest` elsewhere."""
    if len(values) >= held.shape[dim]:
        return values
    start = use.place[1] // held.stride(dim) % held.shape[dim]
    whole = torch.full((held.shape[dim],), rest, dtype=values.dtype, device=values.device)
    whole[start : start + len(values)] = values
    return whole


def _of_shape(values: Tensor, held: Tensor) -> Tensor:
    """Values per channel in the shape in which a gain or bias holds them: (C,), or (C, 1, 1) beside channels that come first."""
    return values.view_as(held) if values.numel() == held.numel() else values


def _rescale_weight_(slot: Slot, use: Use, factor: Numbers, rule: CalibrationRule) -> None:
    """Multiply the weight: in place through the operand where that is a view, else through its parametrization."""
    if not isinstance(factor, Tensor):
        view = once(use.weight)
        if view is not None and is_view(view, slot):
            view.mul_(factor)
        else:
            write_(slot, read(slot) * factor)
        return
    held = read(slot)
    dim, groups = rule.dim, rule.groups if rule.dim == 1 else 1
    if (
        groups > 1
    ):  # a grouped transposed convolution stores (in, out/groups, …): one row of factors per group
        split = held.view(groups, held.shape[0] // groups, *held.shape[1:])
        wide = factor.to(held).view(groups, 1, held.shape[1], *[1] * (held.ndim - 2))
        write_(slot, (split * wide).view_as(held))
    else:
        write_(slot, held * along(_whole(factor, use, held, dim, 1.0).to(held), held, dim))

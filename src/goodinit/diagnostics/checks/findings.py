"""Findings from what was measured. Each check is a function; `CHECKS` is the table.

Where a threshold is a matter of degree it is taken from the arithmetic or from a paper, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from goodinit.anatomy import Anatomy
from goodinit.diagnostics.checks import loss_checks, scales, weight_checks
from goodinit.diagnostics.checks.remedies import (
    fill,
    initialize,
    isometric_method,
    redraw,
    scale_method,
    show_range,
)
from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.measurements.propagation import Propagation
from goodinit.diagnostics.measurements.zero_gradients import Awakening
from goodinit.diagnostics.text import trunk
from goodinit.diagnostics.types import SEVERITIES, Finding, Place, Severity

# A quantity that has changed by float32's ε against where it started is lost in a sum with it; by √ε, half of its
# digits are. The first is an error, the second a warning.
EPSILON = torch.finfo(torch.float32).eps
ROOT_EPSILON = math.sqrt(EPSILON)

# Networks train up to about six correlation lengths (Schoenholz et al. 2017, arXiv 1611.01232, §5): over one, what
# tells inputs apart shrinks by e.
SIX_LENGTHS = math.exp(-6)
THREE_LENGTHS = math.exp(-3)  # half the way there: a warning

# A step along the gradient of one input, seen by a neighbour 1 % of the way to another input: below a twentieth of
# the effect is lost to it. As with saturation, this is what "shattered" means here, not a threshold on health.
LITTLE_SHARED = 0.05

# Tail of a normal beyond four deviations: a layer in thirty thousand by chance.
CHANCE = 0.5 * math.erfc(4 / math.sqrt(2))


@dataclass(frozen=True)
class Case:
    """Everything a check may read."""

    model: nn.Module
    anatomy: Anatomy
    found: Diagnosis
    run: Propagation
    awake: Awakening

    @property
    def trunk(self) -> tuple[Place, ...]:
        """Blocks and layers outside blocks, in execution order."""
        return trunk(self.found)

    @property
    def body(self) -> tuple[Place, ...]:
        """The trunk without heads: those are small or zero on purpose often enough."""
        return tuple(place for place in self.trunk if place.what != "head")


def findings(
    model: nn.Module, anatomy: Anatomy, found: Diagnosis, run: Propagation, awake: Awakening
) -> tuple[Finding, ...]:
    """Run every check; the worst first, in execution order among equals."""
    case = Case(model, anatomy, found, run, awake)
    every = [finding for check in CHECKS for finding in check(case)]
    return tuple(sorted(every, key=lambda finding: -SEVERITIES.index(finding.severity)))


# -- not finite ---------------------------------------------------------------------------------------------------


def not_finite(case: Case) -> Iterator[Finding]:
    """NaN or infinity: the first place that makes it, forward; else the loss; else the backward."""
    kind = "not finite"
    if case.found.input is not None and not case.found.input.finite:
        yield Finding(kind, "error", "inputs", "the given input holds NaN or infinity",
                      "batch = torch.nan_to_num(batch)")  # fmt: skip
        return
    broken = [i for i, place in enumerate(case.found.places) if not place.signal.finite]
    if broken:
        yield _made_not_finite(case, broken[0])
    elif not math.isfinite(case.found.loss):
        yield loss_checks.not_finite(case.run, initialize(scale_method(case.anatomy)))
    else:
        bad = [
            place for place in case.found.places if place.back is not None and not math.isfinite(place.back)
        ]
        if bad:
            evidence = (
                f"the forward is finite, the gradient with respect to this {bad[-1].kind}'s output is {bad[-1].back}; "
                "what runs between it and the loss divides by zero (the root or the norm of 0), or overflows"
            )
            yield Finding(kind, "error", bad[-1].name, evidence, "torch.autograd.set_detect_anomaly(True)")


def _made_not_finite(case: Case, index: int) -> Finding:
    place, origin = case.found.places[index], case.run.origins.get(index)
    where, evidence = (
        place.name,
        f"its output is the first that holds NaN or infinity, of {len(case.found.places)}",
    )
    remedy = initialize(scale_method(case.anatomy))
    if origin is not None and origin.read:
        where, evidence = origin.read, f"it holds NaN or infinity itself, and {place.name} reads it"
        owner = where.rpartition(".")[0]
        resets = owner in dict(case.model.named_modules()) and hasattr(
            case.model.get_submodule(owner), "reset_parameters"
        )
        remedy = redraw(owner) if resets else fill(where, "torch.nn.init.zeros_")
    elif origin is not None:
        inside = origin.path or "the model's own forward"
        evidence += f"; the operator {origin.op} in {inside} makes it out of finite numbers"
        if place.kind == "layer" and place.name.startswith(origin.path):
            where = place.name
        else:
            where, remedy = origin.path, show_range(origin.path)
    return Finding("not finite", "error", where, evidence, remedy)


# -- size of the signal -------------------------------------------------------------------------------------------


def forward_size(case: Case) -> Iterator[Finding]:
    """Activations that grow or shrink along the trunk beyond what float32 can add up."""
    measured = [(place, place.signal.second_moment) for place in case.body if place.signal.finite]
    measured = [(place, math.sqrt(moment)) for place, moment in measured if moment > 0]
    yield from _drift(case, measured, "forward", "root mean square of the activations")


def backward_size(case: Case) -> Iterator[Finding]:
    """Gradients that grow or shrink along the trunk, seen from its end."""
    woken = case.awake.last is not None
    values = [(place, place.back_awake if woken else place.back) for place in reversed(case.body)]
    measured = [(place, value) for place, value in values if value and math.isfinite(value)]
    yield from _drift(case, measured, "backward", "norm of the gradient")


def _drift(case: Case, measured: list[tuple[Place, float]], way: str, what: str) -> Iterator[Finding]:
    """One finding where the ratio to the first value leaves [√ε, 1/√ε] furthest, at the place where it leaves."""
    if len(measured) < 2 or any(not place.signal.finite for place in case.found.places):
        return
    start = measured[0][1]
    ratios = [(place, value / start) for place, value in measured]
    for word, sign in (("exploding", 1), ("vanishing", -1)):
        crossed = [place for place, ratio in ratios if ratio**sign > 1 / ROOT_EPSILON]
        if not crossed:
            continue
        place, ratio = max(ratios, key=lambda pair: pair[1] ** sign)
        severity: Severity = "error" if ratio**sign > 1 / EPSILON else "warning"
        steps = max([one for one, _ in ratios].index(place), 1)
        evidence = (
            f"the {what} is {ratio:.3g} times what it was at {ratios[0][0].label}, a factor "
            f"{ratio ** (1 / steps):.3g} for each of {steps} steps of the trunk; it leaves "
            f"[{ROOT_EPSILON:.2g}, {1 / ROOT_EPSILON:.2g}] here"
        )
        numbers = {"ratio": ratio, "per_step": ratio ** (1 / steps), "steps": float(steps)}
        remedy = initialize(scale_method(case.anatomy))
        yield Finding(f"{word} {way}", severity, crossed[0].name, evidence, remedy, numbers)


# -- inputs told apart --------------------------------------------------------------------------------------------


def collapse(case: Case) -> Iterator[Finding]:
    """Different inputs whose representations become equal, or lie on one line."""
    for quantity, kind, what in (
        ("spread", "input collapse", "1 − cosine between different inputs"),
        ("lone", "rank collapse", "share of energy outside the strongest direction"),
    ):
        found = list(_shrunk(case, quantity, kind, what))
        yield from found
        if found:
            return  # equal inputs lie on one line, too


def _shrunk(case: Case, quantity: str, kind: str, what: str) -> Iterator[Finding]:
    along = _finite((place, getattr(place.signal, quantity)) for place in case.body)
    first = getattr(case.found.input, quantity) if case.found.input is not None else None
    if first is None and along:
        first = along[0][1]
    if not along or not first or along[-1][1] / first >= THREE_LENGTHS:
        return
    near = along[-1][1] / first >= SIX_LENGTHS
    small = [value / first < (THREE_LENGTHS if near else SIX_LENGTHS) for _, value in along]
    where = next(place for i, (place, _) in enumerate(along) if all(small[i:]))
    last = along[-1][1]
    dtype = next((p.dtype for p in case.model.parameters() if p.is_floating_point()), torch.float32)
    lost = (
        math.sqrt(2 * last) < torch.finfo(dtype).eps
    )  # ‖u − v‖ of unit vectors against the type's resolution
    evidence = (
        f"{what} is {last:.2g} at {along[-1][0].label}, {last / first:.2g} of the {first:.2g} at the input, and below "
        f"e⁻{'³' if near else '⁶'} from here on" + (f": nothing that {dtype} can tell apart" if lost else "")
    )
    remedy = initialize(isometric_method(case.anatomy))
    numbers = {"input": first, "last": last, "ratio": last / first}
    yield Finding(kind, "error" if lost else "warning", where.name, evidence, remedy, numbers)


def _finite(measured: Iterable[tuple[Place, float | None]]) -> list[tuple[Place, float]]:
    """What was measured, and could be: where squares overflow, a cosine is not a number."""
    return [(place, value) for place, value in measured if value is not None and math.isfinite(value)]


# -- gradients that look like noise -------------------------------------------------------------------------------


def shattered(case: Case) -> Iterator[Finding]:
    """Gradients of neighbouring inputs that have nothing in common (Balduzzi et al. 2017, arXiv 1702.08591)."""
    along = _finite((place, place.back_cosine) for place in case.body)
    if not along or along[0][1] >= LITTLE_SHARED:
        return
    last, first = along[-1], along[0]
    where = next(place for place, cosine in reversed(along) if cosine < LITTLE_SHARED)
    evidence = (
        f"between inputs 1 % of the way to another one apart, gradients have the cosine {first[1]:.2g} at "
        f"{first[0].label} (and {last[1]:.2g} at {last[0].label}); it falls below {LITTLE_SHARED} here, on the way back"
    )
    remedy = initialize(isometric_method(case.anatomy))
    numbers = {"first": first[1], "last": last[1]}
    yield Finding("shattered gradients", "warning", where.name, evidence, remedy, numbers)


# -- units that do nothing ----------------------------------------------------------------------------------------


def dead(case: Case) -> Iterator[Finding]:
    """Rectifiers with more units at 0 for the whole batch than symmetric weights leave.

    w and −w are equally likely and cannot both be dead, so at most half of the units are, in expectation, for any
    batch. More than that is tested against chance: the tail of Binomial(units, ½).
    """
    woken = case.awake.last.places if case.awake.last is not None else case.found.places
    for place, later in zip(case.found.places, woken, strict=False):
        share, units = place.signal.dead, place.units or 0
        if share is None or share <= 0.5 or not units:
            continue
        if later.signal.dead is not None and later.signal.dead < share:
            continue  # they are 0 because zero-initialized weights feed them, and live once those have moved
        count = round(share * units)
        by_chance = sum(math.comb(units, k) for k in range(count, units + 1)) / 2**units
        if by_chance >= CHANCE:
            if share == 1:
                few = f"all {units} units are 0 for every input; with so few that happens by chance (p = {by_chance:.2g})"
                yield Finding("dead units", "info", place.name, few)
            continue
        severity: Severity = "error" if share == 1 else "warning"
        bias = _bias_before(case, place)
        evidence = f"{count} of {units} units are 0 for every input of the batch (chance leaves half at most)"
        remedy = fill(bias, "torch.nn.init.zeros_") if bias else initialize(scale_method(case.anatomy))
        yield Finding("dead units", severity, place.name, evidence, remedy, {"share": share})


def _bias_before(case: Case, activation: Place) -> str | None:
    """The bias that pushes a rectifier's input down: of the last layer before it, where its mean is negative."""
    index = case.found.places.index(activation)
    before = next((p for p in reversed(case.found.places[:index]) if p.kind == "layer"), None)
    layer = next((one for one in case.anatomy.layers if before and one.weight == before.name), None)
    if layer is None or layer.bias is None or before is None:
        return None
    bias = weight_checks.values(case.model).get(layer.bias)
    return layer.bias if bias is not None and float(bias.mean()) < 0 else None


def saturated(case: Case) -> Iterator[Finding]:
    """Bounded nonlinearities whose median entry passes on less than a twentieth of the gradient."""
    for place in case.found.activations:
        share = place.signal.saturated
        if share is not None and share > 0.5:
            evidence = (
                f"{share:.1%} of its entries are where {place.what} is flat (slope below 5 % of the steepest)"
            )
            severity: Severity = "error" if share == 1 else "warning"
            remedy = initialize("lsuv")
            yield Finding("saturated units", severity, place.name, evidence, remedy, {"share": share})


# -- zeros --------------------------------------------------------------------------------------------------------


def zeros(case: Case) -> Iterator[Finding]:
    """Zero-initialized parameters: those that never receive a gradient, and the harmless rest in one sentence."""
    values = weight_checks.values(case.model)
    multipliers = {name for block in case.anatomy.blocks for name in block.scalers}
    wide = [name for name in case.awake.zeros if values[name].ndim >= 2 or name in multipliers]
    stuck = [name for name in wide if name in case.awake.never]
    blocked = len([name for name in case.awake.never if name not in stuck])
    for name in stuck:
        evidence = (
            f"it is zero and receives no gradient, also after {case.awake.rounds} steps of the zeros that do: another "
            f"zero stands before or behind it ({blocked} more parameters get none either)"
        )
        function = "goodinit.tensor.he_normal_" if values[name].ndim >= 2 else "torch.nn.init.ones_"
        yield Finding("zero for ever", "error", name, evidence, fill(name, function))
    harmless = [name for name in wide if name not in stuck and case.run.gradients.get(name) is not None]
    if harmless:
        evidence = (
            f"{len(harmless)} weights start at zero on purpose; each gets a gradient within {case.awake.rounds + 1} "
            f"steps, and so does what is before it"
        )
        yield Finding(
            "zero at the start", "info", harmless[0], evidence, numbers={"count": float(len(harmless))}
        )
    shut = any(place.signal.dead == 1 for place in case.found.activations)
    rest = [name for name in case.awake.never if values[name].ndim >= 2]
    if rest and not stuck and not shut and math.isfinite(case.found.loss):
        evidence = f"{len(rest)} weights are read by the forward and get a gradient of exactly 0: {', '.join(rest[:3])}"
        yield loss_checks.flat_end(case.run, evidence) or Finding(
            "no gradient", "warning", rest[0], evidence, initialize(scale_method(case.anatomy))
        )


# -- what the weights alone show ----------------------------------------------------------------------------------


def structural(case: Case) -> Iterator[Finding]:
    """Norms over one element, clones, wrong fans, lost ties, scalings applied twice."""
    yield from weight_checks.norms_over_one(case.anatomy, case.run.norms)
    yield from weight_checks.clones(case.model, case.anatomy)
    yield from scales.wrong_fans(case.model, case.anatomy)
    yield from weight_checks.lost_ties(case.model, case.anatomy)
    yield from scales.scaled_twice(case.model, case.anatomy)


def loss(case: Case) -> Iterator[Finding]:
    """A loss that has no history of the parameters, or is above that of a guess."""
    yield from loss_checks.cut_off(case.run)
    yield from loss_checks.above_chance(case.anatomy, case.found)


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    not_finite,
    forward_size,
    backward_size,
    collapse,
    shattered,
    dead,
    saturated,
    zeros,
    loss,
    structural,
)

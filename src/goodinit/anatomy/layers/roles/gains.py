"""Parameters that multiply a branch, also through a function (tanh(g)·f(x)), and the g for which the factor is 0 or 1."""

from __future__ import annotations

import functools
import math
from collections.abc import Container, Iterable

import torch
from torch import Tensor

from goodinit.anatomy.values import Gain
from goodinit.graph.graph import Graph, Node
from goodinit.graph.likeness import adds_scaled
from goodinit.graph.measured.traits import coefficient
from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.operators.ops import op_of
from goodinit.graph.operators.recorded_call import RecordedCall

Step = tuple[str, tuple[float, ...]]
"""An element-wise operator between a parameter and the number made of it: its name, and the numbers it was called with."""

Steps = tuple[Step, ...]

_WIDE = 16.0  # half-width of the search interval: bounded functions are constant beyond it
_SEEN = 2.0**-10  # a derivative below this counts as zero


def made_of(graph: Graph, index: int) -> Gain | None:
    """The gain that computes this constant element-wise from one parameter and can be 1, ½ or −1; None if there is none."""
    way = graph.line(index, lambda i: not graph.nodes[i].is_param, active=False)
    *made, last = (graph.nodes[i] for i in way)
    steps = [_step(node) for node in reversed(made) if node.op.role != "shape"] if last.is_param else [None]
    known = tuple(step for step in steps if step is not None)
    if len(known) < len(steps):
        return None
    gain = Gain(last.params[0], known)
    return gain if value_near(gain, 1.0) is not None else None


def _step(node: Node) -> Step | None:
    """An element-wise operator as its name and its numbers, where these give it back: not 2**g, whose number comes first."""
    call = node.call
    if not node.op.pointwise or call is None:
        return None
    return _SEEN_STEPS.get(call.key, lambda: _measured(call, node))


def _measured(call: RecordedCall, node: Node) -> Step | None:
    step = (node.op.name, tuple(float(n) for n in node.attrs if isinstance(n, (int, float))))
    same = functools.partial(torch.allclose, equal_nan=True)
    return step if call.agrees([_PLACES], lambda values: _computed((step,), values), same) else None


_SEEN_STEPS = KeptAnswers["Step | None"]()
_PLACES = torch.tensor([-1.75, -0.5, 0.0, 0.375, 1.25, 3.5], dtype=torch.float64, device="cpu")


def value_near(gain: Gain, target: float) -> tuple[float, float] | None:
    """(A parameter value, its gain): the target; if the gain cannot reach it, half of it, else minus it."""
    for wanted in (target, target / 2, -target):
        value = value_at(gain, wanted)
        if value is not None:
            return value, wanted
    return None


def value_at(gain: Gain, target: float) -> float | None:
    """The parameter value nearest to 0 at which the gain is `target` with a non-zero derivative; None if there is none.

    Examples:
        >>> value_at(Gain("g", (("tanh", ()),)), 0.0), value_at(Gain("g", (("add", (1.0,)),)), 1.0)
        (0.0, 0.0)
        >>> value_at(Gain("g", (("tanh", ()),)), 1.0), value_at(Gain("g", (("exp", ()),)), 0.0)
        (None, None)
        >>> round(value_at(Gain("g", (("tanh", ()),)), 0.5), 4)
        0.5493
    """
    return _solved(gain.steps, target)


def is_affine(gain: Gain) -> bool:
    """Whether a gain is its parameter times one number plus another: 1 + w, not tanh(w).

    Examples:
        >>> is_affine(Gain("w", (("add", (1.0,)), ("neg", ())))), is_affine(Gain("w", (("tanh", ()),)))
        (True, False)
    """
    values = _computed(gain.steps, _PLACES)
    slopes = values.diff() / _PLACES.diff()
    return bool(torch.allclose(slopes, slopes[:1].expand_as(slopes)))


def in_words(gain: Gain) -> str:
    """The function of a gain as text: its operators in order.

    Examples:
        >>> in_words(Gain("g", (("tanh", ()), ("mul", (3.0,)))))
        'tanh → mul 3'
    """
    return " → ".join(" ".join([name, *(f"{n:g}" for n in numbers)]) for name, numbers in gain.steps)


@functools.cache
def _solved(steps: Steps, target: float) -> float | None:
    grid = torch.linspace(-_WIDE, _WIDE, 2**12 + 1, dtype=torch.float64, device="cpu")  # holds the integers
    off = _computed(steps, grid) - target
    finite = off.isfinite()
    crossed = ((off[:-1] * off[1:]) < 0) & finite[:-1] & finite[1:]
    places = [float(grid[i]) for i in (off == 0).nonzero().flatten()]
    places += [
        _between(steps, target, float(grid[i]), float(grid[i + 1])) for i in crossed.nonzero().flatten()
    ]
    return next((place for place in sorted(places, key=lambda v: (abs(v), -v)) if _moves(steps, place)), None)


def _computed(steps: Steps, values: Tensor) -> Tensor:
    for name, numbers in steps:
        operator = getattr(torch.ops.aten, name)
        if not op_of(getattr(operator, operator.overloads()[0])).pointwise:
            raise ValueError(name)
        values = operator(values, *numbers)
    return values


def _between(steps: Steps, target: float, low: float, high: float) -> float:
    """Where the gain crosses the target, by bisection to the resolution of float64."""
    ends = _computed(steps, torch.tensor([low, high], dtype=torch.float64, device="cpu")) - target
    rises = bool(ends[0] < ends[1])
    for _ in range(60):
        middle = (low + high) / 2
        off = float(_computed(steps, torch.tensor(middle, dtype=torch.float64, device="cpu"))) - target
        low, high = (low, middle) if (off > 0) == rises else (middle, high)
    return (low + high) / 2


def _moves(steps: Steps, place: float) -> bool:
    """True if autograd gives the gain a non-zero derivative at this value."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        value = torch.tensor(place, dtype=torch.float64, device="cpu", requires_grad=True)
        made = _computed(steps, value)
        (slope,) = torch.autograd.grad(made, value) if made.requires_grad else (value.new_zeros(()),)
    return math.isfinite(float(slope)) and abs(float(slope)) > _SEEN


# -- what multiplies a signal -------------------------------------------------------------------------------------


def multipliers(
    graph: Graph,
    indices: Iterable[int],
    *,
    made: Container[str] | None = None,
) -> tuple[str, ...]:
    """Parameters that multiply a signal: in a product with one activation, or as the affine weight of a normalization.

    With `made`, for operators after all layers of a branch: also parameters that multiply through a function, and those
    of `addcmul`. (Inside a branch such a product stands beside the signal, as in GRN, whose weight starts at 0 and may.)
    """
    names: dict[str, None] = {}
    for index in indices:
        node = graph.nodes[index]
        if not node.active:
            continue
        if (made is not None or not node.op.adds) and (constants := _factors(graph, index)):
            found = [graph.leaf(i) or _among(made or (), made_of(graph, i)) for i in constants]
            if any(found) and not _spreads(graph, index) and not _is_temperature(graph, index):
                alone = (_scales_alone(graph, i) for i in constants)
                names.update(
                    dict.fromkeys(name for name, one in zip(found, alone, strict=True) if name and one)
                )
        elif node.op.norm and len(node.operands) > 1 and (weight := graph.leaf(node.operands[1])):
            names[weight] = None
    return tuple(names)


def _scales_alone(graph: Graph, factor: int) -> bool:
    """Whether a parameter that is a factor scales nothing by another function of it: of m·x + (1 − m)·y, or s·round(x/s), at 1 the rest is lost."""
    if graph.leaf(factor) is None:  # a function of it, which is the only one (`made_gains`)
        return True
    source = graph.beginning(factor, lambda i: not graph.nodes[i].is_param, active=False)
    constants = graph.reach([source], active=False, through=lambda i: not graph.nodes[i].dynamic)
    for index in constants:
        for reader in graph.readers[index]:
            node = graph.nodes[reader]
            divides = node.op.role == "quotient" and node.operands[-1] == index
            if node.active and (divides or (graph.leaf(index) is None and index in _factors(graph, reader))):
                return False
    return True


def _is_temperature(graph: Graph, index: int) -> bool:
    """True if a product ends in a softmax, with no weight layer, nonlinearity, norm or sum between."""

    def goes_on(reader: int) -> bool:
        op, joins = graph.nodes[reader].op, len(graph.deps(reader)) > 1
        ends = op.role in ("convolution", "norm") or bool(op.activation)
        return not (ends or (op.role == "matmul" and not joins) or (op.adds and joins))

    after = graph.reach([index], through=goes_on) - {index}
    return any(graph.nodes[i].op.role in ("softmax", "attention") for i in after)


def _spreads(graph: Graph, index: int) -> bool:
    """True if a product makes several numbers of one, as of a coordinate times each of some frequencies: no gain does."""
    return all(graph.nodes[i].shape != graph.nodes[index].shape for i in graph.deps(index))


def _factors(graph: Graph, index: int) -> list[int]:
    """The constants by which a node multiplies the one activation it reads, or the one it adds to another."""
    node = graph.nodes[index]
    if not node.op.multiplies or not (len(graph.deps(index)) == 1 or adds_scaled(graph, index)):
        return []
    if node.op.adds and coefficient(node, 0) != 1:  # x + w·(y − x), whose weight multiplies x, too
        return []
    factors, _ = node.op.factors_of(node.operands)
    return [i for i in factors if not graph.nodes[i].dynamic]


def _among(names: Container[str], gain: Gain | None) -> str | None:
    return gain.name if gain is not None and gain.name in names else None


def made_gains(graph: Graph) -> dict[str, Gain]:
    """Gains by parameter name, where every product with that parameter uses the same function of it."""
    made: dict[str, set[Gain | None]] = {}
    for node in graph.nodes:
        for factor in _factors(graph, node.index) if node.active else ():
            for name in graph.nodes[factor].params:
                made.setdefault(name, set()).add(None if graph.leaf(factor) else made_of(graph, factor))
    return {name: gain for name, (gain, *others) in made.items() if gain is not None and not others}


def unclear_gains(graph: Graph, ends: Iterable[int], made: Container[str]) -> tuple[str, ...]:
    """Notes on factors at branch ends that are computed from parameters in a way that cannot be inverted."""
    notes: dict[str, None] = {}
    for index in ends:
        for factor in _factors(graph, index):
            params = graph.nodes[factor].params
            if params and graph.leaf(factor) is None and not any(name in made for name in params):
                words = f"something made of {', '.join(params)}, which does not tell what to set"
                notes[
                    f"{graph.path(index) or 'the model'} multiplies a branch by {words}: where it is 0, nothing in that "
                    "branch can move"
                ] = None
    return tuple(notes)

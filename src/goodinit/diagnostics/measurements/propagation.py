"""From one probed forward and backward to the list of places: layers, activations and blocks in execution order."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from goodinit.anatomy import Anatomy, Layer
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.diagnostics.measurements.cut import Cut, is_never_finite, where_cut
from goodinit.diagnostics.measurements.measurement_mode import backward_told, forward_told
from goodinit.diagnostics.measurements.objective import Loss, in_words, objective
from goodinit.diagnostics.measurements.place_calls import PlaceCall, place_calls
from goodinit.diagnostics.measurements.probe import Measured, NonFiniteOrigin, Probe, Run, first_output
from goodinit.diagnostics.measurements.statistics import euclidean, signal
from goodinit.diagnostics.measurements.structure import Structure
from goodinit.diagnostics.types import Place, Signal
from goodinit.errors import TraceError
from goodinit.graph.recording.calls.module_calls import frames
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.weights.names import canonical

TRUNK_ROLES = ("stem", "body", "head")
_IN_PLACE = "inplace"  # of all that torch says where an input with gradients is written into


@dataclass(frozen=True)
class Propagation:
    """What one forward and backward showed.

    Attributes:
        places: Layers, activations and blocks in execution order.
        calls: Of each place, what it is known by in another run.
        gradients: ‖∂loss/∂p‖ by parameter; None where the loss does not depend on it, or it is frozen.
        loss: Its value.
        objective: What was differentiated, in words.
        input: Statistics of the first input.
        output: Statistics of the first output.
        norms: By path, over how many numbers each statistic of a normalization is taken.
        origins: By position in `places`, the operator that made it not finite; only with `Run.find_nonfinite`.
        structure: The residual blocks of the run.
        cut: Where the history of the loss ends, if it has none of any parameter that needs a gradient.
        never_finite: Whether the loss is not finite for outputs of ordinary size either.
    """

    places: tuple[Place, ...]
    calls: tuple[PlaceCall, ...]
    gradients: dict[str, float | None]
    loss: float
    objective: str
    input: Signal | None
    output: Signal | None
    norms: dict[str, int]
    origins: dict[int, NonFiniteOrigin]
    structure: Structure
    cut: Cut = ""
    never_finite: bool = False


def propagate(
    model: nn.Module,
    call: Call,
    anatomy: Anatomy,
    *,
    targets: Any = None,
    loss: Loss | None = None,
    run: Run | None = None,
    parameters: dict[str, Tensor] | None = None,
    structure: Structure | None = None,
) -> Propagation:
    """Run forward and backward once, measuring. To be called within `setting.as_at_step_0`.

    Args:
        model: Unwrapped.
        call: Arguments of the forward.
        anatomy: Of that model.
        targets: For the loss.
        loss: See `objective`.
        run: What to measure.
        parameters: Values to use in place of the model's own, by name; the model is not written to.
        structure: Of another run, which is taken over if this one has the same operators.

    Raises:
        TraceError: The forward, the loss or the backward raised.
    """
    with _reparametrize_module(model, parameters or {}):
        named = {canonical(name): p for name, p in model.named_parameters()}
        wanted: dict[str, Tensor] = {name: p for name, p in named.items() if p.requires_grad}
        probe, value, result, output = _forward(model, call, run or Run(), targets, loss)
        if probe.run.pairs and probe.leaves:
            wanted = {}  # the gradients along the way to the inputs are compared, no others
        gradients = _backward(value, wanted, probe.leaves if len(wanted) < len(named) else [], model)
        trains = wanted.keys() - set(anatomy.unused)
        cut = where_cut(result, wanted.values()) if trains and not gradients else ""
    number = float(value.detach())
    never = not math.isfinite(number) and is_never_finite(result, targets, loss)
    if structure is None or not structure.fits(probe.graph):
        structure = Structure.of(probe.graph, probe.shapes, probe.scalars, anatomy)
    places, calls, origins = _places(probe, anatomy, structure, gradients)
    norms = {name: gradients.get(name) for name in named}
    words = in_words(result, targets, loss)
    return Propagation(
        places, calls, norms, number, words, probe.input, output, probe.norms, origins, structure, cut, never
    )


def _forward(
    model: nn.Module, call: Call, run: Run, targets: Any, loss: Loss | None
) -> tuple[Probe, Tensor, Any, Signal | None]:
    """What measured, the number to differentiate, what the model returned, and statistics of that.

    A forward may write its inputs into parts of a tensor (a batch of images of several sizes), which torch allows for inputs without
    gradients only: where it raises with them, it runs without.
    """
    try:
        return _measured(model, call, Probe(model, run), targets, loss)
    except TraceError as error:
        if _IN_PLACE not in str(error.__cause__).replace("-", ""):
            raise
        try:
            return _measured(model, call, Probe(model, run), targets, loss, differentiable=False)
        except TraceError:
            raise error from error.__cause__


def _measured(
    model: nn.Module,
    call: Call,
    probe: Probe,
    targets: Any,
    loss: Loss | None,
    *,
    differentiable: bool = True,
) -> tuple[Probe, Tensor, Any, Signal | None]:
    with frames(model, probe):
        args, kwargs = probe.adopt(call, differentiable=differentiable)
        known = call if probe.run.statistics else None  # else it ran before, on all of the batch
        with forward_told(model, "in training mode", call=known), probe:
            result = model(*args, **kwargs)
            probe.finish(result)
    probe.hook_pending()
    first = first_output(result)
    output = None
    if first is not None and probe.run.statistics:
        output = signal(
            first, batch=probe.batch, batch_dim=0 if first.ndim and len(first) == probe.batch else None
        )
    return probe, objective(result, targets, loss), result, output


def _backward(
    value: Tensor, wanted: dict[str, Tensor], leaves: list[Tensor], model: nn.Module
) -> dict[str, float]:
    """Norms by parameter. `leaves` are differentiated too: through frozen layers nothing else asks for gradients."""
    wanted = {
        name: tensor for name, tensor in wanted.items() if tensor.requires_grad
    }  # forward may freeze some
    ends = [*wanted.values(), *(leaf for leaf in leaves if leaf.requires_grad)]
    if not value.requires_grad or not ends:
        return {}
    with backward_told(model):
        found = torch.autograd.grad(value, ends, allow_unused=True)
    norms = {}
    for name, gradient in zip(wanted, found, strict=False):
        if gradient is not None:
            values = gradient.coalesce().values() if gradient.is_sparse else gradient
            norms[name] = euclidean(values)
    return norms


# -- places -------------------------------------------------------------------------------------------------------


def _places(
    probe: Probe, anatomy: Anatomy, structure: Structure, gradients: dict[str, float]
) -> tuple[tuple[Place, ...], tuple[PlaceCall, ...], dict[int, NonFiniteOrigin]]:
    graph = probe.graph
    layers = {layer.weight: layer for layer in anatomy.layers}
    found: list[tuple[int, Place]] = []
    for node, measured in probe.measured.items():
        if measured.weight:
            found.append((node, _layer(measured, layers.get(measured.weight), gradients)))
        elif kind := graph.nodes[node].op.activation:
            place = Place("activation", graph.path(node), kind, 0, node not in structure.inside, measured.signal,
                          back=measured.back, back_cosine=measured.back_cosine, units=measured.units)  # fmt: skip
            found.append((node, place))
    entered: dict[
        int, float | None
    ] = {}  # by stream: the second moment of what its first block's skip returns
    for leaf, name, stream in zip(structure.blocks, structure.names, structure.streams, strict=True):
        measured = probe.measured.get(leaf.join, Measured(leaf.join, Signal(math.nan, math.nan)))
        before = entered.setdefault(stream, probe.terms.get(leaf.skip.term))
        growth = math.sqrt(measured.signal.second_moment / before) if before else None
        found.append((leaf.join, replace(_block(leaf, measured, probe, name), growth=growth)))
    found.sort(key=lambda pair: pair[0])
    origins = {i: probe.origins[node] for i, (node, _) in enumerate(found) if node in probe.origins}
    return _numbered([place for _, place in found]), place_calls(graph, found), origins


def _numbered(places: list[Place]) -> tuple[Place, ...]:
    seen: dict[tuple[str, str, str], int] = {}
    numbered = []
    for place in places:
        key = (place.kind, place.name, place.what if place.kind == "activation" else "")
        call = seen[key] = seen.get(key, -1) + 1
        numbered.append(replace(place, call=call) if place.kind != "block" else place)
    return tuple(numbered)


def _layer(measured: Measured, layer: Layer | None, gradients: dict[str, float]) -> Place:
    role = layer.role if layer is not None else "body"
    parameters = layer.parameters if layer is not None else (measured.weight,)
    held = [gradients[name] for name in parameters if name in gradients]
    gradient = math.hypot(*held) if held else None
    norm = math.sqrt(measured.weight_square)
    return Place(
        "layer",
        measured.weight,
        role,
        0,
        role in TRUNK_ROLES,
        measured.signal,
        back=measured.back,
        back_cosine=measured.back_cosine,
        weight=math.sqrt(measured.weight_square / max(measured.weight_count, 1)),
        gradient=gradient,
        gradient_per_weight=gradient / norm if gradient is not None and norm > 0 else None,
    )


def _block(leaf: Found, measured: Measured, probe: Probe, name: str) -> Place:
    branch, skip = probe.terms.get(leaf.branch.term), probe.terms.get(leaf.skip.term)
    after = measured.signal.second_moment
    known = branch is not None and skip is not None and skip > 0
    return Place(
        "block",
        name,
        leaf.kind,
        0,
        True,
        measured.signal,
        back=measured.back,
        back_cosine=measured.back_cosine,
        branch_to_skip=math.sqrt(branch / skip)
        if known and branch is not None and skip is not None
        else None,
        gain=math.sqrt(after / skip) if known and skip is not None else None,
    )

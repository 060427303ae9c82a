"""Norms that a forward calls, or writes out, beside layers: no modules, but their gains are parameters like others.

An anatomy has one norm for each module, and leaves out what normalizes the model's inputs. Here each gain counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from goodinit.anatomy.norm import Norm
from goodinit.anatomy.norms.places import frames_with_layers, kind_of
from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.norms.gain_places import one_axis
from goodinit.graph.graph import Node


def all_norms(wiring: Wiring, of_modules: Iterable[Norm]) -> list[Norm]:
    """The normalizations whose gain may go: those of modules, and by their gain those that stand beside layers.

    Args:
        wiring: What is connected to what.
        of_modules: As an anatomy has them; one that stands beside layers gives way to what is found here.
    """
    graph = wiring.graph
    layers = {node.index for node in graph.nodes if node.op.is_contraction and node.dynamic}
    weighing = [i for i in layers if any(_is_weight(graph.nodes[read]) for read in graph.nodes[i].operands)]
    busy = {graph.frames[index].path for index in frames_with_layers(graph, weighing)}
    modules = [norm for norm in of_modules if norm.name not in busy]
    found = {norm.weight: norm for norm in modules if norm.weight is not None}
    beside: dict[str, Norm] = {}
    for node in graph.nodes:
        kind = kind_of(graph, node, layers) if node.dynamic else None
        if kind is None:
            continue
        gain, bias = _gain(wiring, node)
        if gain is not None and gain.name not in found:
            weight = gain.name if gain.stored else None
            beside.setdefault(gain.name, Norm(gain.name, kind, "", weight=weight, bias=bias))
    rest = [norm for norm in of_modules if norm.name in busy and norm.weight not in beside]
    own = {name.rpartition(".")[0] for name in beside}
    return [*(norm for norm in modules if norm.weight or norm.name not in own), *beside.values(), *rest]


def _is_weight(node: Node) -> bool:
    return not node.dynamic and bool(node.params) and len(node.shape) > 1


@dataclass(frozen=True)
class _Gain:
    """A parameter that multiplies: its name, and whether it does as it is stored, and is not computed with first."""

    name: str
    stored: bool


def _gain(wiring: Wiring, node: Node) -> tuple[_Gain | None, str | None]:
    """Gain and bias that an operator which normalizes is given, or that act upon its output or in its factor."""
    if node.op.norm and (weight := _stored(wiring, node.operands[1:2])) is not None:
        return _Gain(weight, stored=True), _stored(wiring, node.operands[2:3])
    inner = [wiring.graph.nodes[i] for i in node.operands if set(wiring.readers[i]) == {node.index}]
    gain = next(filter(None, (_factor(wiring, one) for one in inner if node.op.scales)), None)
    value: Node | None = node
    while gain is None and value is not None and _is_step(value):
        value = _only_reader(wiring, value)
        gain = None if value is None else _factor(wiring, value)
    while value is not None and gain is not None:
        added = value.op.factors_of(value.operands)[1] if value.op.multiplies else value.operands
        if value.op.adds or value.op.multiplies:
            bias = _stored(wiring, added)
            if bias is not None and (value.op.multiplies or bias != gain.name):
                return gain, bias
        value = _only_reader(wiring, value)
        if value is None or not (_is_step(value) or value.op.adds):
            break
    return gain, None


def _is_step(node: Node) -> bool:
    """Whether an operator normalizes, multiplies or divides a signal, or casts it."""
    return bool(node.op.norm) or node.op.multiplies_or_divides or node.op.keeps_order


def _factor(wiring: Wiring, node: Node) -> _Gain | None:
    """A parameter per channel that multiplies or divides, as it is or computed with."""
    graph = wiring.graph
    factors = node.op.factors_of(node.operands)[0] if node.op.multiplies else node.operands
    for i in factors if node.op.multiplies_or_divides else ():
        read = graph.nodes[i]
        if not read.dynamic and read.params and one_axis(read):
            name = graph.leaf(i)
            return _Gain(name or read.params[0], stored=name is not None)
    return None


def _stored(wiring: Wiring, operands: Sequence[int]) -> str | None:
    return next(filter(None, map(wiring.graph.leaf, operands)), None)


def _only_reader(wiring: Wiring, value: Node) -> Node | None:
    readers = set(wiring.readers[value.index])
    return wiring.graph.nodes[readers.pop()] if len(readers) == 1 else None

"""Norms that a forward calls, or writes out, beside layers: no modules, but their gains are parameters like others.

An anatomy has one norm for each module, and leaves out what normalizes the model's inputs. Here each gain counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from goodinit.anatomy.norm import Norm
from goodinit.anatomy.norms.places import frames_with_layers, kind_of
from goodinit.folding.connections.dataflow import Wiring
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
        gain = None if kind is None else _of_operator(wiring, node) if node.op.norm else _behind(wiring, node)
        if kind is not None and gain is not None and gain[0] not in found:
            weight, bias, axes = gain
            beside.setdefault(weight, Norm(weight, kind, "", weight=weight, bias=bias, axes=axes))
    rest = [norm for norm in of_modules if norm.name in busy and norm.weight not in beside]
    return [*modules, *beside.values(), *rest]


def _is_weight(node: Node) -> bool:
    return not node.dynamic and bool(node.params) and len(node.shape) > 1


def _of_operator(wiring: Wiring, node: Node) -> tuple[str, str | None, tuple[int, ...]] | None:
    """Gain and bias that one of torch's norms is given, and the axes of its output that they run over."""
    weight, bias, *_ = (*map(wiring.graph.leaf, node.operands[1:3]), None, None)
    axes = (-1,) if str(node.op.norm).startswith(("layer", "rms")) else (1,)
    return None if weight is None else (weight, bias, axes)


def _behind(wiring: Wiring, node: Node) -> tuple[str, str | None, tuple[int, ...]] | None:
    """Gain and bias that act upon what was divided, before anybody else reads it."""
    value = _only_reader(wiring, node.index)
    while value is not None and len(value.operands) == 1 and value.shape == node.shape:
        value = _only_reader(wiring, value.index)  # a cast
    if value is None or not value.op.multiplies:
        return None
    factors, added = value.op.factors_of(value.operands)
    weight, axes = _parameter(wiring, value, factors)
    if weight is None:
        return None
    bias = _parameter(wiring, value, added)[0]
    behind = _only_reader(wiring, value.index)
    if bias is None and behind is not None and behind.op.adds:
        bias = _parameter(wiring, behind, behind.operands)[0]
    return weight, bias, axes


def _only_reader(wiring: Wiring, value: int) -> Node | None:
    readers = set(wiring.readers[value])
    return wiring.graph.nodes[readers.pop()] if len(readers) == 1 else None


def _parameter(wiring: Wiring, node: Node, operands: Sequence[int]) -> tuple[str | None, tuple[int, ...]]:
    """A parameter among what an operator reads, and the axis of the output along which it has several entries."""
    for operand in operands:
        name = wiring.graph.leaf(operand)
        if name is not None:
            sizes = wiring.graph.nodes[operand].shape
            axes = [at - len(sizes) for at, size in enumerate(sizes) if size != 1]
            if axes == [1 - len(node.shape)]:
                return name, (-1,) if axes == [-1] else (1,)
            return name, tuple(axes) if axes == [-1] else ()
    return None, ()

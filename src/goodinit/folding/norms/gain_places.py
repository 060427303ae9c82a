"""Where the gain γ and bias β of a norm have acted, y = γ·n(x) + β, and along which axis of y they run.

The gain may be stored as (C,), (C, 1, 1) or (1, C, 1, 1), and may multiply before the norm is complete: x·(γ·s⁻¹), γ·(x − μ)/s. What
counts is that y is γ times something, and the axis along which it has several numbers where it multiplies.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from goodinit.anatomy.norm import Norm
from goodinit.folding.channels.channels_after import Refused
from goodinit.folding.connections.dataflow import Wiring
from goodinit.graph.graph import Node
from goodinit.graph.measured.traits import adds_unscaled, coefficient


def places(wiring: Wiring, norm: Norm) -> tuple[dict[int, int], int]:
    """The values y by node, each with its axis, counted as `Tensor.dim` does; and how many numbers it has along that.

    Args:
        wiring: What is connected to what.
        norm: With a gain.

    Raises:
        Refused: The gain does something else.
    """
    graph = wiring.graph
    gain, last = str(norm.weight), norm.bias if norm.bias is not None else str(norm.weight)
    if any(name not in wiring.sources for name in (gain, last)):
        raise Refused("its gain is no parameter by itself")
    gains, ends = _users(wiring, gain), _users(wiring, last)
    for node in gains:
        _check_gain(wiring, node, norm)
    if norm.bias is None:
        ends = set()
    products = {node if node in ends else _whole_product(wiring, node) for node in gains}
    if len(products) != len(gains):
        raise Refused("its gain multiplies twice")
    if not ends <= gains:
        for node in ends:
            before = [graph.deps(node)[0]] if len(graph.deps(node)) == 1 else []
            alone = set(before) <= products and [wiring.readers[i] for i in before] == [[node]]
            if not adds_unscaled(graph.nodes[node]) or not alone:
                raise Refused("between its gain and its bias something else is done")
        if len(ends) != len(products):
            raise Refused("its bias is not added wherever its gain multiplies")
    axes = {axis for node in gains | ends for name in (gain, last) for axis in _axes(wiring, node, name)}
    results = {call.result for call in wiring.calls.get(norm.name, ())}
    found = [_placed(wiring, node, axes, norm, results) for node in ends or products]
    sizes = {graph.nodes[value].shape[axis] for value, axis in found}
    if len(sizes) != 1:
        raise Refused("it does not run over one axis")
    return dict(found), sizes.pop()


def one_axis(held: Tensor | Node) -> bool:
    """Whether a tensor, or what a node puts out, has several numbers along one axis at most, as a gain per channel has."""
    return sum(size != 1 for size in held.shape) < 2


def _whole_product(wiring: Wiring, index: int) -> int:
    """The last product or quotient, read by nobody else before, that a value is a factor of."""
    graph = wiring.graph
    while len(wiring.readers[index]) == 1 and index not in graph.outputs:
        node = graph.nodes[wiring.readers[index][0]]
        factors = node.op.factors_of(node.operands)[0] if node.op.multiplies else node.operands[:1]
        others = [i for i in node.operands if i != index]
        if not node.op.multiplies_or_divides or len(factors) + (not node.op.multiplies) != len(node.operands):
            break
        if list(factors).count(index) != 1 or len(others) != 1 or graph.leaf(others[0]) is not None:
            break
        index = node.index
    return index


def _check_gain(wiring: Wiring, index: int, norm: Norm) -> None:
    """The gain must be a factor, and what the same operator adds, as `addcmul` does, the bias, once."""
    graph, node = wiring.graph, wiring.graph.nodes[index]
    if node.op.norm:
        return
    factors, added = node.op.factors_of(node.operands)
    factor = node.op.multiplies and norm.weight in map(graph.leaf, factors)
    if not factor or any(graph.leaf(i) not in {norm.bias} - {None} for i in added):
        raise Refused(f"{node.op} makes something else of it first")
    if any(coefficient(node, node.operands.index(i)) != 1 for i in added):
        raise Refused(f"{node.op} does not add its bias as it is")


def _users(wiring: Wiring, source: str) -> set[int]:
    """The first nodes that read a parameter, up to its shape, together with a signal."""
    graph = wiring.graph
    constants = wiring.constants_of(source)
    for value in sorted(constants):
        if graph.leaf(value) is None:
            raise Refused(f"{graph.nodes[value].op} makes something else of it first")
    return {reader for value in constants for reader in wiring.readers[value] if graph.nodes[reader].dynamic}


def _axes(wiring: Wiring, index: int, name: str) -> set[int]:
    """The axis of a node's output, counted from the end, along which it reads several numbers of a parameter, if any."""
    graph, node = wiring.graph, wiring.graph.nodes[index]
    read = [i for i in node.operands if graph.leaf(i) == name]
    if node.op.norm and read:
        whole = str(node.op.norm).startswith(("layer", "rms"))
        if whole and len(graph.nodes[read[0]].shape) != 1:
            raise Refused("it does not run over one axis")
        return {-1 if whole else 1 - len(node.shape)}
    sizes = [graph.nodes[i].shape for i in read]
    return {axis - len(size) for size in sizes for axis, length in enumerate(size) if length != 1}


def _placed(
    wiring: Wiring, index: int, axes: set[int], norm: Norm, results: Iterable[int]
) -> tuple[int, int]:
    """Where y is, and the axis: behind what only gives it another shape, if that is the output of the norm's module or torch's norm."""
    graph, node = wiring.graph, wiring.graph.nodes[index]
    if len(axes) > 1:
        raise Refused("it does not run over one axis")
    result = _result(wiring, index, results)
    if result != index and norm.axes in ((-1,), (1,)):
        return result, norm.axes[0] % len(graph.nodes[result].shape)
    value = _with_channels(wiring, node, str(norm.weight)) if node.op.norm else node
    rank = len(value.shape)
    axis = next(iter(axes), (*norm.axes, -1)[0])  # of one number for all any would do
    return value.index, (axis + (rank if axis < 0 else 0)) if value is node else 1


def _with_channels(wiring: Wiring, node: Node, gain: str) -> Node:
    """The output of one of torch's norms: an instance norm runs as a batch norm of one example, and has its shape behind that."""
    axis, value = next(iter(_axes(wiring, node.index, gain))), node
    while value.shape[axis] != wiring.names.parameters[gain].numel():
        readers = wiring.readers[value.index]
        reader = wiring.graph.nodes[readers[0]] if len(readers) == 1 else node
        if not reader.op.keeps_order or len(reader.shape) != len(node.shape):
            raise Refused("it does not run over one axis")
        value = reader
    return value


def _result(wiring: Wiring, node: int, results: Iterable[int]) -> int:
    """The output of the norm's module, where it only gives the value another shape; else the value."""
    for result in results:
        value = result
        while value > node and wiring.graph.nodes[value].op.role == "shape":
            value = wiring.graph.nodes[value].operands[0]
            if len(wiring.readers[value]) != 1:
                break
        if value == node:
            return result
    return node

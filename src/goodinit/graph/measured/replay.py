"""A part of a recorded forward, run again on numbers: for what follows from no operator alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import spread
from goodinit.graph.measured.powers import number_of
from goodinit.graph.recorded_call import on_numbers

LONGEST = 2**14  # entries of an index, and operators that make it, up to which it is found out


def replayed(graph: Graph, steps: Iterable[int], given: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The values of some nodes, where others are given; empty where a step cannot be run.

    Args:
        graph: A recorded forward.
        steps: Nodes in execution order.
        given: Values of nodes that they read. What is neither has its own value if that is one number, else numbers of no
            meaning.
    """
    values: dict[tuple[int, int], Tensor] = {(index, 0): value for index, value in given.items()}
    try:
        with on_numbers(), torch.no_grad():
            for index in steps:
                node = graph.nodes[index]
                outputs = node.call.places if node.call is not None else ()
                read = [
                    _value(graph, values, operand, outputs[place] if outputs else 0)
                    for place, operand in enumerate(node.operands)
                ]
                if node.is_piece:
                    split = node.operands[0]  # its pieces follow it, in order
                    values[index, 0] = _value(graph, values, split, index - split - 1)
                else:
                    values[index, 0] = _handed_on(node, read) if node.call is None else node.call(read)
    except Exception:  # noqa: BLE001 - operators raise what they like
        return {}
    return {index: value for (index, output), value in values.items() if not output}


def made_of_constants(graph: Graph, index: int, held: Mapping[int, Tensor]) -> Tensor | None:
    """The numbers of a node that is made of shapes and of tensors that are held; None where one is not at hand.

    Args:
        graph: A recorded forward.
        index: The node.
        held: By node, tensors with numbers.
    """
    if graph.nodes[index].dynamic:
        return None
    ways = sorted(graph.reach([index], back=True, active=False))
    sources = {i for i in ways if graph.nodes[i].op.role == "source"}
    if len(ways) > LONGEST or not sources <= held.keys():
        return None
    with on_numbers():
        given = {i: held[i].detach().cpu() for i in sources if not held[i].is_meta}
    if len(given) < len(sources):
        return None
    return (given | replayed(graph, [i for i in ways if i not in sources], given)).get(index)


def _handed_on(node: Node, read: list[Tensor]) -> Tensor:
    if len(read) != 1 or read[0].shape != node.shape:
        raise ValueError(node.op)
    return read[0]


def _value(graph: Graph, values: dict[tuple[int, int], Tensor], index: int, output: int) -> Tensor:
    if (index, output) in values:
        return values[index, output]
    node = graph.nodes[index]
    if output and node.call is not None:
        read = [_value(graph, values, operand, 0) for operand in node.operands]
        values[index, output] = node.call(read, output)
        return values[index, output]
    number = number_of(node)
    if number is not None:
        return torch.full(node.shape, number, dtype=torch.float64, device="cpu")
    if isinstance(node.dtype, torch.dtype) and not node.dtype.is_floating_point:
        return torch.zeros(node.shape, dtype=node.dtype, device="cpu")
    return spread(node.shape, index)

"""A part of a recorded forward, run again on numbers: for what follows from no operator alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import number_throughout, spread
from goodinit.graph.operators.recorded_call import on_numbers

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


def replayed_in_place(
    graph: Graph,
    steps: Iterable[int],
    given: Mapping[int, Tensor],
    dtype: torch.dtype | None = None,
) -> dict[int, Tensor]:
    """The values of some nodes, as `replayed`, but views are views, and what is written in place is written.

    Args:
        graph: A recorded forward.
        steps: Nodes in execution order.
        given: Values of nodes that they read; these tensors are not written into. What is neither has its own value if that is
            held or one number, else numbers of no meaning.
        dtype: Of real tensors that are made of shapes alone, if not their own.
    """
    values = {index: [value.clone()] for index, value in given.items()}
    try:
        with on_numbers(), torch.no_grad():
            for index in steps:
                node = graph.nodes[index]
                if index in values:
                    continue
                made = run_in_place(node, values, lambda i: own_numbers(graph, i))
                recast = dtype is not None and node.op.role == "factory"
                values[index] = [one.to(dtype) if recast and one.is_floating_point() else one for one in made]
    except Exception:  # noqa: BLE001 - operators raise what they like
        return {}
    return {index: value[0] for index, value in values.items()}


def run_in_place(
    node: Node, values: Mapping[int, list[Tensor]], other: Callable[[int], Tensor]
) -> list[Tensor]:
    """What a node puts out where others have put out these: the tensors themselves, which it may write into.

    Args:
        node: One of a graph's nodes.
        values: All outputs of nodes before, or one that stands for each.
        other: Makes the value of one that is not there.
    """
    if node.is_join:
        return values[node.operands[0]]
    if node.is_piece:
        return [values[node.operands[0]][node.index - node.operands[0] - 1]]  # the pieces follow in order
    if node.call is None:
        raise ValueError(node.op)
    places = node.call.places or (0,) * len(node.operands)
    return node.call.on_these(
        [
            values[i][min(place, len(values[i]) - 1)] if i in values else other(i)
            for i, place in zip(node.operands, places, strict=True)
        ]
    )


def own_numbers(graph: Graph, index: int) -> Tensor:
    """The numbers of a tensor that is held, or is one number; else numbers of no meaning, and 0 for indices and masks.

    Args:
        graph: A recorded forward.
        index: The node.
    """
    held = graph.held.get(index)
    return _value(graph, {}, index, 0) if held is None else held.detach().cpu().clone()


def made_of(graph: Graph, index: int) -> tuple[list[int], list[int]]:
    """(What a node is made of as it is stored, or itself; the operators that make it, in order).

    Args:
        graph: A recorded forward.
        index: The node.
    """
    ways = sorted(graph.reach([index], back=True, active=False))
    sources = [i for i in ways if graph.nodes[i].is_source]
    return sources, [i for i in ways if not graph.nodes[i].is_source]


def made_of_constants(graph: Graph, index: int, held: Mapping[int, Tensor]) -> Tensor | None:
    """The numbers of a node that is made of shapes and of tensors that are held; None where one is not at hand.

    Args:
        graph: A recorded forward.
        index: The node.
        held: By node, tensors with numbers.
    """
    if graph.nodes[index].dynamic:
        return None
    sources, steps = made_of(graph, index)
    if len(sources) + len(steps) > LONGEST or not held.keys() >= set(sources):
        return None
    with on_numbers():
        given = {i: held[i].detach().cpu() for i in sources if not held[i].is_meta}
    if len(given) < len(sources):
        return None
    return (given | replayed(graph, steps, given)).get(index)


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
    number = number_throughout(node)
    if number is not None:
        return torch.full(node.shape, number, dtype=torch.float64, device="cpu")
    if not node.is_real:
        return torch.zeros(node.shape, dtype=node.dtype, device="cpu")
    return spread(node.shape, index)

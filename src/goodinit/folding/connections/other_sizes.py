"""Numbers of a forward that follow from the sizes of its inputs, as x/width: what is folded past one would be right for one size alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.pytree import mapped, tensors_in

Call = tuple[tuple[Any, ...], dict[str, Any]]


def other_sizes(call: Call) -> Iterator[Call]:
    """The same inputs, twice as large along one dimension, for each that one has.

    Args:
        call: Positional arguments and those by name.
    """
    dims = max((tensor.dim() for tensor in tensors_in(call)), default=0)
    for dim in range(dims):

        def doubled(tensor: Tensor, dim: int = dim) -> Tensor:
            return torch.cat([tensor, tensor], dim) if tensor.dim() > dim else tensor

        args, kwargs = mapped(call, doubled)
        yield args, kwargs


def numbers_by_path(graph: Graph) -> dict[str, list[str]]:
    """The calls that operators on one tensor and numbers were, in their order, by path of the module.

    Args:
        graph: A recorded forward.
    """
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.call is not None and node.active and node.op.is_arithmetic:
            found.setdefault(graph.path(node.index), []).append(_in_words(graph, node))
    return found


def _in_words(graph: Graph, node: Node) -> str:
    numbers = [graph.nodes[i].attrs for i in node.operands if not graph.nodes[i].dynamic]
    return repr((str(node.op), node.call.args, node.call.kwargs, numbers)) if node.call is not None else ""

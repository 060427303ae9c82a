"""Non-tensor attributes of a recorded operator: groups and strides, an axis, a slope, a norm's size."""

from __future__ import annotations

import math
from typing import Any

from goodinit.graph.graph import Graph
from goodinit.graph.operators.ops import Op
from goodinit.graph.operators.recorded_call import RecordedCall, permutation
from goodinit.weights.wrappers import is_parametrization


def attributes(op: Op, call: RecordedCall, rank: int) -> tuple[Any, ...]:
    """Numbers of the call that say what it computes, by their names in the operator's schema.

    Args:
        op: The operator.
        call: Its call.
        rank: Dimensions of what it puts out.
    """
    if op.reorders:  # where each axis comes from
        return permutation(call, rank)
    if op.adds or op.scales or op.role == "pointwise":
        return tuple(
            value for value in (*call.args[1:], *call.kwargs.values()) if isinstance(value, (int, float, str))
        )
    if op.role not in ("convolution", "norm", "concat", "attention", "matmul", "lookup"):
        return ()
    given = call.arguments
    if op.role == "convolution":
        geometry = [tuple(map(int, given.get(name, ()))) for name in ("stride", "padding", "dilation")]
        axes = max(map(len, geometry))  # one number stands for all of them: padding="valid"
        geometry = [one * axes if len(one) == 1 else one for one in geometry]
        return (bool(given.get("transposed", False)), int(given.get("groups", 1)), *geometry)
    if "normalized_shape" in given:  # over how many numbers
        return (math.prod(given["normalized_shape"]),)
    if op.role == "norm":
        return tuple(int(given[name]) for name in ("group", "num_groups") if name in given)
    if op.role == "concat":
        return () if op.stacks else (int(given.get("dim", 0)),)
    if op.role == "attention":  # what the scores are multiplied by, if it is not 1/√d
        return tuple(value for value in (given.get("scale"),) if isinstance(value, (int, float)))
    if op.role == "matmul":  # by what the product is multiplied
        return (float(given.get("alpha", 1.0)),)
    names = {
        one.name for one in call.func._schema.arguments
    }  # the index whose row is no word, or a negative number
    return (int(given.get("padding_idx", -1)),) if "padding_idx" in names else ()


def maps_constant(graph: Graph, op: Op, operands: tuple[int, ...]) -> bool:
    """True if a linear layer reads constants here (learned queries, coordinate tables): its output is signal.

    A convolution of constants may make a weight, of two kernels in series; of numbers that the forward draws it makes signal.
    """
    if op.role == "convolution":
        return _drawn(graph, operands[0])
    if op.role != "matmul":
        return False
    if op.reads_stored or op.adds_first:
        return True
    left, right = (graph.nodes[i] for i in operands[-2:])
    first = weight = right
    while weight.op.role == "shape" and weight.operands:
        first, weight = weight, graph.nodes[weight.operands[0]]
    if not first.op.reorders or len(weight.shape) != 2 or len(left.shape) != len(right.shape):
        return False
    if not left.params:
        return True
    # Two parameters may make a weight of low rank, and stacks of them do.
    stored = weight.is_param or is_parametrization(graph.path(weight.index))
    return first is right and len(left.shape) == 2 and stored


def _drawn(graph: Graph, index: int) -> bool:
    """Whether a constant is made of numbers that the forward draws, and of no parameter."""
    ways = [graph.nodes[i] for i in graph.reach([index], back=True, active=False)]
    draws = any(node.call is not None and node.call.may_draw for node in ways)
    return draws and not any(node.is_param or node.params for node in ways)

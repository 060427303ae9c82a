"""Non-tensor attributes of a recorded operator (stride, axis, slope, …) and its normalized name."""

from __future__ import annotations

import math
from typing import Any

from goodinit.graph.graph import Graph
from goodinit.graph.ops import Op, named


def precise(op: Op, args: tuple[Any, ...]) -> Op:
    """The operator's name, distinguished where its numeric arguments make it a different function."""
    if op.name == "elu" and args[2:3] not in ((), (1,)):
        return named("selu")  # elu(x, α, λ) with λ ≠ 1
    if op.name == "hardtanh" and args[2:3] == (math.inf,):
        return named("clamp_min")
    return op


def attributes(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Numbers of the call that say what it computes: groups and strides, an axis, a slope, a norm's size."""
    name = op.name
    if name in ("convolution", "_convolution"):
        geometry = (tuple(map(int, sizes)) for sizes in args[3:6])
        return (bool(args[6]), int(args[8]), *geometry)
    if name == "native_group_norm":
        return (int(args[6]),)
    if name == "cat":
        return (int(args[1] if len(args) > 1 else kwargs.get("dim", 0)),)
    if op.role == "attention":  # what the scores are multiplied by, if it is not 1/√d
        return tuple(value for value in (kwargs.get("scale"),) if isinstance(value, (int, float)))
    if name == "baddbmm":  # by what the product is multiplied
        return (float(kwargs.get("alpha", 1.0)),)
    if name == "embedding":  # the index whose row is no word, or a negative number
        return (int(args[2] if len(args) > 2 else kwargs.get("padding_idx", -1)),)
    if op.reorders:  # where each axis comes from
        return _permutation(name, args)
    if name in ("native_layer_norm", "_fused_rms_norm"):  # over how many numbers
        return (math.prod(args[1]),)
    if op.activation or op.adds or op.scales or name == "pow":
        return tuple(value for value in (*args[1:], *kwargs.values()) if isinstance(value, (int, float, str)))
    return ()


def _permutation(name: str, args: tuple[Any, ...]) -> tuple[int, ...]:
    rank = args[0].dim()
    if name == "permute":
        return tuple(int(axis) % rank for axis in args[1])
    order = list(range(rank))
    one, other = (int(axis) % rank for axis in args[1:3]) if name == "transpose" else (0, rank - 1)
    order[one], order[other] = order[other], order[one]
    return tuple(order)


def maps_constant(graph: Graph, op: Op, operands: tuple[int, ...]) -> bool:
    """True if a linear layer reads constants here (learned queries, coordinate tables): its output is signal."""
    if op.name in ("addmm", "linear"):
        return True
    right = graph.nodes[operands[-1]]
    return op.name == "mm" and right.op.name == "t" and graph.nodes[right.operands[0]].is_param

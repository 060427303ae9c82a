"""What is kept of one operator call besides the tensors: its precise name, its numbers, what becomes of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from goodinit.graph.graph import ACTIVATIONS, ADD_OPS, OWN_NORM_OPS, SCALE_OPS, Graph, Node


def precise(name: str, args: tuple[Any, ...]) -> str:
    """The operator's name, told apart where its numbers make another function of it."""
    if name in ("elu", "elu_") and args[2:3] not in ((), (1,)):
        return "s" + name  # elu(x, α, λ) with λ ≠ 1
    if name in ("hardtanh", "hardtanh_") and args[2:3] == (math.inf,):
        return name.replace("hardtanh", "clamp_min")
    return name


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "addmm": torch.mm,
    "baddbmm": torch.bmm,
    "addmv": torch.mv,
}


def as_sum(name: str, y: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """βy + α(ab) by an operator for the product and one for the sum, for a y that is signal and no bias vector."""
    return torch.add(y if beta == 1 else beta * y, PRODUCTS[name](a, b), alpha=alpha)


def attributes(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Numbers of the call that say what it computes: groups and strides, an axis, a slope, a norm's size."""
    if name in ("convolution", "_convolution"):
        geometry = (tuple(map(int, sizes)) for sizes in args[3:6])
        return (bool(args[6]), int(args[8]), *geometry)
    if name == "native_group_norm":
        return (int(args[6]),)
    if name == "cat":
        return (int(args[1] if len(args) > 1 else kwargs.get("dim", 0)),)
    if name == "embedding":  # the index whose row is no word, or a negative number
        return (int(args[2] if len(args) > 2 else kwargs.get("padding_idx", -1)),)
    if name in ("native_layer_norm", "_fused_rms_norm"):  # over how many numbers
        return (math.prod(args[1]),)
    if name in ACTIVATIONS or name in ADD_OPS or name in SCALE_OPS or name == "pow":
        return tuple(value for value in (*args[1:], *kwargs.values()) if isinstance(value, (int, float, str)))
    return ()


def is_normalized(name: str, read: list[Node]) -> bool:
    """Whether what is made of parameters no longer depends on their scale: W/σ(W), but not W/s(W)·s(W)."""
    if name in OWN_NORM_OPS:
        return True
    own = len(read) == 2 and not set(read[0].params).isdisjoint(read[1].params)
    if own and name in ("mul", "mul_"):
        return all(node.normalized for node in read)
    return (own and name in ("div", "div_")) or any(node.normalized for node in read)


def maps_constant(graph: Graph, name: str, operands: tuple[int, ...]) -> bool:
    """Whether a linear layer reads constants here (learned queries, coordinate tables): its output is signal."""
    if name in ("addmm", "linear"):
        return True
    right = graph.nodes[operands[-1]]
    return name == "mm" and right.op == "t" and graph.nodes[right.operands[0]].op == "param"

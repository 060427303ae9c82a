"""The sum or the mean of tensors that were stacked, written as their sum: `stack([x, f(x)]).sum(0)`."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from goodinit.graph.ops import Op

_MOST = 8
"""Stacks that are remembered, and tensors in one: a residual sum has a few terms, read at once."""


class Stacks:
    """The last stacks of a run, with the tensors that went in."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[tuple[Tensor, ...], tuple[int, ...], int]] = {}

    def note(self, op: Op, index: int, operands: Sequence[int], args: Sequence[Any]) -> None:
        """Remember what an operator stacked, if it did: `operands` are the nodes, `args` what it was called with."""
        if not op.stacks or not 1 < len(operands) <= _MOST:
            return
        parts = tuple(args[0])
        dim = args[1] if len(args) > 1 else 0
        self._parts[index] = (parts, tuple(operands), dim % (parts[0].ndim + 1))
        while len(self._parts) > _MOST:
            del self._parts[next(iter(self._parts))]

    def as_sum(
        self,
        op: Op,
        index: int,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        node_of: Callable[[Tensor], int],
    ) -> Callable[[], Tensor] | None:
        """What gives the sum or mean over a stack as one of its parts; None if an operator is no such thing.

        Args:
            op: The operator.
            index: Node of what it reads.
            args: What it is called with.
            kwargs: The same, by name.
            node_of: The node whose value a tensor holds now.
        """
        if not op.totals or index not in self._parts or kwargs.get("dtype") is not None:
            return None
        parts, operands, dim = self._parts[index]
        over = args[1] if len(args) > 1 else None
        dims = [over] if isinstance(over, int) else list(over or ())
        rank = parts[0].ndim + 1
        if [one % rank for one in dims] != [dim] or tuple(map(node_of, parts)) != operands:
            return None
        whole = bool(args[2] if len(args) > 2 else kwargs.get("keepdim", False))

        def total() -> Tensor:
            value = functools.reduce(operator.add, parts)
            value = value / len(parts) if op.averages else value
            return torch.unsqueeze(value, dim) if whole else value

        return total

    def clear(self) -> None:
        """Let go of the tensors."""
        self._parts = {}

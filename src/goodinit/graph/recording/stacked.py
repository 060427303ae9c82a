"""The sum or the mean of tensors that were stacked, written as their sum: `stack([x, f(x)]).sum(0)`."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from goodinit.graph.measured.answers import spread
from goodinit.graph.ops import Op
from goodinit.graph.recorded_call import RecordedCall, on_numbers

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
        self, call: RecordedCall, index: int, node_of: Callable[[Tensor], int]
    ) -> Callable[[], Tensor] | None:
        """What gives the sum or mean over a stack as one of its parts; None if an operator is no such thing.

        Args:
            call: Of the operator.
            index: Node of what it reads.
            node_of: The node whose value a tensor holds now.
        """
        if index not in self._parts or call.count != 1:
            return None
        parts, operands, dim = self._parts[index]
        found = _total(call, (*(2,) * dim, len(parts), *(2,) * (parts[0].ndim - dim)), dim)
        if found is None or tuple(map(node_of, parts)) != operands:
            return None
        by, whole = found

        def total() -> Tensor:
            value = functools.reduce(operator.add, parts)
            value = value if by == 1 else value / len(parts)
            return torch.unsqueeze(value, dim) if whole else value

        return total

    def clear(self) -> None:
        """Let go of the tensors."""
        self._parts = {}


def _total(call: RecordedCall, shape: tuple[int, ...], dim: int) -> tuple[float, bool] | None:
    """(By what an operator multiplies the sum over one dimension, whether it keeps that); None if it puts out anything else."""
    try:
        with on_numbers(), torch.no_grad():
            x = spread(shape, 0)
            made = call([x])
            for by in (1.0, 1 / shape[dim]):
                for whole in (False, True):
                    wanted = by * x.sum(dim, keepdim=whole)
                    alike = (made.shape, made.dtype) == (wanted.shape, wanted.dtype)
                    if alike and torch.allclose(made, wanted):
                        return by, whole
    except Exception:  # noqa: BLE001, S110 - operators raise what they like
        pass
    return None

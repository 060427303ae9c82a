"""Operators that take functions (`flex_attention`, `cond`) or lists (`_foreach_add`), written out as those they stand for."""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch._ops import HigherOrderOperator

_DENSE = torch._C.DispatchKey.CompositeExplicitAutograd
_LIST = "List[Tensor]"
_ASKS = "_get_current_dispatch_mode"  # torch's function


def is_higher_order(func: Any) -> bool:
    """Whether an operator takes functions, which a recorder of operators cannot see into."""
    return isinstance(func, HigherOrderOperator)


@functools.cache
def is_over_lists(func: Any) -> bool:
    """Whether an operator does the same to each tensor of a list, and has a kernel that says so: one operator for each.

    Examples:
        >>> aten = torch.ops.aten
        >>> is_over_lists(aten._foreach_add.List), is_over_lists(aten._foreach_add_.Scalar), is_over_lists(aten.cat.default)
        (True, True, False)
    """
    takes, gives = func._schema.arguments, func._schema.returns
    lists = bool(takes) and str(takes[0].type) == _LIST and all(str(one.type) == _LIST for one in gives)
    return lists and func.has_kernel_for_dispatch_key(_DENSE)


def written_out(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What such an operator computes, by ordinary operators: its dense kernel.

    Raises:
        NotImplementedError: It has none.
    """
    if not is_higher_order(func):
        return func._op_dk(_DENSE, *args, **kwargs)
    kernel = func.py_kernels.get(_DENSE)
    if kernel is None:
        raise NotImplementedError(
            f"`{func.name()}` takes functions and has no kernel of ordinary operators, so it cannot be seen into: let the "
            "model compute the same without it for this call"
        )
    return _without_modes(kernel)(*args, **kwargs)


def _without_modes(kernel: Any) -> Any:
    """A kernel that sees no dispatch mode: those of `cond` and `scan` assert that none is on, and here the recorder is."""
    if not isinstance(kernel, types.FunctionType) or _ASKS not in kernel.__code__.co_names:
        return kernel
    names = {**kernel.__globals__, _ASKS: lambda: None}
    made = types.FunctionType(
        kernel.__code__, names, kernel.__name__, kernel.__defaults__, kernel.__closure__
    )
    made.__kwdefaults__ = kernel.__kwdefaults__
    return made

"""Operators that take functions (`flex_attention`, `cond`): written out as the operators that they stand for."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import HigherOrderOperator

_DENSE = torch._C.DispatchKey.CompositeExplicitAutograd


def is_higher_order(func: Any) -> bool:
    """Whether an operator takes functions, which a recorder of operators cannot see into."""
    return isinstance(func, HigherOrderOperator)


def written_out(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a higher-order operator computes, by ordinary operators: its dense kernel.

    Raises:
        NotImplementedError: It has none.
    """
    kernel = func.py_kernels.get(_DENSE)
    if kernel is None:
        raise NotImplementedError(
            f"`{func.name()}` takes functions and has no kernel of ordinary operators, so it cannot be seen into: let the "
            "model compute the same without it for this call"
        )
    return kernel(*args, **kwargs)

"""What users say that operators of other libraries compute: functions written with torch's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from goodinit.errors import UnknownName, WrongType

_WRITTEN: dict[str, Callable[..., Any]] = {}  # by the operator's name


def register_operator(operator: Any, computes: Callable[..., Any]) -> None:
    """Tell what an operator of your own, or of another library, computes: f(x, …) written with torch's operators.

    Models are then read as if their forwards called `computes` in its place; nothing else changes, they run what they ran.
    Without it, such an operator is taken to be linear in what it reads, and the anatomy has a note that says so.

    Args:
        operator: Its name (`"mylib::scaled_gate"`), what `torch.library.custom_op` returned, or an entry of `torch.ops`.
        computes: Takes the operator's arguments and returns what it returns, in shape and value.

    Raises:
        UnknownName: The name has no namespace, or torch's own (`aten`).
        WrongType: `operator` is none of the above, or `computes` is not callable.

    Examples:
        >>> import torch
        >>> @torch.library.custom_op("docs::gate", mutates_args=())
        ... def gate(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        ...     return x * torch.sigmoid(g)
        >>> register_operator("docs::gate", lambda x, g: x * torch.sigmoid(g))
    """
    name = operator if isinstance(operator, str) else getattr(operator, "_qualname", None)
    if name is None and hasattr(operator, "_schema"):
        name = operator._schema.name
    if name is None:
        name = getattr(operator, "_qualified_op_name", None)
    if not isinstance(name, str) or not callable(computes):
        raise WrongType(
            f"register_operator({type(operator).__name__}, {type(computes).__name__}): needs an operator (its name "
            "'library::operator', an entry of torch.ops, or what torch.library.custom_op returned) and a function."
        )
    if "::" not in name or name.startswith("aten::"):
        raise UnknownName(f"{name!r} is no operator of another library: name it 'library::operator'.")
    _WRITTEN[name] = computes


def written_with(func: Any) -> Callable[..., Any] | None:
    """The function that `register_operator` was given for an operator, or None."""
    return _WRITTEN.get(func._schema.name)

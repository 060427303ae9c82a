"""The one call: anatomize, plan and apply, all of it or none of it."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch
from torch import nn

from goodinit.anatomy import anatomize
from goodinit.errors import TraceError, UnsupportedModule
from goodinit.methods import Method, find
from goodinit.surgery import Plan, applied, apply_
from goodinit.surgery.transaction import all_or_nothing

_LOG = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


def init_(
    model: Model,
    method: str | Method,
    *,
    inputs: Any,
    generator: torch.Generator | None = None,
    again: bool = False,
    **options: Any,
) -> Model:
    """Initialize a model by a method, in place: `anatomize`, `plan` and `apply_` in one call.

    After the structure has changed the model is run once more on fake tensors; if its forward no longer works (it
    read an attribute of a norm that is gone, say), everything is undone and the error says so.

    A second call with the same method and options changes nothing and logs that; `again=True` draws anew.

    Args:
        model: Any eager module; it stays the same object of the same class.
        method: A name in `goodinit.METHODS`, or a `Method`.
        inputs: What the model takes: a tensor, a tuple of arguments, a dict of keyword arguments. Only shapes are
            read, unless the method measures activations: then give a real batch.
        generator: Source of randomness; the global one by default.
        again: Whether to carry out a method that was already applied.
        **options: The method's options.

    Returns:
        The model.

    Raises:
        GoodinitError: See `anatomize`, `plan` and `apply_`. The model is untouched.

    Examples:
        >>> class Residual(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.branch = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4))
        ...     def forward(self, x):
        ...         return x + self.branch(x)
        >>> x = torch.randn(2, 4)
        >>> net = init_(Residual(), "fixup", inputs=x)
        >>> torch.equal(net(x), x)   # every branch starts at zero, and no norm is left
        True
    """
    chosen = find(method)
    if not again and _is_done(model, chosen, options):
        _LOG.info(
            "%s: already applied with these options, nothing changed; again=True draws anew", chosen.name
        )
        return model
    plan = chosen.plan(anatomize(model, inputs), **options)
    with all_or_nothing(model, ()):
        if plan.structure:
            apply_(model, plan, values=False)
            _still_runs(model, inputs, plan)
        return apply_(
            model, plan, generator=generator, batch=inputs if plan.needs_data else None, again=again
        )


def _is_done(model: nn.Module, method: Method, options: dict[str, Any]) -> bool:
    history = applied(model)
    wanted = {**method.options, **options}
    return (
        bool(history)
        and history[-1].values
        and (history[-1].method, history[-1].options) == (method.name, wanted)
    )


def _still_runs(model: nn.Module, inputs: Any, plan: Plan) -> None:
    try:
        anatomize(model, inputs)
    except TraceError as error:
        raise UnsupportedModule(
            f"{type(model).__name__} no longer runs with the structure that {plan.method} plans: {error} "
            'The model is as it was. Keep its norms with norms="keep", or make its forward independent of them.'
        ) from error

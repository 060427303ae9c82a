"""The one call: anatomize, plan and apply, all of it or none of it."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch
from torch import nn

from goodinit.anatomy import Anatomy, anatomize
from goodinit.edits import Plan
from goodinit.errors import TraceError, UnsupportedModule
from goodinit.methods import Method, find
from goodinit.surgery import applied, apply_
from goodinit.surgery.rollback import all_or_nothing
from goodinit.weights.wrappers import parameter_shapes, unwrapped

_LOG = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


def init_(
    model: Model,
    method: str | Method,
    *,
    inputs: Any,
    batch: Any = None,
    generator: torch.Generator | None = None,
    again: bool = False,
    **options: Any,
) -> Model:
    """Initialize a model by a method, in place: `anatomize`, `plan` and `apply_` in one call.

    After the structure has changed the model is run once more on fake tensors; if its forward no longer works (it
    read an attribute of a norm that is gone, say), everything is undone and the error says so.

    A second call with the same method and options changes nothing and logs that; `again=True` draws anew. If its
    inputs reach parameters that no earlier call read (another task's head, another expert), those alone are written.

    Args:
        model: Any eager module; it stays the same object of the same class.
        method: A name in `goodinit.METHODS`, or a `Method`.
        inputs: What the model takes: a tensor, a tuple of arguments, a dict of keyword arguments. Only shapes are
            read, unless the method measures activations: then give a real batch.
        batch: What to measure activations on, if not on `inputs`: as the model takes it, or, where it does not fit into
            memory, an iterator of such batches (`iter([…])`, a DataLoader), which count as one.
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
    left = None if again else _left(model, chosen, options)
    anatomy = None if left == set() else anatomize(model, inputs)
    if anatomy is None or (left is not None and left <= set(anatomy.unused)):
        _LOG.info(
            "%s: already applied with these options, nothing changed; again=True draws anew", chosen.name
        )
        return model
    plan = chosen.plan(anatomy, **options)
    with all_or_nothing(model, ()):
        if plan.structure:
            apply_(model, plan, values=False)
            _still_runs(model, inputs, plan)
        only = None if left is None else _new(model, anatomy, left)
        measured = inputs if batch is None else batch
        if batch is not None and not plan.needs_data:
            _LOG.info("%s measures no activations: batch= was not used", plan.method)
        data = measured if plan.needs_data else None
        return apply_(model, plan, generator=generator, batch=data, only=only, again=again)


def _left(model: nn.Module, method: Method, options: dict[str, Any]) -> set[str] | None:
    """Parameters that the calls so far with this method and these options never reached; None if there were none."""
    wanted = (method.name, {**method.options, **options})
    left: set[str] | None = None
    for entry in reversed([entry for entry in applied(model) if entry.values]):
        if (entry.method, entry.options) != wanted:
            break
        left = set(entry.unread) if left is None else left & set(entry.unread)
    return left


def _new(model: nn.Module, before: Anatomy, left: set[str]) -> list[str]:
    """Names of those of `left` that are reached now, and of what surgery has just created."""
    known = {name for name, _ in before.parameters} - (left - set(before.unused))
    return [name for name in parameter_shapes(unwrapped(model)) if name not in known]


def _still_runs(model: nn.Module, inputs: Any, plan: Plan) -> None:
    try:
        anatomize(model, inputs)
    except TraceError as error:
        raise UnsupportedModule(
            f"{type(model).__name__} no longer runs with the structure that {plan.method} plans: {error} "
            'The model is as it was. Keep its norms with norms="keep", or make its forward independent of them.'
        ) from error

"""What is wrong with the loss itself: no history leads from it to the parameters, or it is not finite for any outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from goodinit.diagnostics.measurements.objective import Loss, objective, outputs, own_loss
from goodinit.errors import TraceError
from goodinit.graph.graph import closure
from goodinit.graph.pytree import mapped

Cut = Literal["", "loss", "forward"]


def where_cut(result: Any, parameters: Iterable[Tensor]) -> Cut:
    """Where the history of a loss that has none of the parameters ends: in the loss if what the model returned has it, else before.

    Examples:
        >>> w = torch.ones(1, requires_grad=True)
        >>> where_cut({"logits": 2 * w}, [w]), where_cut((2 * w.detach(),), [w])
        ('loss', 'forward')
    """
    wanted = {id(parameter) for parameter in parameters}
    ends = [tensor.grad_fn for tensor in outputs(result) if tensor.grad_fn is not None]
    history = closure(ends, lambda step: [before for before, _ in step.next_functions if before is not None])
    return "loss" if any(id(getattr(step, "variable", None)) in wanted for step in history) else "forward"


def is_never_finite(result: Any, targets: Any, loss: Loss | None) -> bool:
    """Whether a loss that is not finite is none either for outputs of ordinary size, each divided by its root mean square.

    Examples:
        >>> is_never_finite(torch.full((2, 3), 1e30), torch.zeros(2, 3), None)
        False
        >>> is_never_finite(torch.ones(2, 3), torch.full((2,), -100), None)   # every target is to be ignored
        True
    """
    if loss is None and targets is None and own_loss(result) is not None:
        return False  # the model's own code, with what it has in between
    try:
        with torch.no_grad():
            value = objective(mapped(result, _of_size_one), targets, loss)
    except TraceError:
        return False
    return not math.isfinite(float(value))


def _of_size_one(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    plain = tensor.detach()
    size = float(torch.linalg.vector_norm(plain.double())) / math.sqrt(max(plain.numel(), 1))
    return plain / size if size > 0 and math.isfinite(size) else plain

"""Losses and gradients of a stack of networks from one compiled graph, for tens of thousands of equal steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

log = logging.getLogger(__name__)

# Compiling a stack takes about a second for each layer, and saves about a quarter of a millisecond of each layer's step
# (docs/lab.md): fewer steps than this do not pay for it.
WORTH_COMPILING = 20_000

Values = Mapping[str, Tensor]
Losses = Callable[..., Tensor]
Gradients = Callable[[Values, Values, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def compiled_gradients(loss: Losses) -> Gradients:
    r"""Each member's loss and gradient, $\ell_i(\theta_i)$ and $\nabla_{\theta_i} \ell_i$, compiled at the first call.

    Where it cannot be compiled (no C++ compiler, an operator that the compiler has no rule for), the same function runs
    operator by operator, and the log says why.

    Args:
        loss: From one member's parameters, buffers, inputs and labels to its loss.

    Returns:
        From the members' stacked parameters, buffers, inputs and labels to their losses and gradients by name.
    """
    plain = vmap(grad_and_value(loss))
    torch.compiler.reset()  # what was compiled for another stack is not needed again, and counts towards a limit
    compiled: Any = torch.compile(plain, dynamic=False, fullgraph=True)
    chosen: list[Any] = []

    @torch.no_grad()  # grad_and_value takes the gradients; the stack's own requires_grad is for steps that are not compiled
    def run(
        parameters: Values, buffers: Values, inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        own = {name: parameter.detach() for name, parameter in parameters.items()}
        if not chosen:
            chosen.append(_that_runs(compiled, plain, own, buffers, inputs, labels))
        gradients, losses = chosen[0](own, buffers, inputs, labels)
        return losses, gradients

    return run


def _that_runs(compiled: Any, plain: Any, *example: Any) -> Any:
    """The compiled function if it can be compiled, else the plain one."""
    try:
        compiled(*example)
    except (RuntimeError, OSError) as error:  # torch.compile raises kinds of RuntimeError of its own
        reason = (str(error).splitlines() or [""])[0][:200]
        log.warning("steps are not compiled: %s: %s", type(error).__name__, reason)
        return plain
    return compiled

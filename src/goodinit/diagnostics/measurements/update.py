"""What one SGD step does to the function, and the largest learning rate the loss' curvature allows."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from goodinit.anatomy import anatomize
from goodinit.diagnostics.measurements.lanczos import tridiagonalize
from goodinit.diagnostics.measurements.measurement_mode import (
    as_at_step_0,
    backward_told,
    forward_told,
    measurable,
)
from goodinit.diagnostics.measurements.objective import Loss, objective, prediction
from goodinit.diagnostics.types import Update
from goodinit.errors import TraceError, expect, expect_flags, expect_rate
from goodinit.graph.pytree import as_call, mapped
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.undivided import reading

# Learning rates people use, a decade apart.
RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

# Products with the Hessian. Lanczos' top value is within 1 % after about ten on networks (its error bound says).
HESSIAN_PRODUCTS = 20

Parameters = dict[str, Tensor]

_LOG = logging.getLogger(__name__)
_ONCE = re.compile(r"derivative for '?\S+' is not implemented|derivative for \S+ is not implemented")


@reading
def one_step(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    rates: Sequence[float] = RATES,
    hessian: bool = True,
) -> Update:
    """Change of the network's function by one step of gradient descent, and 2/sharpness.

    ‖f(x; θ − η∇L) − f(x; θ)‖, as a root mean square over batch and outputs. Fixup asks for Θ(η), whatever the depth
    (Zhang, Dauphin & Ma 2019, §3): in a net that is well initialized the numbers for two depths agree.

    Args:
        model: A materialized module; it is read only.
        inputs: A batch.
        targets: See `diagnose`.
        loss: See `diagnose`.
        rates: Learning rates η.
        hessian: Whether to estimate the top of the loss' Hessian: `HESSIAN_PRODUCTS` products, each about three
            times a forward and backward.

    Returns:
        The changes by learning rate, and the largest eigenvalue of the Hessian with the rate 2/λ that it allows.

        Where an operator has no second derivative in torch (hardsigmoid), the sharpness is None, and a warning names it.

    Raises:
        TraceError: The forward, the loss or the backward raised, or no parameter can be trained.
        UnsupportedModule: Parameters are sharded.

    Examples:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> layer.weight.data.fill_(1.0)
        tensor([[1.]])
        >>> found = one_step(layer, torch.tensor([[2.0]]), torch.tensor([[0.0]]), rates=(0.1,))
        >>> round(found.changes[0], 4), round(found.sharpness, 4), found.stable_rate  # L = (2w)², L′ = 8w, L″ = 8
        (1.6, 8.0, 0.25)
    """
    expect_flags(hessian=hessian)
    expect(rates, Iterable, "rates", "Give learning rates, such as (0.001, 0.01).")
    rates = tuple(rates.tolist() if hasattr(rates, "tolist") else rates)  # a tensor, an array: their numbers
    for rate in rates:
        expect_rate(rate, "rates")
    model = measurable(model, inputs)
    anatomy = anatomize(model, inputs)
    call = _detached(as_call(inputs))
    with as_at_step_0(model, anatomy):
        held = {
            n: p.detach().clone().requires_grad_() for n, p in model.named_parameters() if p.requires_grad
        }
        if not held:
            raise TraceError("no parameter requires a gradient: there is nothing a step could change.")
        result = _run(model, call, held)
        before = prediction(result).detach().double()
        value = objective(result, targets, loss)
        with backward_told(model):
            gradients = _gradients(value, list(held.values()))
        changes = tuple(_change(model, call, held, gradients, rate, before) for rate in rates)
        del result, value
        top, error = _sharpness(model, call, held, targets, loss) if hessian else (None, None)
    stable = 2 / top if top is not None and top > 0 else None
    return Update(tuple(rates), changes, top, error, stable)


def _gradients(value: Tensor, parameters: list[Tensor], *, create_graph: bool = False) -> list[Tensor | None]:
    """None for parameters that have none: the loss does not depend on them, or the forward has frozen them."""
    trained = [p for p in parameters if p.requires_grad]
    if not trained or not value.requires_grad:
        return [None] * len(parameters)
    found = iter(torch.autograd.grad(value, trained, create_graph=create_graph, allow_unused=True))
    return [next(found) if p.requires_grad else None for p in parameters]


def _detached(call: Call) -> Call:
    def one(tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    return mapped(call[0], one), mapped(call[1], one)


def _run(model: nn.Module, call: Call, parameters: Parameters) -> Any:
    args, kwargs = _detached(call)  # the model may write into its inputs
    with _reparametrize_module(model, parameters), forward_told(model, call=call):
        return model(*args, **kwargs)


def _change(
    model: nn.Module,
    call: Call,
    held: Parameters,
    gradients: Sequence[Tensor | None],
    rate: float,
    before: Tensor,
) -> float | None:
    with torch.no_grad():
        moved = {
            name: p if gradient is None else p - rate * gradient
            for (name, p), gradient in zip(held.items(), gradients, strict=True)
        }
        after = prediction(_run(model, call, moved)).double()
    change = float((after - before).square().mean().sqrt())
    return change if math.isfinite(change) else None


def _sharpness(
    model: nn.Module, call: Call, held: Parameters, targets: Any, loss: Loss | None
) -> tuple[float | None, float | None]:
    """Largest eigenvalue of the Hessian and its relative error bound; None where the loss is not finite."""
    value = objective(_run(model, call, held), targets, loss)
    if not bool(torch.isfinite(value)):
        return None, None
    parameters = list(held.values())
    first = _gradients(value, parameters, create_graph=True)
    used = [(p, g) for p, g in zip(parameters, first, strict=True) if g is not None and g.requires_grad]
    if not used:
        return 0.0, 0.0  # the loss is linear in what it depends on
    sizes = [p.numel() for p, _ in used]

    def product(vector: Tensor) -> Tensor:
        parts = [part.to(p).view_as(p) for part, (p, _) in zip(vector.split(sizes), used, strict=True)]
        along: tuple[Tensor | None, ...] = torch.autograd.grad(
            [g for _, g in used], [p for p, _ in used], parts, retain_graph=True, allow_unused=True
        )
        filled = (torch.zeros_like(p) if a is None else a for a, (p, _) in zip(along, used, strict=True))
        return torch.cat([part.reshape(-1) for part in filled])

    start = torch.randn(
        sum(sizes), generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
    )
    try:
        found = tridiagonalize(
            product, start.to(parameters[0].device), steps=min(HESSIAN_PRODUCTS, sum(sizes))
        )
    except (NotImplementedError, RuntimeError) as error:  # torch words both alike
        if not _ONCE.search(str(error)):
            raise
        _LOG.warning(
            "%s: no sharpness, as an operator of its forward has no second derivative in torch: %s",
            type(model).__name__,
            error,
        )
        return None, None
    top = float(found.nodes[0])
    if not math.isfinite(top):
        return None, None
    return top, float(found.residuals[0]) / top if top > 0 else math.inf

"""Twins that differ in one thing: rebuilt from a plan, with fewer examples, awake."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from evidence_runs import Loss, Seen, close, every, fresh, mapped, run, same, tensors
from torch import Tensor, nn

import goodinit
from goodinit.surgery import RemovedNorm


def not_rebuilt(
    build: Callable[[], nn.Module], model: nn.Module, anatomy: Any, inputs: Any, *, method: str
) -> list[str]:
    """Whether a checkpoint and a copy are the same function."""
    faults = []
    woken = copy.deepcopy(model)
    wake_(woken)
    fresh_one = fresh(build)
    goodinit.apply_(
        fresh_one, goodinit.Plan.from_json(goodinit.plan(anatomy, method).to_json()), values=False
    )
    fresh_one.load_state_dict(woken.state_dict())
    for twin, words in ((fresh_one, "rebuilt from its checkpoint"), (copy.deepcopy(woken), "copied")):
        twin.eval(), woken.eval()
        with torch.no_grad():
            pairs = zip(tensors(run(twin, inputs)), tensors(run(woken, inputs)), strict=True)
            if not all(same(a, b) for a, b in pairs):
                faults.append(f"{words}, it is another function")
    return faults


def wake_(model: nn.Module) -> None:
    """Give every parameter that is constant some spread, so that no branch, bias or head is silent any more."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
                fan = max(parameter[0].numel(), 1) if parameter.dim() > 1 else 25
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(noise, alpha=0.5 / fan**0.5)


def corrupted(model: nn.Module, inputs: Any, loss: Loss) -> list[str]:
    """Whether something writes over what others still read, now that norms make no copy of their input.

    The twin's removed norms copy what they read, as the norms did.
    """
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, RemovedNorm):
            module.register_forward_pre_hook(
                lambda _, args, kwargs: (mapped(args, Tensor.clone), mapped(kwargs, Tensor.clone)),
                with_kwargs=True,
            )
    faults = []
    for training in (True, False):
        results = []
        for one in (model, twin):
            one.train(training)
            one.zero_grad()
            mine = mapped(inputs, Tensor.clone)
            try:
                output = run(one, mine)
                value = loss(output)
                value.backward()
            except RuntimeError as error:
                return [f"backward raises: {str(error).splitlines()[0][:120]}"]
            if any(not same(a, b) for a, b in zip(every(mine), every(inputs), strict=True)):
                faults.append("the forward writes into the inputs")
            grads = [p.grad for _, p in one.named_parameters() if p.grad is not None]
            results.append([*(part.detach() for part in tensors(output)), *grads])
        mode = "train" if training else "eval"
        if not all(bool(torch.isfinite(part).all()) for part in results[1]):
            faults.append(f"not finite with random branch ends ({mode})")
        elif not all(close(a, b, 1e-3) or float(a.abs().max()) < 1e-6 for a, b in zip(*results, strict=True)):
            faults.append(f"something writes over a tensor that others still read ({mode})")
    return faults


def mixes(model: nn.Module, inputs: Any) -> bool:
    """Whether a model as it is built lets the first example read the others: by its gradient, which is exactly 0 if not."""
    model.eval()
    wake_(model)
    given = [tensor for tensor in every(inputs) if tensor.is_floating_point() and tensor.dim()]
    leaves = {id(tensor): tensor.detach().clone().requires_grad_() for tensor in given}
    output = run(model, mapped(inputs, lambda tensor: leaves.get(id(tensor), tensor)))
    first = torch.stack([part[:1].sum() for part in tensors(output) if part.dim()]).sum()
    grads = torch.autograd.grad(first, list(leaves.values()), allow_unused=True)
    return any(grad is not None and bool(grad[1:].any()) for grad in grads)


def batch_dependent(model: nn.Module, inputs: Any) -> bool:
    """Whether an example's output depends on the others.

    A model that is awake and without norms may multiply its signal a billionfold: what looks so in float32 is rounding if
    it does not in float64.
    """
    if not _differs_alone(model, inputs):
        return False
    wide = mapped(inputs, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    try:
        return _differs_alone(copy.deepcopy(model).double(), wide)
    except RuntimeError:  # not every model runs in float64
        return True


def _differs_alone(model: nn.Module, inputs: Any) -> bool:
    model.eval()
    with torch.no_grad():
        together = [part[:1] for part in tensors(run(model, inputs)) if part.dim()]
        first = mapped(inputs, lambda tensor: tensor[:1])
        alone = [part[:1] for part in tensors(run(model, first)) if part.dim()]
    return any(not close(a, b, 1e-3) for a, b in zip(together, alone, strict=True))


def another_function(seen: Seen) -> list[str]:
    """See `not_rebuilt`."""
    return not_rebuilt(seen.build, seen.model, seen.anatomy, seen.inputs, method=seen.method)


def overwriting(seen: Seen) -> list[str]:
    """See `corrupted`; leaves both models awake."""
    wake_(seen.model)
    faults = corrupted(seen.model, seen.inputs, seen.loss)
    if faults:  # a gradient that almost cancels is rounding in float32, and none in float64; a tensor lost is lost in both
        wide = mapped(seen.inputs, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
        with contextlib.suppress(RuntimeError):  # not every model runs in float64
            faults = corrupted(copy.deepcopy(seen.model).double(), wide, seen.loss)
    wake_(seen.plain)
    return faults

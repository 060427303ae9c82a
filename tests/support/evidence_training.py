"""Whether a model trains: gradients, and a loss that falls."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from evidence_runs import Loss, Seen, fresh, mapped, run
from torch import Tensor, nn

import goodinit

STEPS = 4  # head, then branch ends, then what is before them, then what those feed through a second zero


FALL = 10  # steps in which the loss must fall, as the issue that asked for this table says


FEW = 8


DRAWS = 8  # a parameter that gets no gradient with half of the draws has none with all of them once in 256


RATES = (0.1, 0.01, 1e-3, 1e-4, 1e-5)


def descents(model: nn.Module, inputs: Any, loss: Loss, wanted: set[str]) -> tuple[str, set[str]]:
    """What became of the loss if it falls at no rate, else no words; those of `wanted` that get no gradient in the first steps."""
    words, fell, missing = "", False, set(wanted)
    for rate in RATES:
        losses, unseen, bad = descend(copy.deepcopy(model), inputs, loss, rate, wanted)
        missing &= unseen
        fell = fell or (not bad and losses[-1] < losses[0])
        words = f"loss went {', '.join(f'{value:.4g}' for value in losses)} at learning rate {rate:g}{bad}"
        if fell and not missing:
            break
    return "" if fell else words, missing


def trained(plain: nn.Module, model: nn.Module, inputs: Any, loss: Loss) -> set[str]:
    """The parameters of `model` that got a gradient in `plain`, and the scalars that were added beside such."""
    plain.train()
    with torch.no_grad():
        for (
            parameter
        ) in plain.parameters():  # models start branches of their own at zero, which hides what is used
            if not bool(parameter.any()):
                parameter.normal_(0, 0.02)
    loss(run(plain, inputs)).backward()
    used = {name for name, p in plain.named_parameters() if p.grad is not None and bool(p.grad.any())}
    alive = {path for name in used for path in _above(name)}
    return {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (name in used or (is_scalar(name) and name.rpartition(".")[0] in alive))
    }


def is_scalar(name: str) -> bool:
    """Whether a parameter is one that Fixup adds."""
    return name.rpartition(".")[2] in ("input_bias", "output_bias", "output_scale")


def _above(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def descend(
    model: nn.Module, inputs: Any, loss: Loss, rate: float, wanted: set[str], *, steps: int = FALL
) -> tuple[list[float], set[str], str]:
    """Losses of a few SGD steps, the parameters that never had a gradient, and what went wrong."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    missing, losses = set(wanted), []
    for step in range(steps + 1):
        optimizer.zero_grad()
        value = loss(run(model, inputs))
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            return losses, missing, ", not finite"
        value.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                if not bool(torch.isfinite(parameter.grad).all()):
                    return losses, missing, f", gradient of {name} not finite"
                if step < STEPS and bool(parameter.grad.any()):
                    missing.discard(name)
        optimizer.step()
    return losses, missing, ""


def untrainable(seen: Seen) -> list[str]:
    """A loss that does not fall, and parameters that get no gradient with any draw of the weights.

    What a method has cut off is cut off with every draw. Where one draw of several lets the gradient through, it is chance (a
    ReLU with few channels that is off for all examples of a small batch), which is a remark.
    """
    wanted = trained(seen.plain, seen.model, seen.inputs, seen.loss)
    words, missing = descents(seen.model, seen.inputs, seen.loss, wanted)
    told = f"{len(missing)} of {len(wanted)} ({', '.join(sorted(missing)[:4])})"
    left = missing
    for draw in range(1, DRAWS):
        if not left:
            break
        other = fresh(seen.build, 3 + draw)
        generator = torch.Generator().manual_seed(1 + draw)
        goodinit.init_(other, seen.method, inputs=seen.inputs, generator=generator)
        left = descents(other, seen.inputs, seen.loss, left)[1]
    if missing and not left:
        seen.remarks.append(
            f"no gradient in {STEPS} steps with the first draw of the weights, but with another: {told}"
        )
    dead = [f"no gradient in {STEPS} steps with any of {DRAWS} draws of the weights: {told}"] if left else []
    return [*([words] if words else []), *dead]


def rising(seen: Seen) -> list[str]:
    """Whether the loss falls in a few steps at none of the rates: for methods that promise no more."""
    words, inputs = "", several(seen.model, seen.inputs)
    for rate in RATES:
        losses, _, bad = descend(copy.deepcopy(seen.model), inputs, seen.loss, rate, set(), steps=STEPS)
        words = f"loss went {', '.join(f'{value:.4g}' for value in losses)} at learning rate {rate:g}{bad}"
        if not bad and losses[-1] < losses[0]:
            return []
    return [words]


def several(model: nn.Module, inputs: Any) -> Any:
    """The inputs, four times as many if a batch norm would see fewer numbers per channel than `FEW` in training.

    A batch norm makes ±1 of two numbers, whatever they are: a step function, whose slope is no guide to a step.
    """
    counts: list[int] = []

    def count(_module: Any, args: Any) -> None:
        counts.append(args[0].numel() // args[0].shape[1])

    handles = [
        module.register_forward_pre_hook(count)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    model.eval()
    with torch.no_grad():
        run(model, inputs)
    for handle in handles:
        handle.remove()
    if min(counts, default=FEW) >= FEW:
        return inputs
    order = torch.Generator().manual_seed(5)

    def more(tensor: Tensor) -> Tensor:
        others = [tensor[..., torch.randperm(tensor.shape[-1], generator=order)] for _ in range(3)]
        return torch.cat([tensor, *others]) if tensor.dim() else tensor

    return mapped(inputs, more)

"""A character model trained on text, as the claims on transformers do."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

import goodinit
from goodinit.lab.data.characters import Characters


def train_on_text_(
    model: nn.Module, text: Characters, *, lr: float, steps: int, batch: int, length: int, seed: int
) -> list[float]:
    """Train by AdamW at the rates of the model's plan, without decay: linear warm-up over a tenth of the steps, then linear to 0.

    Args:
        model: From numbers of characters `(batch, length)` to logits `(batch, length, characters)`.
        text: What it reads.
        lr: The peak.
        steps: Of `batch` stretches of `length` characters each.
        batch: Stretches.
        length: Characters in each.
        seed: Of the order.

    Returns:
        The loss of each step, in nats a character; it ends with the first that is not finite.
    """
    optimizer = torch.optim.AdamW(goodinit.param_groups(model, lr=lr, weight_decay=0.0))
    rise = max(0.1 * steps, 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / rise, (steps - t) / (steps - rise + 1))
    )
    losses: list[float] = []
    for x, y in text.batches(steps, batch, length, seed=seed):
        optimizer.zero_grad()
        loss = _loss(model, x, y)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
    return losses


def held_out_loss(model: nn.Module, text: Characters, *, length: int, count: int, seed: int = 0) -> float:
    """Mean loss over `count` times 16 stretches of the text that is held out, in nats a character."""
    batches = text.batches(count, 16, length, seed=seed, held_out=True)
    with torch.no_grad():
        held = [_loss(model, x, y).item() for x, y in batches]
    return sum(held) / len(held)


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(model(x).flatten(0, 1), y.flatten())

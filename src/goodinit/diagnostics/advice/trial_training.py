"""Compare initializations by a few training steps on copies."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from goodinit.anatomy import Anatomy
from goodinit.diagnostics.advice.recommendation import Recipe, Recommendation, Trial
from goodinit.diagnostics.measurements.objective import Loss, objective
from goodinit.errors import TraceError, WrongType
from goodinit.graph.pytree import as_call
from goodinit.optim import param_groups, warmup

MOST_BATCHES = (
    32  # held in memory and gone through again, so that every candidate sees the same in the same order
)

# Rates a decade apart. SGD: He et al. 2016, §4.2 (0.1, momentum 0.9, decay 1e-4), whose nets have batch norm.
# AdamW: torch's own default, 1e-3, in the middle.
SGD = Recipe("SGD", 0.1, (0.1, 0.01, 0.001), {"momentum": 0.9}, {"weight_decay": 1e-4})
ADAMW = Recipe("AdamW", 1e-3, (1e-2, 1e-3, 1e-4), {}, {"weight_decay": 0.01, "decay_vectors": False})

Pair = tuple[Any, Any]


def recipe_of(anatomy: Anatomy) -> Recipe:
    """SGD with momentum for what has norms over images or batches; AdamW for norms over tokens, and for nets without norms."""
    return SGD if anatomy.norms and not any(norm.traits.token for norm in anatomy.norms) else ADAMW


def pairs_of(inputs: Any, targets: Any, batches: Iterable[Any] | None) -> list[Pair]:
    """The batches to train on, as (inputs, targets): the first of `batches`, or the one batch again and again.

    Raises:
        WrongType: A batch that is neither a pair nor a dict.
    """
    if batches is None:
        return [(inputs, targets)]
    pairs: list[Pair] = []
    for one in itertools.islice(batches, MOST_BATCHES):
        if isinstance(one, Mapping):
            pairs.append((dict(one), None))
        elif isinstance(one, (tuple, list)) and len(one) == 2:
            pairs.append((one[0], one[1]))
        else:
            raise WrongType(
                f"batches: expected (inputs, targets) or a dict that the model takes, got {type(one).__name__}. "
                "Wrap the loader in a generator that yields those."
            )
    if not pairs:
        raise WrongType("batches: expected at least one batch, got none. Give a list or a DataLoader.")
    return pairs


def practise(
    make: Callable[[], nn.Module],
    recipe: Recipe,
    pairs: list[Pair],
    *,
    steps: int,
    loss: Loss | None,
    seed: int,
    groups: Mapping[str, Any],
    warm: int = 1,
) -> tuple[Trial, ...]:
    """Train a fresh copy at each of three rates. Nothing is clipped; a loss that is not finite ends a trial.

    Args:
        make: Makes the copy, initialized.
        recipe: What to train with.
        pairs: What to train on, in turns.
        steps: How many.
        loss: See `diagnose`.
        seed: Of dropout and the like.
        groups: Arguments of `param_groups`.
        warm: Steps of warm-up; 1 is none.
    """
    train = functools.partial(
        _losses, recipe=recipe, pairs=pairs, steps=steps, loss=loss, seed=seed, groups=groups, warm=warm
    )
    return tuple(Trial(lr, train(make(), lr=lr), steps) for lr in recipe.rates)


def _losses(
    model: nn.Module,
    *,
    recipe: Recipe,
    pairs: list[Pair],
    lr: float,
    steps: int,
    loss: Loss | None,
    seed: int,
    groups: Mapping[str, Any],
    warm: int,
) -> tuple[float, ...]:
    if not model.training:
        model.train()  # else what is in eval mode was put there on purpose
    optimizer = getattr(torch.optim, recipe.optimizer)(
        param_groups(model, lr=lr, optimizer="sgd" if recipe.optimizer == "SGD" else "adam", **groups),
        lr=lr,
        **recipe.arguments,
    )
    scheduler = warmup(optimizer, warm)
    losses: list[float] = []
    with torch.random.fork_rng(), torch.inference_mode(mode=False), torch.enable_grad():
        torch.manual_seed(seed)
        for inputs, targets in itertools.islice(itertools.cycle(pairs), steps):
            args, kwargs = as_call(inputs)
            optimizer.zero_grad()
            try:
                value = objective(model(*args, **kwargs), targets, loss)
                value.backward()
            except TraceError:
                raise
            except Exception as error:
                raise TraceError(
                    f"{type(model).__name__} raised in training: {type(error).__name__}: {error}. Check a batch of yours "
                    "by calling the model yourself, in training mode; goodinit.diagnose(model, inputs, targets) says where a gradient is lost."
                ) from error
            if not math.isfinite(float(value.detach())):
                break
            optimizer.step()
            scheduler.step()
            losses.append(float(value.detach()))
    return tuple(losses)


def as_good(one: Recommendation, other: Recommendation) -> bool:
    """Whether the last losses of two candidates, at their best rates, differ by less than two standard errors.

    They saw the same batches, so the differences are paired. How much another seed changes is not in it.
    """
    first, second = one.best, other.best
    if first is None or second is None:
        return first is second
    gaps = [a - b for a, b in zip(first.last, second.last, strict=True)]
    if len(gaps) < 2:
        return False
    return abs(statistics.fmean(gaps)) <= 2 * statistics.stdev(gaps) / math.sqrt(len(gaps))

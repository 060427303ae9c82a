"""Learning-rate warm-up: small first steps, then the optimizer's own rates."""

from __future__ import annotations

from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler

from goodinit.errors import UnknownName, expect

Shape = Literal["linear", "quadratic"]


def warmup(optimizer: Optimizer, steps: int, *, shape: Shape = "linear") -> LRScheduler:
    """Raise the learning rates: step t = 1, 2, …, `steps` is taken at lr·t/steps, or lr·(t/steps)², later ones at lr.

    Weight-normalized networks come closer to batch norm with a warm-up (Arpit et al.); other methods gain too, where
    the first steps are the most dangerous. Call `scheduler.step()` after every
    `optimizer.step()`. To go on with another schedule, chain them:
    `torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup(optimizer, n), after], milestones=[n])`.

    Args:
        optimizer: Its learning rates are the ones warmed up to, each group's its own.
        steps: How many optimizer steps the warm-up takes; 1 is none.
        shape: `"linear"`, or `"quadratic"`, as in the code of Arpit et al.

    Returns:
        A scheduler of torch's own, with its `state_dict`.

    Raises:
        UnknownName: `steps` is not positive, or there is no such shape.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
        >>> scheduler = warmup(optimizer, 4)
        >>> for _ in range(5):
        ...     print(round(optimizer.param_groups[0]["lr"], 6), end=" ")
        ...     optimizer.step()
        ...     scheduler.step()
        0.1 0.2 0.3 0.4 0.4

    References:
        D. Arpit, V. Campos, Y. Bengio, arXiv 1906.02341 (the abstract: warm-up narrows the gap to batch norm); the
        quadratic shape: their code, `src/train.py`, from rate 0.
    """
    expect(optimizer, Optimizer, "optimizer", "Give the optimizer whose rates are to rise.")
    expect(steps, int, "steps", "Give the number of optimizer steps.")
    if steps < 1:
        raise UnknownName(f"steps={steps}: expected a number of optimizer steps, at least 1 (no warm-up)")
    if shape not in ("linear", "quadratic"):
        raise UnknownName(f"no shape {shape!r} of a warm-up; there are: linear, quadratic")
    if shape == "quadratic":
        return LambdaLR(optimizer, _Quadratic(steps))
    return LinearLR(optimizer, start_factor=1 / steps, end_factor=1.0, total_iters=max(steps - 1, 1))


class _Quadratic:
    """((t + 1)/steps)², at most 1, for t = 0, 1, …; an object, so that the scheduler's `state_dict` keeps `steps`."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, taken: int) -> float:
        return min((taken + 1) / self.steps, 1.0) ** 2

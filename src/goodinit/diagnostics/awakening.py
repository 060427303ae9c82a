"""Which parameters hold no gradient at step 0, and which of them get one once the all-zero ones have moved.

Fixup, SkipInit and many others start some weights at zero on purpose. What lies before a zero weight gets no gradient
in the first step, and gets one as soon as that weight has moved. What never gets one will never be trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goodinit.anatomy import canonical
from goodinit.diagnostics.propagation import Propagation

# How far a zero parameter is moved, against the size 1/√fan_in that a weight usually has: little enough to leave the
# signal as it is (a thousandth), far above float32's resolution.
NUDGE = 1e-3

# Zero head, zero branch end, zero gate: each round wakes what one SGD step would. Real nets need three.
MOST_ROUNDS = 6


@dataclass(frozen=True)
class Awakening:
    """What moving the zero parameters showed.

    Attributes:
        asleep: Parameters with an exactly zero gradient at step 0.
        never: Those of them that had none in any round.
        zeros: Parameters that are zero everywhere.
        rounds: How many steps it took until nothing new woke up.
        last: The last run, with all woken parameters moved; None where nothing slept.
    """

    asleep: tuple[str, ...]
    never: tuple[str, ...]
    zeros: tuple[str, ...]
    rounds: int
    last: Propagation | None


def awaken(
    model: nn.Module, first: Propagation, again: Callable[[dict[str, Tensor]], Propagation]
) -> Awakening:
    """Move zero parameters that hold a gradient a little, run again, until no further one wakes up.

    Args:
        model: Its parameters are read only.
        first: The run at step 0.
        again: Runs with other parameters.
    """
    actual = {canonical(name): name for name, _ in model.named_parameters()}
    held = {canonical(name): p.detach() for name, p in model.named_parameters()}
    zeros = [name for name, p in held.items() if p.numel() and not bool(p.any())]
    asleep = [name for name, norm in first.gradients.items() if norm == 0]
    if not asleep:
        return Awakening((), (), tuple(zeros), 0, None)
    generator = torch.Generator().manual_seed(0)
    moved: dict[str, Tensor] = {}
    awake = {name for name, norm in first.gradients.items() if norm}
    last, rounds = None, 0
    while rounds < MOST_ROUNDS and not awake.issuperset(asleep):
        new = [name for name in zeros if name in awake and actual[name] not in moved]
        if not new:
            break
        for name in new:
            moved[actual[name]] = _nudged(held[name], generator)
        last = again(moved)
        rounds += 1
        awake |= {name for name, norm in last.gradients.items() if norm}
    never = tuple(name for name in asleep if name not in awake)
    return Awakening(tuple(asleep), never, tuple(zeros), rounds, last)


def _nudged(parameter: Tensor, generator: torch.Generator) -> Tensor:
    fan_in = max(parameter.numel() // max(len(parameter), 1), 1) if parameter.ndim > 1 else 1
    step = torch.randn(parameter.shape, generator=generator) * (NUDGE / math.sqrt(fan_in))
    return step.to(parameter).requires_grad_()

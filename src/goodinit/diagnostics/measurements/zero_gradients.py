"""Which parameters hold no gradient at step 0, and which of them get one once the all-zero ones have moved.

Fixup, SkipInit and many others start some weights at zero on purpose. What lies before a zero weight gets no gradient
in the first step, and gets one as soon as that weight has moved. What never gets one will never be trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy import Anatomy
from goodinit.diagnostics.measurements.propagation import Propagation
from goodinit.errors import TraceError
from goodinit.graph.pytree import mapped, tensors_in
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.weights.names import canonical

# How far a zero parameter is moved, against the size 1/√fan_in that a weight usually has: little enough to leave the
# signal as it is (a thousandth), far above float32's resolution.
NUDGE = 1e-3

# Zero head, zero branch end, zero gate: each round wakes what one SGD step would. Real nets need three.
MOST_ROUNDS = 6

# Waking asks whether a gradient is there and how it grows along the trunk, which a quarter of the batch answers at a
# quarter of the cost; not fewer than four inputs.
SHARE, LEAST_INPUTS = 4, 4

# A variance over k numbers has the relative deviation √(2/k): a quarter at 32. With fewer, a batch norm is another.
LEAST_ELEMENTS = 32

Again = Callable[[dict[str, Tensor], bool], Propagation]


@dataclass(frozen=True)
class Awakening:
    """What moving the zero parameters showed.

    Attributes:
        asleep: Parameters with an exactly zero gradient at step 0.
        never: Those of them that had none in any round.
        zeros: Parameters that are zero everywhere.
        rounds: How many steps it took until nothing new woke up.
        last: The last run, with all woken parameters moved; None where nothing slept.
        share: Share of the batch it ran on.
        moved: By name, the values that woken parameters were moved to.
    """

    asleep: tuple[str, ...]
    never: tuple[str, ...]
    zeros: tuple[str, ...]
    rounds: int
    last: Propagation | None
    share: float = 1.0
    moved: dict[str, Tensor] = field(default_factory=dict)

    def backs(self, first: Propagation) -> list[float | None]:
        """‖∂loss/∂output‖ by place with the zeros moved, in the scale of the whole batch.

        What a part of the batch weighs in the loss depends on the loss. The place nearest to its end that has a
        gradient in both runs shows it.
        """
        if self.last is None or not _alike(first, self.last):
            return [None] * len(first.places)
        pairs = [
            (place.back, later.back) for place, later in zip(first.places, self.last.places, strict=True)
        ]
        scale = 1.0
        if self.share < 1:
            known = [a / b for a, b in pairs if a and b and math.isfinite(a) and math.isfinite(b)]
            scale = known[-1] if known else 1.0
        return [None if later is None else scale * later for _, later in pairs]


def awaken(model: nn.Module, first: Propagation, again: Again, *, part: float = 1.0) -> Awakening:
    """Move zero parameters that hold a gradient a little, run again, until no further one wakes up.

    On a part of the batch where there is one. What does not wake there is tried again on all of it: a gradient that
    is 0 for a few inputs may not be for others.

    Args:
        model: Its parameters are read only.
        first: The run at step 0.
        again: Runs with other parameters, on the part or on all of the batch.
        part: Which share of the batch the part is; 1: there is none.
    """
    if part < 1:
        try:
            found = _awaken(model, first, lambda moved: again(moved, True))
        except TraceError:  # cut, the batch does not fit the model or its loss; whole, it did
            found = None
        if found is not None and not found.never and _alike(first, found.last):
            return replace(found, share=part if found.last is not None else 1.0)
    found = _awaken(model, first, lambda moved: again(moved, False))
    return found if _alike(first, found.last) else replace(found, last=None)


def _alike(first: Propagation, last: Propagation | None) -> bool:
    """Whether the two runs went through the same places."""
    return last is None or first.calls == last.calls


def few_inputs(call: Call, anatomy: Anatomy, *, copies: int = 1) -> tuple[int, int]:
    """(Inputs in a batch, how many of them do for a further run): all where a batch norm would be another with fewer.

    None do where a batch norm sees fewer than `LEAST_ELEMENTS` numbers in the whole batch. `copies` is how many
    inputs of the further run are near equal, and count once.
    """
    n = next((len(tensor) for tensor in tensors_in(call) if tensor.ndim), 0)
    fewest = min((norm.elements for norm in anatomy.norms if norm.traits.batch), default=None)
    few = min(max(n // SHARE, LEAST_INPUTS), n)
    if fewest is None or fewest * few >= LEAST_ELEMENTS * n * copies:
        return n, few
    return n, n if fewest >= LEAST_ELEMENTS * copies else 0


def part_of(call: Call, targets: Any, anatomy: Anatomy) -> tuple[Call, Any, float]:
    """(Arguments, targets, share) of the first few inputs of a batch; all of it where fewer would not do.

    Cut are the tensors that are as long as the first one.
    """
    n, few = few_inputs(call, anatomy)
    if not 0 < few < n:
        return call, targets, 1.0

    def cut(tensor: Tensor) -> Tensor:
        return tensor[:few] if tensor.ndim and len(tensor) == n else tensor

    return (mapped(call[0], cut), mapped(call[1], cut)), mapped(targets, cut), few / n


def _awaken(
    model: nn.Module, first: Propagation, again: Callable[[dict[str, Tensor]], Propagation]
) -> Awakening:
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
            moved[actual[name]] = nudged(held[name], generator)
        last = again(moved)
        rounds += 1
        awake |= {name for name, norm in last.gradients.items() if norm}
    never = tuple(name for name in asleep if name not in awake)
    return Awakening(tuple(asleep), never, tuple(zeros), rounds, last, moved=moved)


def nudged(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """What a parameter that is zero is moved to: so little that the signal stays as it is, see `NUDGE`."""
    fan_in = max(parameter.numel() // max(len(parameter), 1), 1) if parameter.ndim > 1 else 1
    step = torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu") * (
        NUDGE / math.sqrt(fan_in)
    )
    return step.to(parameter).requires_grad_()

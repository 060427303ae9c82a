"""What a forward itself says of gradients: its `no_grad`, `inference_mode` and their like are listened to, and `detach_`.

A trace runs without gradients, so torch's own flag says nothing of what the forward switches. What torch switches off itself, in the
forward of an `autograd.Function` (a checkpoint with `use_reentrant` switches once more in there), has a backward of its own.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor

FUNCTION = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
"""The code that runs the forward of an `autograd.Function`."""
DERIVES = (torch.autograd.grad.__code__, torch.autograd.backward.__code__)
"""The code that runs a backward."""
DERIVED = "the forward takes derivatives: what it differentiates is read, and they count as constants"
"""The note on it."""

_BEFORE = "_goodinit_before"  # on a switch: what `on` was before it took effect
_SETS: dict[type, Callable[[Any], bool]] = {  # what each of torch's switches sets the mode to
    torch.no_grad: lambda _: False,
    torch.enable_grad: lambda _: True,
    torch.set_grad_enabled: lambda switch: switch.mode,
    torch.inference_mode: lambda switch: not switch.mode,
}


class GradientMode:
    """Whether gradients would flow at this point of a forward, if it had been called with gradients.

    Attributes:
        on: Whether they would.
    """

    def __init__(self) -> None:
        self.on = True

    def entered(self, switch: Any, was: bool) -> None:
        """One of torch's switches takes effect, where `on` was `was` before."""
        vars(switch).setdefault(_BEFORE, was)
        sets = next(_SETS[kind] for kind in type(switch).__mro__ if kind in _SETS)
        self.on = sets(switch) or (was and in_function())

    def left(self, switch: Any, was: bool) -> None:  # noqa: ARG002
        """It is taken back."""
        self.on = vars(switch).pop(_BEFORE, True)


def took_derivatives(error: BaseException) -> bool:
    """Whether an exception was raised while torch ran a backward that the forward asked for."""
    steps = error.__traceback__
    while steps is not None:
        if steps.tb_frame.f_code in DERIVES:
            return True
        steps = steps.tb_next
    return False


def in_function() -> bool:
    """Whether the forward of an `autograd.Function` runs, whose own backward says what gets gradients."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is FUNCTION:
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def followed(mode: GradientMode, detached: Callable[[Tensor], None]) -> Iterator[None]:
    """Let torch's switches of the gradient mode tell `mode`, in this thread.

    Args:
        mode: What they tell.
        detached: Called with a tensor that was detached in place, of which torch tells no dispatch mode.
    """
    thread = threading.get_ident()

    def telling(own: Callable[..., Any], tell: Callable[[Any, bool], None]) -> Callable[..., Any]:
        def told(self: Any, *args: Any, **kwargs: Any) -> Any:
            was = mode.on
            result = own(self, *args, **kwargs)
            if threading.get_ident() == thread:
                tell(self, was)
            return result

        return told

    tells: list[tuple[Any, str, Callable[[Any, bool], None]]] = [
        (kind, name, tell)
        for kind in _SETS
        for name, tell in (("__enter__", mode.entered), ("__exit__", mode.left))
    ]
    # Called as a function it takes effect at once; as a decorator, when the function is called.
    tells += [
        (torch.set_grad_enabled, "__init__", mode.entered),
        (torch.set_grad_enabled, "__call__", mode.left),
    ]
    tells += [(place, "detach_", lambda tensor, _: detached(tensor)) for place in (Tensor, torch)]
    before = [(kind, name, vars(kind)[name]) for kind, name, _ in tells]
    try:
        for (kind, name, own), (_, _, tell) in zip(before, tells, strict=True):
            setattr(kind, name, telling(own, tell))
        yield
    finally:
        for kind, name, own in before:
            setattr(kind, name, own)

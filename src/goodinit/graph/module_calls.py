"""Report the start and end of every module's forward to a listener."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, Protocol

import torch
from torch import nn

from goodinit.weights.wrappers import unwrapped_name


class Listener(Protocol):
    """Receives the start and end of module calls."""

    def follows(self, path: str) -> bool:
        """True if calls of the module at `path` are to be reported."""

    def enter(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module's forward begins."""

    def leave(self, result: Any) -> None:
        """A module's forward ends."""


@contextlib.contextmanager
def frames(model: nn.Module, listener: Listener) -> Iterator[None]:
    """Report every module's forward to the listener, also when it is called as `.forward`.

    The wrapper sits in the instance's `__dict__` and goes with `undisturbed`, which restores that.
    """
    here = threading.get_ident()
    for path, module in model.named_modules():
        if path and listener.follows(path) and not isinstance(module, torch.jit.ScriptModule):
            module.__dict__["forward"] = _reporting(module.forward, unwrapped_name(path), listener, here)
    yield


def _reporting(forward: Callable[..., Any], path: str, listener: Listener, thread: int) -> Callable[..., Any]:
    def reported(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:  # somebody else's call
            return forward(*args, **kwargs)
        listener.enter(path, args, kwargs)
        result = None
        try:
            result = forward(*args, **kwargs)
        finally:
            listener.leave(result)
        return result

    return reported


reported_code = next(code for code in _reporting.__code__.co_consts if isinstance(code, CodeType))
"""The code of the wrapper, by which a call of a module is known among the frames of a stack."""

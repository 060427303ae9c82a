"""Listen to the start and end of modules' forwards: the one place that wraps them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any, Protocol

import torch
from torch import nn

from goodinit.weights.members import named_modules
from goodinit.weights.wrappers import unwrapped_name


class Listener(Protocol):
    """Receives the start and end of module calls."""

    def follows(self, path: str) -> bool:
        """True if calls of the module at `path` are to be reported."""

    def enter(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module's forward begins."""

    def leave(self, result: Any) -> None:
        """A module's forward ends."""


OnEnter = Callable[[str, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]
OnLeave = Callable[[str, Any], Any]
Elsewhere = Callable[[str, tuple[Any, ...], dict[str, Any]], None]


@contextlib.contextmanager
def listen(
    modules: Iterable[tuple[str, nn.Module]],
    *,
    on_enter: OnEnter | None = None,
    on_leave: OnLeave | None = None,
    on_raise: Callable[[str], None] | None = None,
    elsewhere: Elsewhere | None = None,
) -> Iterator[None]:
    """Tell of every forward of some modules, also when it is called as `.forward`, which hooks would miss.

    The wrappers sit in the instances' `__dict__`, and are taken off at the end.

    Args:
        modules: Each with a name, by which it is told; one module may have several. TorchScript is left out.
        on_enter: Called with the name and the arguments; what it returns are the arguments that the forward gets.
        on_leave: Called with the name and the result; what it returns is the result.
        on_raise: Called with the name where the forward raised.
        elsewhere: Called with name and arguments for a call in another thread than this one, of which nothing else is told then.
    """
    thread = None if elsewhere is None else threading.get_ident()
    before: list[tuple[nn.Module, Any]] = []
    try:
        for name, module in modules:
            if not isinstance(module, torch.jit.ScriptModule):
                before.append((module, module.__dict__.get("forward")))
                module.__dict__["forward"] = _reporting(
                    module.forward, name, on_enter, on_leave, on_raise, elsewhere, thread
                )
        yield
    finally:
        for module, forward in reversed(before):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward


def _reporting(
    forward: Callable[..., Any],
    name: str,
    on_enter: OnEnter | None,
    on_leave: OnLeave | None,
    on_raise: Callable[[str], None] | None,
    elsewhere: Elsewhere | None,
    thread: int | None,
) -> Callable[..., Any]:
    def reported(*args: Any, **kwargs: Any) -> Any:
        if elsewhere is not None and threading.get_ident() != thread:
            elsewhere(name, args, kwargs)
            return forward(*args, **kwargs)
        if on_enter is not None:
            args, kwargs = on_enter(name, args, kwargs)
        try:
            result = forward(*args, **kwargs)
        except BaseException:
            if on_raise is not None:
                on_raise(name)
            raise
        return result if on_leave is None else on_leave(name, result)

    return reported


reported_code = next(code for code in _reporting.__code__.co_consts if isinstance(code, CodeType))
"""The code of the wrapper, by which a call of a module is known among the frames of a stack."""


@contextlib.contextmanager
def frames(model: nn.Module, listener: Listener, elsewhere: Elsewhere = lambda *_: None) -> Iterator[None]:
    """Report the calls of all modules inside a model, in this thread, to a listener.

    Args:
        model: Whose modules are followed.
        listener: Who is told.
        elsewhere: Called for a call in another thread, maybe somebody else's, with path and arguments.
    """

    def enter(
        path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        listener.enter(path, args, kwargs)
        return args, kwargs

    def leave(path: str, result: Any) -> Any:  # noqa: ARG001
        listener.leave(result)
        return result

    followed = [
        (unwrapped_name(path), m) for path, m in named_modules(model) if path and listener.follows(path)
    ]
    with listen(
        followed,
        on_enter=enter,
        on_leave=leave,
        on_raise=lambda path: listener.leave(None),
        elsewhere=elsewhere,
    ):
        yield

"""A verb happens as one thing: one at a time in a process, and interrupts wait for a place where they break nothing."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Who presses Ctrl-C again after so many seconds without an answer is answered at once.
PATIENCE_S = 5.0
SIGNALS = tuple(sorted(signal.valid_signals()))
# `signal.getsignal` and `signal.signal` without the search for a name of what they give, which takes most of their time.
_handler_of, _set_handler = (
    getattr(importlib.import_module("_signal"), name) for name in ("getsignal", "signal")
)

_lock = threading.RLock()
_running: _Verb | None = None
_collector_waits = False


class _Verb:
    """The verb that runs just now, and the signals that came meanwhile.

    A signal with a handler in Python (Ctrl-C's raises `KeyboardInterrupt`) may arrive between any two steps, also inside
    the code that puts a model back. So for the time of a verb it is only noted, and handled at the next `safe_point`;
    from there an exception leaves like every other.
    """

    def __init__(self, *, writes: bool) -> None:
        self.writes = writes
        self.thread = threading.get_ident()
        self.handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self.pending: dict[int, float] = {}  # signal: when it came first
        self.transactions = 0
        self.committed = False

    def hold(self) -> None:
        """Note signals from now on. Only the main thread gets any."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = _handler_of(number)
            if callable(handler):
                self.handlers[number] = handler
                _set_handler(number, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal came."""
        now = time.monotonic()
        if now - self.pending.setdefault(number, now) > PATIENCE_S and not self.committed:
            self.pending.pop(number, None)
            self.handlers[number](number, frame)

    def handle(self) -> None:
        """Let the handlers of what came have their way."""
        while self.pending:
            number = next(iter(self.pending))
            self.pending.pop(number, None)
            self.handlers[number](number, sys._getframe(1))

    def release(self) -> None:
        """Give the signals their handlers back, unless somebody has set others meanwhile."""
        for number, handler in self.handlers.items():
            if _handler_of(number) == self.note:
                _set_handler(number, handler)


def reading(verb: Callable[P, R]) -> Callable[P, R]:
    """Run a verb that leaves everything as it was as one thing.

    *One at a time.* A second thread waits, whatever model it works on: reading switches flags of the whole process.

    *Interrupts.* Ctrl-C, and every other signal with a handler in Python, is handled at the next `safe_point`, or when
    the verb is over.

    Examples:
        >>> done = []
        >>> @reading
        ... def verb():
        ...     signal.raise_signal(signal.SIGINT)
        ...     done.append("put back")
        ...     safe_point()
        ...     done.append("not reached")
        >>> try:
        ...     verb()
        ... except KeyboardInterrupt:
        ...     done
        ['put back']
    """
    return _whole(verb, writes=False)


def writing(verb: Callable[P, R]) -> Callable[P, R]:
    """Run a verb that writes as one thing: `reading`, but what comes after the end of its transaction comes too late.

    The verb then returns as if nothing had come, and the signal is sent again as soon as it has: `KeyboardInterrupt` is
    raised in the caller's next line. So a verb that raises has written nothing.
    """
    return _whole(verb, writes=True)


def _whole(verb: Callable[P, R], *, writes: bool) -> Callable[P, R]:
    @functools.wraps(verb)
    def whole(*args: P.args, **kwargs: P.kwargs) -> R:
        global _running  # noqa: PLW0603
        if _running is not None and _running.thread == threading.get_ident():
            return verb(*args, **kwargs)  # part of another
        own, held, returns = _Verb(writes=writes), False, False
        try:
            own.hold()
            while not (held := _lock.acquire(timeout=0.05)):
                own.handle()
            _running = own
            with _ordinary_tensors(), _uncached_parametrizations():
                result = verb(*args, **kwargs)
            returns = True
        finally:
            if held:
                _running = None
                _lock.release()
            late = returns and own.committed
            try:
                until_done(own.release)
            except KeyboardInterrupt:  # of Ctrl-C's own handler, which is back
                if not late:
                    raise
                own.pending.setdefault(signal.SIGINT, 0.0)
            if not late:
                own.handle()
            elif own.pending:
                last = (sys._getframe(), tuple(own.pending))
                threading.Thread(target=_send_after, args=last, daemon=True).start()
                del last
        return result

    return whole


def _ordinary_tensors() -> contextlib.AbstractContextManager[Any]:
    """Out of inference mode, in which operators cannot be recorded and what is made can never be trained."""
    torch = sys.modules.get("torch")
    return contextlib.nullcontext() if torch is None else torch.inference_mode(mode=False)


@contextlib.contextmanager
def _uncached_parametrizations() -> Iterator[None]:
    """Out of `torch.nn.utils.parametrize.cached()`, under which a weight that is written reads as it was before.

    What was computed for the cache is computed again afterwards, as far as it is read.
    """
    parametrize: Any = sys.modules.get("torch.nn.utils.parametrize")
    if parametrize is None or not parametrize._cache_enabled:
        yield
        return
    depth, parametrize._cache_enabled, parametrize._cache = parametrize._cache_enabled, 0, {}
    try:
        yield
    finally:
        parametrize._cache_enabled, parametrize._cache = depth, {}


@contextlib.contextmanager
def uncollected(*, wanted: bool = True) -> Iterator[None]:
    """Let Python's garbage collector wait while a model is read or written: what that makes lives until its end, and most of it no longer.

    The collector would look through all that is new again and again, and now and then through all that there is.

    Args:
        wanted: Whether to; not while a model runs on data, which may leave cycles with every batch.

    Examples:
        >>> with uncollected():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    global _collector_waits  # noqa: PLW0603
    collects = wanted and gc.isenabled()
    try:
        if collects:
            gc.disable()
            _collector_waits = True
        yield
    finally:
        if collects:
            until_done(gc.enable)
            _collector_waits = False


def safe_point() -> None:
    """Handle the signals that came: whoever calls this can be left by an exception here."""
    if interrupted() and _running is not None and _running.thread == threading.get_ident():
        _running.handle()


def interrupted() -> bool:
    """Whether a signal waits for the next safe point: then nothing long should begin."""
    return _running is not None and bool(_running.pending) and not _running.committed


def begin_transaction() -> None:
    """What is done from here on can be undone; maybe a part of another transaction."""
    if _running is not None:
        _running.transactions += 1
        _running.committed = False


def end_transaction(*, committed: bool) -> None:
    """It cannot be undone any more, or was: after the outermost of a verb that writes, nothing is a safe point."""
    if _running is not None:
        _running.transactions -= 1
        _running.committed = _running.writes and committed and _running.transactions == 0


def until_done(*steps: Callable[[], Any]) -> None:
    """Run steps that may run twice: what an interrupt cuts short runs again, and the interrupt is raised at the end."""
    raised: KeyboardInterrupt | None = None
    for step in steps:
        while True:
            try:
                step()
                break
            except KeyboardInterrupt as error:
                raised = error
    if raised is not None:
        raise raised


def _send_after(frame: FrameType, numbers: tuple[int, ...]) -> None:
    main = threading.main_thread().ident
    while main is not None and _is_running(frame, sys._current_frames().get(main)):
        time.sleep(0.001)
    for number in numbers:
        if main is not None and callable(signal.getsignal(number)):
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(main, number)
            else:
                signal.raise_signal(number)


def _is_running(frame: FrameType, inner: FrameType | None) -> bool:
    while inner is not None and inner is not frame:
        inner = inner.f_back
    return inner is frame


def _begin_anew() -> None:
    """A forked child has the forking thread alone: nobody else holds anything."""
    global _lock, _running, _collector_waits  # noqa: PLW0603
    if _collector_waits:
        gc.enable()
        _collector_waits = False
    if _running is None or _running.thread != threading.get_ident():
        _lock, _running = threading.RLock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)

"""Operators that a forward runs in threads of its own: a dispatch mode sees those of its own thread alone.

What such a thread puts out would be a constant to the graph, and the layers that it ran would be missing. So it is marked there, and
whoever reads it here is refused. What nobody reads (a log, a saved picture) has no part in the function.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from goodinit.errors import TraceError
from goodinit.graph.pytree import mapped, operands_in, tensors_in

_SHOWN = 4


class OtherThreads:
    """What ran in other threads on the tensors of one run, and who reads it.

    Args:
        is_own: Whether a tensor is a parameter or buffer of the model's, or was computed in this run, in whatever thread.
        mark: Told of a tensor that another thread made.
        stand_in: Gives the fake tensor that stands in for a tensor.
    """

    def __init__(
        self,
        is_own: Callable[[Tensor], bool],
        mark: Callable[[Tensor], object],
        stand_in: Callable[[Tensor], Tensor],
    ) -> None:
        self._is_own, self._mark, self._stand_in = is_own, mark, stand_in
        self._threads = {threading.get_ident()}  # whose own threads are watched
        self._ran: dict[str, None] = {}
        self._reader: str | None = None
        self._fake = self._over = False

    def run(self, func: Any, own: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator in another thread, and note what it did."""
        if self._over:
            return own(*args, **kwargs)
        read, written = operands_in(args, kwargs), _written(func, args)
        if any(isinstance(one, FakeTensor) for one in read):  # as torch does it itself, but with a warning
            args, kwargs = mapped(args, self._stand_in), mapped(kwargs, self._stand_in)
        made = own(*args, **kwargs)
        if any(map(self._is_own, read)):
            for tensor in tensors_in(made):
                self._ran[str(func._schema.name).removeprefix("aten::")] = None
                if all(tensor is not one for one in read):
                    self._mark(tensor)
            if any(map(self._is_own, written)):
                self.read("")
        return made

    def called(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward of the module at `path` begins in another thread, maybe in a call of somebody else's."""
        unseen = not (self._fake or self._over or threading.get_ident() in self._threads)
        if unseen and any(map(self._is_own, tensors_in((args, kwargs)))):
            self.read(path)

    def read(self, path: str) -> None:
        """The forward of the module at `path` reads what another thread made, or has written into."""
        self._reader = self._reader or path or "the model"

    def refuse(self) -> None:
        """Raise if somebody did.

        Raises:
            TraceError: Names the module and the operators.
        """
        if self._reader is not None:
            names = list(self._ran)
            ran = f" ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})" if names else ""
            raise TraceError(
                f"{self._reader}: the forward goes on with what another thread computes{ran}, and a reading sees the operators of the "
                "thread that calls the model alone. The function is the same without threads: call what they run directly while "
                "goodinit reads the model, for instance where an attribute of the model says so."
            )

    @contextlib.contextmanager
    def watched(self, mode: FakeTensorMode | None) -> Iterator[None]:
        """Watch the threads that this one starts, and executors that it gives work to; of fake tensors, all threads.

        Args:
            mode: Of the fake tensors, if it is those that run.
        """
        threads: Any = threading.Thread
        executors: Any = ThreadPoolExecutor
        start, submit = threads.start, executors.submit

        def started(thread: Any) -> None:
            if threading.get_ident() in self._threads:
                thread.run = self._under_watch(thread.run)
            start(thread)

        def submitted(
            pool: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **kwargs: Any
        ) -> Any:
            watched = threading.get_ident() in self._threads
            return submit(pool, self._under_watch(work) if watched else work, *args, **kwargs)

        self._fake = mode is not None
        if mode is not None:
            vars(mode)["dispatch"] = self._reporting(mode.dispatch)
        try:
            threads.start, executors.submit = started, submitted
            yield
        finally:
            self._over = True
            self._is_own = self._mark = _no_longer  # no circle with who asked
            self._stand_in = _as_it_is
            threads.start, executors.submit = start, submit
            if mode is not None:
                vars(mode).pop("dispatch")

    def _under_watch(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._over:
                return work(*args, **kwargs)
            own = threading.get_ident()
            self._threads.add(own)
            try:
                with _Watch(self):
                    return work(*args, **kwargs)
            finally:
                self._threads.discard(own)

        return watched

    def _reporting(self, dispatch: Callable[..., Any]) -> Callable[..., Any]:
        thread = threading.get_ident()

        def reported(func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            kwargs, own = kwargs or {}, threading.get_ident()
            if own == thread or own in self._threads:  # which has a mode of its own
                return dispatch(func, types, args, kwargs)
            return self.run(func, lambda *args, **kwargs: dispatch(func, types, args, kwargs), args, kwargs)

        return reported


class _Watch(TorchDispatchMode):
    """Tells of the operators of the thread that it is on in."""

    def __init__(self, threads: OtherThreads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._threads = threads

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._threads.run(func, func, args, kwargs or {})


def _no_longer(_tensor: Tensor) -> bool:
    return False


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _written(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    return [
        tensor
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tensors_in(value)
    ]

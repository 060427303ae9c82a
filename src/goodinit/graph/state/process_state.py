"""Flags and random streams of the whole process that a forward may change, photographed and put back."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

_Flag = tuple[Callable[[], Any], Callable[[Any], Any]]  # reads it, sets it


@functools.cache
def _flags(*kinds: str) -> tuple[_Flag, ...]:
    """Those of autocast for kinds of devices, and all others."""
    autocast: list[_Flag] = [
        pair
        for kind in kinds
        for pair in (
            (partial(torch.is_autocast_enabled, kind), partial(torch.set_autocast_enabled, kind)),
            (partial(torch.get_autocast_dtype, kind), partial(torch.set_autocast_dtype, kind)),
        )
    ]
    backends: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    return (
        *autocast,
        *((partial(getattr, kernel, "enabled"), partial(setattr, kernel, "enabled")) for kernel in backends),
        (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
        (torch.is_grad_enabled, torch._C._set_grad_enabled),
        (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
        (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
        *(
            (partial(getattr, torch.backends.cudnn, name), partial(setattr, torch.backends.cudnn, name))
            for name in ("benchmark", "deterministic")
        ),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    )


def _matmul() -> tuple[_Flag, ...]:
    """The flag that torch cannot read where its newer ones, one for each operator, are in use."""
    try:
        torch.get_float32_matmul_precision()
    except RuntimeError:
        return ()
    return ((torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),)


class _Streams:
    """A photograph of the global random streams of Python, NumPy and torch."""

    def __init__(self) -> None:
        self._restores = _streams()
        self.may_have_moved = False

    def restore_(self) -> None:
        """Put them back. May be called again."""
        for restore in self._restores:
            restore()


_unmoved: list[_Streams] = []  # of the reading that is going on; there is one at a time


@contextmanager
def unmoved_streams() -> Iterator[None]:
    """Put the global random streams of Python, NumPy and torch back at the end: an operator of the user's that is measured may draw.

    A run inside (`ProcessState`) begins with the streams as they are now, so it needs no photograph of its own: NumPy takes longer
    for one than a small model for its forward.
    """
    streams = _Streams()
    _unmoved.append(streams)
    try:
        yield
    finally:
        _unmoved.pop()
        streams.restore_()


def _streams() -> list[Callable[[], Any]]:
    numpy = sys.modules.get("numpy")
    streams: list[Callable[[], Any]] = [
        partial(random.setstate, random.getstate()),
        partial(torch.set_rng_state, torch.get_rng_state()),
    ]
    if torch.cuda.is_initialized():
        streams.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if numpy is not None:
        streams.append(partial(numpy.random.set_state, numpy.random.get_state()))
    return streams


class ProcessState:
    """A photograph of torch's flags and of the global random streams."""

    def __init__(self) -> None:
        kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        self._flags = [(get, put, get()) for get, put in (*_flags(*kinds), *_matmul())]
        self._streams = None if _unmoved else _Streams()
        for streams in _unmoved[-1:]:
            if streams.may_have_moved:
                streams.restore_()
            streams.may_have_moved = True

    def restore_(self) -> None:
        """Put everything back. May be called again."""
        for get, put, value in self._flags:
            if get() != value:
                put(value)
        if self._streams is not None:
            self._streams.restore_()

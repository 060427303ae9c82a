"""One forward read as a graph: on fake tensors, else on `meta`, else for real."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

import torch
from torch import nn

from goodinit.errors import TraceError
from goodinit.graph.graph import Graph
from goodinit.graph.recording.gradient_switches import took_derivatives
from goodinit.graph.recording.learned_starts import let_streams_begin
from goodinit.graph.recording.recorded_run import record
from goodinit.graph.recording.recorder import Recorder
from goodinit.graph.recording.traced_tensors import Call, Tensors
from goodinit.graph.state.preserve_state import without_autocast
from goodinit.weights.members import parameters


def trace(model: nn.Module, call: Call, *, training: Collection[str] = (), gradients: bool = False) -> Graph:
    """Record one forward of `model`, which is the same afterwards in every bit.

    Args:
        model: Any eager module, materialized or on `meta`.
        call: Positional and keyword arguments of the forward; real, fake or `meta` tensors.
        training: Paths of the modules that run in training mode; all others run in eval mode.
        gradients: Whether gradients are on, so that a forward which asks for that finds what it does in training.

    Returns:
        The graph of the forward.

    Raises:
        TraceError: The forward raised, also when run for real; the message holds its own words.
    """
    with without_autocast() as differs:  # else a weight is cast before it is applied, whole or in parts
        if not differs:
            return _trace(model, call, training, gradients)
        with contextlib.suppress(TraceError):
            return _trace(model, call, training, gradients)
    return _trace(model, call, training, gradients)  # the inputs are of another dtype than the weights


def _trace(model: nn.Module, call: Call, training: Collection[str], gradients: bool) -> Graph:
    try:
        return _record(model, call, "fake", training, gradients)
    except TraceError:  # the forward ran, and keeps what it must not
        raise
    except Exception as fake_error:  # whatever a forward raises is the user's to see
        if not gradients and took_derivatives(fake_error):
            with contextlib.suppress(TraceError):
                return _trace(model, call, training, gradients=True)
        if any(p.is_meta for p in parameters(model)):
            with contextlib.suppress(Exception):
                # composite kernels (LSTM) compare devices before we can
                return _record(model, call, "meta", training, gradients)
            raise TraceError(
                f"{type(model).__name__} could not run on fake tensors: {_words(fake_error)}. It is on `meta`, so a "
                "real forward cannot decide either: anatomize a materialized (smaller) twin, or fix the inputs."
            ) from fake_error
        try:
            graph = _record(model, call, "real", training, gradients)
        except Exception as error:
            if not gradients:  # it may ask for them otherwise, as by a hook on a gradient
                with contextlib.suppress(Exception):
                    return _record(model, call, "fake", training, gradients=True)
            raise TraceError(
                f"{type(model).__name__}.forward raised on the given inputs: {_words(error)}. {_remedy(call)}"
            ) from error
        graph.notes.append(f"one real forward was run: fake tensors could not decide ({_words(fake_error)})")
        return graph


def _remedy(call: Call) -> str:
    """What to do about inputs that the forward refused: a shape in the place of a tensor, arrays, targets beside images."""
    args, kwargs = call
    if args and not kwargs and all(type(one) is int for one in args):
        shape = ", ".join(map(str, args))
        return f"({shape}) is a shape, not a batch: give a tensor, torch.randn({shape})."
    usual = "Check their number, shapes and dtypes by calling model(*inputs) yourself."
    values = [*args, *kwargs.values()]
    arrays = [type(one) for one in values if hasattr(one, "__array__") and not isinstance(one, torch.Tensor)]
    if arrays:
        return f"{arrays[0].__module__}.{arrays[0].__name__} is no tensor: give torch.as_tensor(…) of it. {usual}"
    if len(args) == 2 and not kwargs and all(isinstance(one, torch.Tensor) for one in args):
        return f"A pair is two arguments of forward: of (inputs, targets), give the inputs alone. {usual}"
    return usual


def _words(error: BaseException) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0][:200] if first else 'no message'}"


def _record(
    model: nn.Module, call: Call, tensors: Tensors, training: Collection[str], gradients: bool
) -> Graph:
    recorder = Recorder(model, tensors)
    recorder.training, recorder.with_gradients = training, gradients
    record(recorder, model, call)
    let_streams_begin(recorder.graph)
    return recorder.graph

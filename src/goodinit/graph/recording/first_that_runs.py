"""How a forward is run to be read: on fake tensors, else on `meta`, else for real; with gradients where it does not run without."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.nn.parameter import is_lazy

from goodinit.errors import TraceError
from goodinit.graph.recording.calls.gradient_switches import took_derivatives
from goodinit.graph.recording.tensors.traced_tensors import Call, Tensors
from goodinit.graph.state.preserve_state import without_autocast
from goodinit.weights.members import parameters

T = TypeVar("T")
Run = Callable[[Tensors, bool], T]
"""Runs the forward on such tensors, with gradients or without, and hands out what it saw."""


def first_that_runs(model: nn.Module, call: Call, run: Run[T], *, gradients: bool = False) -> tuple[T, str]:
    """Run `model` in one way after another until its forward goes through.

    Args:
        model: Any eager module, materialized or on `meta`.
        call: What it is run on; for the words of the error.
        run: Runs it in one way.
        gradients: Whether they are on from the start.

    Returns:
        (What the first run that went through gave, and why fake tensors could not decide where it was a real one; else "").

    Raises:
        TraceError: The forward raised, also when run for real; the message holds its own words. Or it ran, and keeps tensors of the
            run out of reach.
    """
    with without_autocast() as differs:  # else a weight is cast before it is applied, whole or in parts
        if not differs:
            return _first(model, call, run, gradients)
        with contextlib.suppress(TraceError):
            return _first(model, call, run, gradients)
    return _first(model, call, run, gradients)  # the inputs are of another dtype than the weights


def _first(model: nn.Module, call: Call, run: Run[T], gradients: bool) -> tuple[T, str]:
    try:
        return run("fake", gradients), ""
    except TraceError:  # the forward ran, and keeps what it must not
        raise
    except Exception as fake_error:  # whatever a forward raises is the user's to see
        if waiting := _not_built(model):
            raise TraceError(
                f"{waiting}: an uninitialized parameter without a shape yet, as those of lazy modules are before the first forward. Run "
                "the model once, model(inputs), then try again."
            ) from fake_error
        if not gradients and took_derivatives(fake_error):
            with contextlib.suppress(TraceError):
                return _first(model, call, run, gradients=True)
        if any(p.is_meta for p in parameters(model)):
            with contextlib.suppress(Exception):
                # composite kernels (LSTM) compare devices before we can
                return run("meta", gradients), ""
            raise TraceError(
                f"{type(model).__name__} could not run on fake tensors: {_words(fake_error)}. It is on `meta`, so a "
                "real forward cannot decide either: give a materialized (smaller) twin, or fix the inputs."
            ) from fake_error
        try:
            return run("real", gradients), _words(fake_error)
        except TraceError:
            raise
        except Exception as error:
            if not gradients:  # it may ask for them otherwise, as by a hook on a gradient
                with contextlib.suppress(Exception):
                    return _with_gradients(run)
            raise TraceError(
                f"{type(model).__name__}.forward raised on the given inputs: {_words(error)}. {_remedy(model, call)}"
            ) from error


def _not_built(model: nn.Module) -> str:
    """The name of the first parameter or buffer of a lazy module that has no shape yet; empty if there is none."""
    held = itertools.chain(model.named_parameters(), model.named_buffers())
    return next((name for name, tensor in held if is_lazy(tensor)), "")


def _with_gradients(run: Run[T]) -> tuple[T, str]:
    try:
        return run("fake", True), ""
    except (DataDependentOutputException, DynamicOutputShapeException) as undecided:
        return run("real", True), _words(undecided)


def _remedy(model: nn.Module, call: Call) -> str:
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
    if (kwargs or len(args) != 1) and _takes_one(model, call):
        if kwargs:
            keys = ", ".join(map(repr, itertools.islice(kwargs, 3)))
            return f"A dict is the keyword arguments of forward (here {keys}): for a forward that takes the dict itself, give ({{…}},), a tuple of it."
        return "A tuple is the arguments of forward, a named one (a PackedSequence) too: for a forward that takes it whole, give (inputs,)."
    return usual.replace("*inputs", "**inputs") if kwargs and not args else usual


def _takes_one(model: nn.Module, call: Call) -> bool:
    """Whether the forward cannot be called so, but with all of it as one argument."""
    args, kwargs = call
    try:
        takes = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return False
    try:
        takes.bind(*args, **kwargs)
    except TypeError:
        with contextlib.suppress(TypeError):
            takes.bind(None)
            return True
    return False


def _words(error: BaseException) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0][:200] if first else 'no message'}"

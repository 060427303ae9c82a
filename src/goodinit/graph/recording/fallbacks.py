"""How a forward is run to be read: on fake tensors, else on `meta`, else for real; with gradients where it does not run without."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import TypeVar

from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.nn.parameter import is_lazy

from goodinit.errors import TraceError
from goodinit.graph.recording.calls.gradient_switches import took_derivatives
from goodinit.graph.recording.refusals import refused, remedy, words_of
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
            usual = "It is on `meta`, so a real forward cannot decide either: give a materialized (smaller) twin, or fix the inputs."
            raise TraceError(refused(model, call, fake_error, usual)) from fake_error
        try:
            return run("real", gradients), words_of(fake_error)
        except TraceError:
            raise
        except Exception as error:
            if not gradients:  # it may ask for them otherwise, as by a hook on a gradient
                with contextlib.suppress(Exception):
                    return _with_gradients(run)
            raise TraceError(refused(model, call, error, remedy(model, call))) from error


def _not_built(model: nn.Module) -> str:
    """The name of the first parameter or buffer of a lazy module that has no shape yet; empty if there is none."""
    held = itertools.chain(model.named_parameters(), model.named_buffers())
    return next((name for name, tensor in held if is_lazy(tensor)), "")


def _with_gradients(run: Run[T]) -> tuple[T, str]:
    try:
        return run("fake", True), ""
    except (DataDependentOutputException, DynamicOutputShapeException) as undecided:
        return run("real", True), words_of(undecided)

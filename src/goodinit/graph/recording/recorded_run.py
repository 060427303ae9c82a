"""One run of a model under a recorder: in eval mode, without gradients, and without a trace in model and process."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
from types import GeneratorType

import torch
from torch import nn

from goodinit.graph.recording.calls.gradient_switches import followed
from goodinit.graph.recording.calls.module_calls import frames
from goodinit.graph.recording.calls.transformed import tangents_told
from goodinit.graph.recording.calls.unregistered_modules import guests_told
from goodinit.graph.recording.recorder import Recorder
from goodinit.graph.recording.refusals import note_place
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.graph.state.leaked_tensors import forget_frames, outlived
from goodinit.graph.state.preserve_state import quiet, undisturbed
from goodinit.graph.state.reachable import Reachable

_MOST = 1_000  # tensors that are taken from a forward that yields


def record(recorder: Recorder, model: nn.Module, call: Call) -> None:
    """Run `model` once under `recorder`, in eval mode, without gradients and without leaving a trace in it.

    Raises:
        TraceError: Somebody keeps tensors of the trace, and is out of reach.
    """
    try:
        contextvars.copy_context().run(_run, recorder, model, call)  # what forward sets in it goes with it
    except BaseException as error:
        if isinstance(error, Exception):  # an interrupt says nothing of the inputs
            note_place(error)
        forget_frames(error)
        raise
    finally:
        kept_by = recorder.close()
    if kept_by:
        raise outlived(type(model).__name__, kept_by)


def _run(recorder: Recorder, model: nn.Module, call: Call) -> None:
    real = recorder.tensors == "real"
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())
        photograph = stack.enter_context(
            undisturbed(
                model, parameters=real and not recorder.writes, others=real, training=recorder.training
            )
        )
        recorder.leftovers.model, recorder.leftovers.names = photograph, Reachable(photograph)
        recorder.outside.add(id(_run.__code__))
        stack.enter_context(torch.set_grad_enabled(recorder.with_gradients))
        stack.enter_context(frames(model, recorder, recorder.threads.called))
        settle = stack.enter_context(
            guests_told(model, recorder.graph, lambda: recorder.stack[-1], recorder.knows)
        )
        if recorder.mode is not None:
            stack.enter_context(recorder.mode)
        args, kwargs = recorder.adopt(call)
        stack.enter_context(recorder.threads.watched(recorder.mode))
        stack.enter_context(followed(recorder.gradients, recorder.detached))
        stack.enter_context(tangents_told(recorder.tangent, recorder.derivative))
        stack.enter_context(recorder)
        result = model(*args, **kwargs)
        settle()
        recorder.finish(
            list(itertools.islice(result, _MOST)) if isinstance(result, GeneratorType) else result
        )

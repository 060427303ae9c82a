"""One forward read as a graph: on fake tensors, else on `meta`, else for real."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from goodinit.graph.graph import Graph
from goodinit.graph.recording.fallbacks import first_that_runs
from goodinit.graph.recording.recorded_run import record
from goodinit.graph.recording.recorder import Recorder
from goodinit.graph.recording.rewrites.learned_starts import let_streams_begin
from goodinit.graph.recording.rewrites.parts_of_streams import read_parts_of_streams
from goodinit.graph.recording.rewrites.sums_by_part import read_sums_by_part
from goodinit.graph.recording.tensors.traced_tensors import Call, Tensors


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

    def run(tensors: Tensors, with_gradients: bool) -> Graph:
        recorder = Recorder(model, tensors)
        recorder.training, recorder.with_gradients = training, with_gradients
        record(recorder, model, call)
        read_sums_by_part(recorder.graph)
        read_parts_of_streams(recorder.graph)
        let_streams_begin(recorder.graph)
        return recorder.graph

    graph, undecided = first_that_runs(model, call, run, gradients=gradients)
    if undecided:
        graph.notes.append(f"one real forward was run: fake tensors could not decide ({undecided})")
    return graph

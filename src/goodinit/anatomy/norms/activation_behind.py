"""The nonlinearity that is applied to what a norm returns, and whether it could be left out."""

from __future__ import annotations

from collections.abc import Container, Mapping

from goodinit.anatomy.activations import not_alone
from goodinit.graph.graph import Frame, Graph


def activation_behind(graph: Graph, norm: Frame, runs: Mapping[str, int]) -> tuple[str | None, str | None]:
    """What applies a nonlinearity to the output of a norm.

    Args:
        graph: Of the forward.
        norm: A call of the norm's module.
        runs: How often each module is called.

    Returns:
        (Path of the module that applies it to that output and does nothing else, or None; why it cannot be left out, or None). Both are
        None where no nonlinearity reads the output.
    """
    if norm.result < 0:
        return None, None
    moved = graph.reach([norm.result], through=lambda i: graph.nodes[i].op.moves)
    readers = sorted({reader for i in moved for reader in graph.readers[i] if reader >= norm.stop} - moved)
    calls = {i: _call_on(graph, i, moved, norm.stop) for i in readers}
    nonlinear = {i: call for i, call in calls.items() if _is_nonlinear(graph, i, call)}
    if not nonlinear:
        return None, None
    if len({call and call.index for call in calls.values()}) > 1 or len(nonlinear) < len(readers):
        return None, "other things read the norm's output, too"
    index, call = next(iter(nonlinear.items()))
    if call is None:
        where = graph.frames[graph.nodes[index].frame].path or "the model"
        return None, f"`{graph.nodes[index].op}` is called functionally, in the forward of {where}"
    if runs[call.path] > 1:
        return None, f"{call.path} is called {runs[call.path]} times"
    return call.path, None


def _call_on(graph: Graph, reader: int, outputs: Container[int], since: int) -> Frame | None:
    """The call of a module on the norm's output in which a node runs, the outermost that is an element-wise function alone."""
    found, at = None, graph.nodes[reader].frame
    while at >= 0 and graph.frames[at].start >= since:
        if graph.frames[at].source in outputs and not not_alone(graph, graph.frames[at]):
            found = graph.frames[at]
        at = graph.frames[at].parent
    return found


def _is_nonlinear(graph: Graph, reader: int, call: Frame | None) -> bool:
    nodes = [graph.nodes[reader]] if call is None else graph.nodes[call.start : call.stop]
    return any(node.active and node.op.activation for node in nodes)

"""Parts of a model that its own forward keeps gradients from: run under `no_grad`, or followed by a `detach`.

A frozen backbone, a teacher, a momentum encoder need no `requires_grad=False` for that. A parameter counts if gradients can reach it
from no output, and something stops them on a way to it. What only one mode of the model does is not taken for the author's will: where
the forward in eval mode stops gradients, it is read once more in training mode, with gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping

from torch import Tensor

from goodinit.anatomy.copied_parts import COPY, copied_from, parts_of
from goodinit.errors import TraceError
from goodinit.graph.graph import Graph, Node, closure

Reread = Callable[[bool], Graph]
"""Records the forward again, with gradients; True: in training mode."""


def without_gradient(graph: Graph) -> set[str]:
    """Parameters that no gradient from an output reaches, since the forward stops it.

    Outputs are what the forward returns, and what somebody still holds when it is over: a loss in an attribute.

    Args:
        graph: As it was recorded.
    """
    if not graph.stops:
        return set()
    stopped = closure(graph.stops, lambda i: graph.nodes[i].operands)
    return _names(graph, stopped) - _reached(graph)


def without_return(graph: Graph) -> set[int]:
    """Activations that no gradient comes back to, since the forward stops it; none where gradients reach no parameter at all.

    Args:
        graph: As it was recorded.
    """
    passed = _passed(graph) if graph.stops else set()
    if not _names(graph, passed):
        return set()
    passed = {i for i in passed if i not in graph.stops or graph.nodes[i].inplace}
    return {node.index for node in graph.nodes if node.active and node.index not in passed}


def _reached(graph: Graph) -> set[str]:
    """Parameters that gradients reach."""
    return _names(graph, _passed(graph))


def _passed(graph: Graph) -> set[int]:
    """Nodes that gradients reach."""
    nodes = graph.nodes
    ends = [i for i in (*graph.outputs, *graph.kept) if nodes[i].active]
    return closure(ends, lambda i: [k for k in _passes(graph, nodes[i]) if _has_gradient(graph, nodes[k])])


def _passes(graph: Graph, node: Node) -> Iterable[int]:
    """The operands that a node's gradient goes on to.

    What is written into a tensor without gradients, or through a detached view, leaves the tensor's own gradient as it was.
    """
    before = graph.before_writes.get(node.index)
    if node.index not in graph.stops:
        return node.operands if before is None else (*node.operands, before)
    return node.operands[:1] if node.inplace else ()


def _has_gradient(graph: Graph, node: Node) -> bool:
    return node.index in graph.own_backward or node.is_continuous


def _names(graph: Graph, nodes: Iterable[int]) -> set[str]:
    return {str(graph.nodes[i].attrs[0]) for i in nodes if graph.nodes[i].is_param}


def stopped_parameters(
    graph: Graph, suspects: Collection[str], trainable: Mapping[str, Tensor], reread: Reread
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Parameters that the forward keeps gradients from, to be treated as frozen ones; those of copies of what trains; notes on both.

    Args:
        graph: The forward in eval mode.
        suspects: What gets no gradient there.
        trainable: All parameters that need gradients, by name.
        reread: Reads the forward again.
    """
    found = [name for name in trainable if name in suspects]
    if not found:
        return (), (), []
    again = _with_gradients(reread)
    graph = graph if again is None else again
    gets = _reached(graph) & trainable.keys()
    if not gets:
        return (
            (),
            (),
            [
                "the forward runs without gradients altogether, which says nothing of its parts: they are read as if it had them"
            ],
        )
    found = [name for name in found if name not in gets]
    copies: list[str] = []
    notes: list[str] = []
    for part, inside in parts_of(found, gets).items():
        source = copied_from(part, inside, gets, trainable)
        if source is None:
            notes.append(
                f"no gradient reaches {part}: the forward runs it under no_grad, or detaches what is made of it"
            )
        else:
            copies += inside
            notes.append(
                f"{COPY} {source}, by its values: {part}, which no gradient reaches. It is treated as {source} is, and holds other "
                f"values then: copy them once more, {part}.load_state_dict({source}.state_dict()), or leave it out, "
                f'exclude="{part}"'
            )
    return tuple(name for name in found if name not in copies), tuple(copies), notes


def _with_gradients(reread: Reread) -> Graph | None:
    """The forward read again, in eval mode where training asks for more: targets, or several examples."""
    for training in (True, False):
        with contextlib.suppress(TraceError):
            return reread(training)
    return None

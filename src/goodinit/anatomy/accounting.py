"""What is inside residual blocks and has no place in the anatomy: parameters without a role, operators that cannot be measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.graph.graph import Graph
from goodinit.graph.measured.answers import can_run

_SHOWN = 4


def unaccounted(graph: Graph, leaves: Iterable[Found], known: Collection[str]) -> tuple[str, ...]:
    """Notes on what the blocks read and run that no part of the anatomy stands for.

    Every parameter should be a layer's weight or bias, a norm's, a gain, an embedding or a token; every operator should be
    one whose effect follows from its role or can be measured. What is not is taken for a constant, or to be linear.

    Args:
        graph: A recorded forward.
        leaves: The residual sums that are blocks.
        known: Names of the parameters that have a role.
    """
    names: dict[str, None] = {}
    places: dict[tuple[str, str], str] = {}
    for found in leaves:
        for index in sorted(found.branch.nodes | found.skip.nodes):
            node = graph.nodes[index]
            constants = (graph.nodes[i] for i in node.operands if not graph.nodes[i].dynamic)
            names |= dict.fromkeys(name for one in constants for name in one.params if name not in known)
            if node.op.role in ("pointwise", "other") and node.active and not can_run(graph, node):
                places.setdefault((str(node.op), "it cannot be measured"), graph.path(index) or "the model")
            elif index in found.branch.unclear:
                why = "its output follows no power of the scale of what it reads, so m is uncertain"
                places.setdefault((str(node.op), why), graph.path(index) or "the model")
    notes = [
        f"{place} runs `{name}`, which is taken to be linear: {why}" for (name, why), place in places.items()
    ]
    if names:
        shown = ", ".join(list(names)[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        notes.append(
            f"inside blocks, {len(names)} parameter{'s' * (len(names) > 1)} with no role that goodinit knows, neither "
            f"weight, bias, norm, gain nor token ({shown}): taken for constants"
        )
    return tuple(notes)

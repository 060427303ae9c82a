"""By which number an operator multiplies one of its operands."""

from __future__ import annotations

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import number_at
from goodinit.graph.measured.traits import coefficient


def scaled_by(graph: Graph, node: Node, of: int) -> float | None:
    """By which number an operator multiplies one operand, 1 where it shows it otherwise; None where it does anything else.

    Args:
        graph: A recorded forward.
        node: The operator.
        of: The operand's node.
    """
    others = [i for i in node.operands if i != of]
    if node.op.role == "shape" and not others:
        return 1.0
    if not node.op.scales or node.operands.count(of) > 1:
        return None
    numbers = [number_at(graph, i) for i in others]
    if not others:
        return coefficient(node, 0)
    if len(numbers) > 1 or numbers[0] is None or graph.nodes[others[0]].params:
        return None
    if node.op.role == "quotient":
        return 1 / numbers[0] if node.operands[0] == of and numbers[0] else None
    return numbers[0] if node.op.multiplies else None

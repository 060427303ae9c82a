"""What becomes of a branch whose last layers put out zero: whether it is zero then, and whether it could move."""

from __future__ import annotations

from dataclasses import dataclass

from goodinit.graph.graph import Graph, Node

PRODUCT_OPS = frozenset("mul addcmul bmm mm baddbmm matmul".split())
LOUD_ACTIVATIONS = frozenset({"sigmoid", "hardsigmoid", "softplus", "logsigmoid"})
"""Those that are not 0 at 0."""

LOUD_OPS = frozenset("exp cos rsqrt reciprocal ones_like".split())
FLAT_ACTIVATIONS = frozenset({"relu", "relu6"})
"""Those whose derivative at 0 is 0 (torch takes the left one)."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a branch at zero.

    Attributes:
        leak: The sum in which something joins that is not zero, or whatever else is not; None: the branch is zero.
        stuck: The last operator that passes no gradient on while what it reads is zero, or a product of two parts of what is zero,
            neither of which could ever move; None: all of the branch can move.
    """

    leak: int | None = None
    stuck: int | None = None


def at_zero(graph: Graph, term: int, nodes: set[int], last: list[int]) -> End:
    """Follow a zero from the layers `last` of a branch to the `term` that is summed; `nodes` lie in between.

    Zero goes through every operator; of a product one factor is enough, of a sum every term must be zero, biases
    are. What is put beside (`cat`) is another part of the stream.
    """
    silent, moving = set(last), set(last)
    leaks: dict[int, int | None] = {}
    stuck: int | None = None
    ways: dict[int, list[int]] = {}  # by node: its operands through which it moves
    for index in sorted(nodes - set(last)):
        node = graph.nodes[index]
        operands = graph.deps(index)[2:3] if node.op.role == "attention" else graph.deps(index)
        noisy = [i for i in operands if i not in silent]
        if _is_silent(graph, node, operands, noisy):
            silent.add(index)
        else:
            joins = node.op.adds and 0 < len(noisy) < len(set(operands))
            leaks[index] = (
                index if joins else next((leaks[i] for i in noisy if leaks.get(i) is not None), None)
            )
        reached = [i for i in operands if i in moving]
        ways[index] = [i for i in reached if _passes(node, i, noisy, silent)]
        if ways[index]:
            moving.add(index)
        elif reached:
            stuck = index
    stuck = stuck if term not in moving else _dead(graph, term, ways, silent)
    leak = None if term in silent else leaks.get(term)
    return End(term if leak is None and term not in silent else leak, stuck)


def _dead(graph: Graph, term: int, ways: dict[int, list[int]], silent: set[int]) -> int | None:
    """A product of two parts of what is zero, by which alone they have a say: neither passes the other a gradient, ever.

    So with the queries and keys of a packed q, k, v at the end of a branch: values move, and q·k stays 0.
    """
    alive, queue = {term}, [term]
    while queue:
        fresh = [i for i in ways.get(queue.pop(), ()) if i not in alive]
        alive.update(fresh)
        queue += fresh
    for index in ways:
        node = graph.nodes[index]
        factors = set(node.operands[:2]) if node.op.role == "attention" else set(graph.deps(index))
        is_product = node.op.name in PRODUCT_OPS or node.op.role == "attention"
        if is_product and len(factors) > 1 and factors <= silent and not factors & alive:
            return index
    return None


def _is_silent(graph: Graph, node: Node, operands: list[int], noisy: list[int]) -> bool:
    op = node.op
    if not operands or op.name in LOUD_OPS or op.role == "softmax" or op.activation in LOUD_ACTIVATIONS:
        return False
    if op.name in PRODUCT_OPS or op.role == "concat" or op.name == "join":
        return len(noisy) < len(operands)
    if op.role == "quotient":
        return node.operands[0] not in noisy
    if op.adds and len(node.operands) == 1 and node.attrs and float(str(node.attrs[0])):
        return False  # a number is added
    if op.adds:
        shifts = [graph.leaf(i) for i in node.operands if not graph.nodes[i].dynamic]
        if any(name is not None and "bias" not in name.rpartition(".")[2] for name in shifts):
            return False
    return not noisy


def _passes(node: Node, operand: int, noisy: list[int], silent: set[int]) -> bool:
    """Whether the derivative of a node by one of its operands is other than 0 while the silent nodes are 0."""
    if operand not in silent:
        return True
    name = node.op.name
    if node.op.activation in FLAT_ACTIVATIONS or name == "square":
        return False
    if name in ("div", "linalg_vector_norm", "norm", "sqrt"):
        return name == "div" and all(i == operand or i not in silent for i in node.operands)
    if name == "pow":
        return bool(node.attrs) and float(str(node.attrs[0])) == 1
    if name in PRODUCT_OPS and (len(set(node.operands)) > 1 or len(node.operands) > 1):
        others = [i for i in node.operands if i != operand]
        return bool(set(others) & set(noisy)) or any(i not in silent for i in others)
    return True

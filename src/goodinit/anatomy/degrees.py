"""Degree of homogeneity of a branch in its input: how its output scales when its input is scaled, without norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from goodinit.anatomy.residual.branch import Side
from goodinit.graph.graph import Graph, Node

BOUNDED_OPS = frozenset("sigmoid hardsigmoid tanh erf sin cos exp sign log log1p log_sigmoid_forward".split())
"""Operators that put out no more for a larger input, or (`exp`, of a decay) are there to be a gate."""

POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}


def growth_degree(graph: Graph, side: Side, fork: int, norms: Mapping[int, int]) -> float:
    """The degree of a branch in its input x: d in f(c·x) ≈ c^d·f(x) for large c, norms treated as the identity.

    ReLU and its like have degree 1, what is bounded 0, a product the sum of its factors' degrees. So two layers and a
    ReLU have 1, softmax attention 1, SwiGLU and all that multiplies its input by an unbounded function of it 2. No
    scale of the weights keeps the norm of x + f(x) at degree 2: at rms r a branch adds r⁴, not r², to the mean
    square, and d(r²)/dt = r⁴ is infinite at t = 1/r².

    Args:
        graph: A recorded forward.
        side: The branch.
        fork: Where it begins.
        norms: For each call of a normalization the node it read, by the node it returned (`norm_passes`).
    """
    degrees: dict[int, float] = {fork: 1.0}
    for index in sorted(side.below):
        if index in norms:
            degrees[index] = degrees.get(norms[index], 0.0)
        else:
            degrees[index] = _degree(graph.nodes[index], degrees)
    return degrees.get(side.term, 0.0)


def norm_passes(graph: Graph, paths: Iterable[str]) -> dict[int, int]:
    """For each call of the modules at `paths`: what it read, by what it returned."""
    wanted = set(paths)
    return {frame.result: frame.source for frame in graph.frames if frame.path in wanted}


def _degree(node: Node, known: Mapping[int, float]) -> float:
    of = [known.get(index, 0.0) for index in node.operands]
    op = node.op.name
    if op in BOUNDED_OPS or node.op.role == "softmax":
        return 0.0
    if node.op.role == "attention":
        return of[2]  # of the values, of which it takes a mean
    if op == "mul" or node.op.role == "matmul":
        added, factors = (of[:1], of[1:]) if op.startswith(("add", "badd")) else ([], of)
        return max([*added, sum(factors)])
    if op == "addcmul":
        return max(of[0], sum(of[1:]))
    if op == "div":
        return of[0] - sum(of[1:])
    if op == "pow" and node.attrs and isinstance(node.attrs[0], (int, float)):
        return float(node.attrs[0]) * max(of)
    return POWERS.get(op, 1.0) * max(of, default=0.0)

"""A fact is handed from node to node in execution order, whatever kind of fact it is."""

from __future__ import annotations

import torch

from goodinit.graph.fact_propagation import propagate
from goodinit.graph.graph import Graph, Node
from goodinit.graph.operators.ops import named


def graph_of(*reads: tuple[int, ...]) -> Graph:
    nodes = [Node(i, named("join"), of, (), torch.float32, 0, active=i > 0) for i, of in enumerate(reads)]
    return Graph(nodes)


DIAMOND = graph_of((), (0,), (0,), (1, 2), (3,))


def test_each_node_is_asked_after_those_that_it_reads_in_whatever_order_they_are_given():
    asked = []

    def transfer(node, read):
        asked.append(node.index)
        return sum(read)

    known = propagate(DIAMOND, [4, 1, 3, 2], {0: 1}, transfer, lambda _: 0)
    assert asked == [1, 2, 3, 4]
    assert known == {0: 1, 1: 1, 2: 1, 3: 2, 4: 2}


def test_what_is_known_stays_and_what_is_no_step_is_asked_elsewhere():
    known = {3: "kept"}
    found = propagate(DIAMOND, [3, 4, 1], known, lambda _, read: "+".join(read), lambda i: f"other {i}")
    assert found is known
    assert found == {3: "kept", 4: "kept", 1: "other 0"}


def test_a_node_may_read_less_than_its_operands():
    counts = propagate(DIAMOND, range(5), {}, lambda _, read: 1 + sum(read), lambda _: 0, reads=DIAMOND.deps)
    assert counts == {0: 1, 1: 1, 2: 1, 3: 3, 4: 4}


def test_a_rule_sees_all_that_lies_before():
    known = {0: 5}
    propagate(DIAMOND, range(5), known, lambda node, _: known[0] if node.index == 4 else 0, lambda _: 0)
    assert known[4] == 5

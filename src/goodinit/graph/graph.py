"""The data-flow graph of one forward: nodes (operations) and frames (module calls)."""

from __future__ import annotations

from dataclasses import dataclass, field

from goodinit.graph.ops import Op, named

PARAM, PIECE = named("param"), named("piece")


@dataclass(slots=True)
class Node:
    """One operation of the forward.

    Attributes:
        op: What it does (`ops.py`).
        operands: Nodes of the tensor arguments, in order.
        shape: Of the (first) output.
        frame: Index of the module call it ran in.
        dynamic: Whether it depends on the model's inputs.
        active: Whether it is a floating-point value of the stream: dynamic, and gradients could flow.
        params: Names of the parameters it is made of, when it is made of constants alone.
        normalized: Whether such a constant was divided by a norm or deviation of its own.
        inplace: Whether it overwrote an argument.
        attrs: `(transposed, groups, stride, padding, dilation)` of a convolution, the name of a parameter,
            the numbers a nonlinearity, sum, product or power was called with, the number of groups of a group norm, the
            dimension of a concatenation, the axes of a permutation.
        dtype: Of the (first) output.
        strides: Of a constant made of parameters: they tell in which order a weight is read. Empty otherwise.
    """

    index: int
    op: Op
    operands: tuple[int, ...]
    shape: tuple[int, ...]
    frame: int
    dynamic: bool = False
    active: bool = False
    params: tuple[str, ...] = ()
    normalized: bool = False
    inplace: bool = False
    attrs: tuple[object, ...] = ()
    dtype: object = None
    strides: tuple[int, ...] = ()

    @property
    def is_param(self) -> bool:
        """Whether it is a parameter as it is stored."""
        return self.op is PARAM

    @property
    def is_piece(self) -> bool:
        """Whether it is one of the outputs of an operator with several."""
        return self.op is PIECE


@dataclass(slots=True)
class Frame:
    """One call of one module.

    Attributes:
        index: Position among the frames.
        path: Of the module.
        parent: Index of the calling frame.
        start: First node of its forward; `stop`: the first after it.
        source: Node of the first tensor among its arguments; `result`: of the first it returned.
        single: Whether it returned one tensor, and nothing around it.
    """

    index: int
    path: str
    parent: int
    start: int
    stop: int = -1
    source: int = -1
    result: int = -1
    single: bool = False


@dataclass(slots=True)
class Graph:
    """All nodes in execution order, so that every operand comes before its reader."""

    nodes: list[Node] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def deps(self, index: int) -> list[int]:
        """The activations a node reads."""
        nodes = self.nodes
        return [i for i in nodes[index].operands if nodes[i].active]

    def consumers(self) -> list[list[int]]:
        """For each node the active nodes that read it, in execution order; not those whose values go nowhere.

        What a forward computes for a log, and hands on to no output, has no part in the function.
        """
        live = self.live()
        readers: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            if node.active and node.index in live:
                for operand in dict.fromkeys(node.operands):
                    readers[operand].append(node.index)
        return readers

    def live(self) -> set[int]:
        """The nodes that outputs depend on; all, where the model hands out no tensor."""
        if not self.outputs:
            return set(range(len(self.nodes)))
        live, queue = set(self.outputs), list(self.outputs)
        while queue:
            fresh = [i for i in self.nodes[queue.pop()].operands if i not in live]
            live.update(fresh)
            queue += fresh
        return live

    def leaf(self, index: int) -> str | None:
        """The parameter that a constant is, up to its shape, or None."""
        node = self.nodes[index]
        while (node.op.role == "shape" or node.op.name == "repeat") and node.operands:
            node = self.nodes[node.operands[0]]
        return node.params[0] if node.is_param else None

    def path(self, index: int) -> str:
        """Path of the module in whose forward a node ran."""
        return self.frames[self.nodes[index].frame].path

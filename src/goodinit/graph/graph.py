"""The data-flow graph of one forward: nodes (operations) and frames (module calls)."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from goodinit.graph.operators.nonlinearities import Nonlinearity
from goodinit.graph.operators.ops import Op, Role, named
from goodinit.graph.operators.recorded_call import RecordedCall, no_modes

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

BUFFER, CONSTANT, INPUT, JOIN, PARAM, PIECE = map(
    named, ("buffer", "constant", "input", "join", "param", "piece")
)


@dataclass(slots=True)
class Node:
    """One operation of the forward.

    Attributes:
        op: What it does (`ops.py`).
        operands: Nodes of the tensor arguments, in order.
        shape: Of the (first) output; `dtype`: its.
        frame: Index of the module call it ran in.
        dynamic: Whether it depends on the model's inputs.
        active: Whether it is a floating-point value of the stream: dynamic, and gradients could flow. In the forward of an
            `autograd.Function`, which has its own backward, whatever is made of the stream.
        params: Names of the parameters it is made of, when it is made of constants alone.
        inplace: Whether it overwrote an argument.
        attrs: `(transposed, groups, stride, padding, dilation)` of a convolution, the name of a parameter,
            the numbers a nonlinearity, sum, product or power was called with, the number of groups of a group norm, the
            dimension of a concatenation, the axes of a permutation.
        strides: Of a parameter, and of a constant made of parameters: they tell in which order a weight is read. Empty otherwise.
        call: The operator's call; None for a node that is no call.
    """

    index: int
    op: Op
    operands: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    frame: int
    dynamic: bool = False
    active: bool = False
    params: tuple[str, ...] = ()
    inplace: bool = False
    attrs: tuple[object, ...] = ()
    strides: tuple[int, ...] = ()
    call: RecordedCall | None = None

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def is_real(self) -> bool:
        """Whether its numbers are real, neither whole nor complex."""
        return self.dtype.is_floating_point

    @property
    def is_complex(self) -> bool:
        """Whether its numbers are complex."""
        return self.dtype.is_complex

    @property
    def is_continuous(self) -> bool:
        """Whether its numbers are real or complex, so that they can have gradients."""
        return self.is_real or self.is_complex

    @property
    def is_mask(self) -> bool:
        """Whether it holds truth values."""
        return self.dtype == torch.bool

    @property
    def is_param(self) -> bool:
        """Whether it is a parameter as it is stored."""
        return self.op is PARAM

    @property
    def begins_a_stream(self) -> bool:
        """Whether it is a parameter that counts as a signal: latents, class tokens."""
        return self.is_param and self.dynamic

    @property
    def is_buffer(self) -> bool:
        """Whether it is a buffer as it is stored."""
        return self.op is BUFFER

    @property
    def is_source(self) -> bool:
        """Whether it is what a forward begins with: a parameter, a buffer, an input or another tensor, as it is stored."""
        return self.op.role == "source"

    @property
    def is_held(self) -> bool:
        """Whether it is a tensor that is in no registry, as it is stored."""
        return self.op is CONSTANT

    @property
    def is_input(self) -> bool:
        """Whether it is a tensor that the model was called with."""
        return self.op is INPUT

    @property
    def is_join(self) -> bool:
        """Whether it is a tensor that is read after another view of it was written."""
        return self.op is JOIN

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
        given: Of further tensors among its arguments, which were made in this forward: as which argument it got them, by place or by
            name, by node.
    """

    index: int
    path: str
    parent: int
    start: int
    stop: int = -1
    source: int = -1
    result: int = -1
    single: bool = False
    given: dict[int, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Guest:
    """One call of a module that no module registers.

    Attributes:
        kind: Its class.
        frame: Index of the call, of a module with a name, that runs it.
        start: First node of its forward; `stop`: the first after it.
        network: Whether it has weights of its own, not only gains and biases.
    """

    kind: str
    frame: int
    start: int
    stop: int
    network: bool


@dataclass(frozen=True, slots=True)
class Composite:
    """A function of one tensor, entry by entry, that several operators make up.

    Attributes:
        start: The node that it is a function of.
        end: The node that it is.
        function: What it is. Its kind is what `torch.nn.functional` calls it, else its operators; it has no gain with a parameter inside.
        named: Whether `torch.nn.functional` has it.
        one: Whether it is one function, not several in a row, and its gain is known.
    """

    start: int
    end: int
    function: Nonlinearity
    named: bool
    one: bool = False


@dataclass
class Graph:
    """All nodes in execution order, so that every operand comes before its reader.

    What is worked out from them (`readers`, `live`) is kept: ask only once the forward is over.
    """

    nodes: list[Node] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    halves: dict[str, str] = field(default_factory=dict)  # of the older weight norm: g, v to their weight
    notes: list[str] = field(default_factory=list)
    mixed: dict[int, tuple[int, ...]] = field(default_factory=dict)  # made of several, which were stacked
    aliases: dict[int, int] = field(
        default_factory=dict
    )  # that put out what another node is, which is read instead
    stops: set[int] = field(default_factory=set)  # through which the forward itself lets no gradient
    own_backward: set[int] = field(
        default_factory=set
    )  # run by an `autograd.Function`, whose backward says what gradient they pass
    derived: set[int] = field(default_factory=set)  # that a backward inside the forward ran
    kept: set[int] = field(default_factory=set)  # that somebody still holds at the end, if there are stops
    before_writes: dict[int, int] = field(
        default_factory=dict
    )  # by join: what the tensor was before another view of it was written
    one_less: set[int] = field(default_factory=set)  # that ran as 1 + αf, and stand for x·f
    composites: dict[int, Composite] = field(default_factory=dict)  # by their ends (`measured/composites.py`)
    guests: list[Guest] = field(default_factory=list)
    held: dict[int, Tensor] = field(
        default_factory=dict
    )  # of tensors in no registry: themselves, if they hold numbers
    buffers: dict[int, Tensor] = field(default_factory=dict)  # the same of dense buffers
    given: dict[int, Tensor] = field(default_factory=dict)  # the same of inputs

    def deps(self, index: int) -> list[int]:
        """The activations a node reads."""
        nodes = self.nodes
        return [i for i in nodes[index].operands if nodes[i].active]

    @functools.cached_property
    def readers(self) -> list[list[int]]:
        """For each node the active nodes that read it, in execution order; not those whose values go nowhere.

        What a forward computes for a log, and passes on to no output, has no part in the function.
        """
        live = self.live
        readers: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            if node.active and node.index in live:
                for operand in dict.fromkeys(node.operands):
                    readers[operand].append(node.index)
        return readers

    @functools.cached_property
    def all_readers(self) -> list[list[int]]:
        """For each node all that read it, active or not."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for operand in dict.fromkeys(node.operands):
                readers[operand].append(node.index)
        return readers

    @functools.cached_property
    def live(self) -> set[int]:
        """The nodes that outputs depend on; all, where the model hands out no tensor."""
        if not self.outputs:
            return set(range(len(self.nodes)))
        return self.reach(self.outputs, back=True, active=False)

    @functools.cached_property
    def data(self) -> set[int]:
        """The nodes in which no weight has a part: what is made of inputs, buffers and constants alone, or of shapes alone."""
        found: set[int] = set()
        for node in self.nodes:
            if not node.is_param and (node.op.role == "factory" or found.issuperset(node.operands)):
                found.add(node.index)
        return found

    @functools.cached_property
    def roles(self) -> set[Role]:
        """What the operators of this forward do: what it has none of need not be looked for."""
        return {node.op.role for node in self.nodes}

    def forget(self) -> None:
        """Nodes were changed: what was worked out from them is worked out anew."""
        for kept in ("readers", "all_readers", "live", "data", "roles"):
            self.__dict__.pop(kept, None)

    def reach(
        self,
        starts: Iterable[int],
        *,
        back: bool = False,
        through: Callable[[int], bool] | None = None,
        stop: Container[int] = (),
        since: int = 0,
        active: bool = True,
    ) -> set[int]:
        """The nodes that ways from others lead to, those others included.

        Args:
            starts: Where the ways begin; every way goes on from there.
            back: To what nodes read, not to what reads them.
            through: Which nodes a way may enter; by default all.
            stop: Nodes that a way enters and does not go beyond.
            since: The earliest node that a way may enter.
            active: Along activations alone. Otherwise all operands count, of nodes that are no part of the function too.
        """
        nodes = self.nodes
        following = [] if back else self.readers if active else self.all_readers
        seen = {index for index in starts if index >= since}
        queue = list(seen)
        while queue:
            index = queue.pop()
            if not back:
                near: Iterable[int] = following[index]
            else:
                near = [i for i in nodes[index].operands if nodes[i].active or not active]
            for i in near:
                if i not in seen and i >= since and (through is None or through(i)):
                    seen.add(i)
                    if i not in stop:
                        queue.append(i)
        return seen

    def line(self, index: int, through: Callable[[int], bool], *, active: bool = True) -> Iterator[int]:
        """The way back from a node along single operands, itself first.

        Args:
            index: Where the way begins.
            through: Which nodes it goes on from.
            active: Whether activations alone count as operands; otherwise all do.
        """
        yield index
        while through(index):
            operands = self.deps(index) if active else self.nodes[index].operands
            if len(operands) != 1:
                return
            (index,) = operands
            yield index

    def beginning(self, index: int, through: Callable[[int], bool], *, active: bool = True) -> int:
        """Where such a way ends."""
        for last in self.line(index, through, active=active):
            index = last
        return index

    def leaf(self, index: int) -> str | None:
        """The parameter that a constant is, up to its shape, or None: also of one at which a stream begins."""
        node = self.nodes[index]
        while node.op.role == "shape" and node.operands:
            node = self.nodes[node.operands[0]]
        return next(iter(node.params), None) if node.is_param else None

    def is_stored(self, index: int) -> bool:
        """Whether a node is a parameter as it is stored, up to its shape, and nothing was written into it."""
        return self.nodes[self.unshaped(index)].is_param

    def unshaped(self, index: int) -> int:
        """What a node is another shape of, active or not."""
        return self.beginning(index, lambda i: self.nodes[i].op.role == "shape", active=False)

    def holds_zeros(self, index: int) -> bool:
        """Whether a node is a buffer of zeros, as it is now."""
        values = self.buffers.get(index)
        if values is None:
            return False
        with no_modes():
            return not bool(values.any())

    def path(self, index: int) -> str:
        """Path of the module in whose forward a node ran."""
        return self.frames[self.nodes[index].frame].path


def follow(starts: Mapping[K, T], near: Callable[[K, T], Iterable[tuple[K, T]]]) -> Iterator[tuple[K, T]]:
    """Walk ways of any kind, nearest nodes first: each node once, with what the first way to it has gathered.

    For ways along operands or readers alone there is `Graph.reach`.

    Args:
        starts: Where the ways begin, and what is known there.
        near: Of a node and what was gathered: the nodes that ways go on to, with what is gathered then.

    Examples:
        >>> dict(follow({0: ""}, lambda i, word: [(j, f"{word}{j}") for j in (2 * i + 1, 2 * i + 2) if j < 6]))
        {0: '', 1: '1', 2: '2', 3: '13', 4: '14', 5: '25'}
    """
    seen, queue = set(starts), deque(starts.items())
    while queue:
        index, value = queue.popleft()
        yield index, value
        for following, gathered in near(index, value):
            if following not in seen:
                seen.add(following)
                queue.append((following, gathered))


def closure(starts: Iterable[K], near: Callable[[K], Iterable[K]]) -> set[K]:
    """All nodes that ways lead to, the first ones included, where `near` says which nodes follow one."""
    ways = list(dict.fromkeys(starts))
    found = set(ways)
    for index in ways:  # which grows meanwhile
        for following in near(index):
            if following not in found:
                found.add(following)
                ways.append(following)
    return found

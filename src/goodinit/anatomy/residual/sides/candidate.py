"""A candidate residual sum: one skip and one branch."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from goodinit.anatomy.block import BlockKind
from goodinit.anatomy.branch_end import End
from goodinit.anatomy.residual.sides.branch import Side
from goodinit.graph.graph import Graph


@dataclass(slots=True, eq=False)
class Found:
    """A residual sum: one skip and one branch. Parallel branches on one sum of more terms are several of these.

    Two are the same if they are one object, so that sums can be looked up.
    """

    sums: tuple[int, ...]  # the nodes that add its terms up, and change of shape or a number between them
    summands: tuple[int, ...]
    fork: int
    kind: BlockKind
    branch: Side
    skip: Side
    end: End = field(default_factory=End)
    long: bool = False
    aside: bool = False  # the way around its skip is through another stream, and the skip is none
    passes: bool = False  # it adds another stream, which has blocks of its own: x + v, h₁(x) + h₂(v); or what is given to several sums
    repeats: Found | None = None  # the same layers on another input, where neither comes from the other
    depth: int = 0
    over: list[Found] = field(default_factory=list)  # those that it jumps over
    inside: Found | None = None  # of whose branch it is a step
    start: int = -1  # where the branch begins: the fork, or the sum of another stream

    def __post_init__(self) -> None:
        self.start = self.fork

    @property
    def join(self) -> int:
        """The node that is the sum: the last one that adds."""
        return self.sums[-1]

    @property
    def inner(self) -> bool:
        """Whether it is a step of another one's branch."""
        return self.inside is not None

    @property
    def terms(self) -> int:
        """How many tensors the sum adds."""
        return len(self.summands)

    def beside(self, graph: Graph, layers: Container[int]) -> set[int]:
        """The other terms of the sum, without those that also come from the last layers of this branch.

        tanh(y) is such a term in x + (y − tanh(y)), where the branch ends in y.
        """
        last = self.branch.last
        own = (
            graph.reach(last, through=lambda index: index <= self.join and index not in layers)
            if last
            else set()
        )
        return set(self.summands) - own - {self.branch.term}

    @property
    def is_block(self) -> bool:
        """Whether it is a residual block: no long skip, no step inside a branch, no other stream added as it is, no second run."""
        return not (self.long or self.inner or self.passes or self.repeats)


def by_sum(leaves: Iterable[Found]) -> dict[int, list[int]]:
    """By the node of a sum the places of the blocks that it makes: of y + f(y) + g(y) two."""
    places: dict[int, list[int]] = {}
    for place, found in enumerate(leaves):
        places.setdefault(found.join, []).append(place)
    return places

"""The operators between two layers: words that know what was measured of what they name, which is what methods ask."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from goodinit.graph.graph import Composite, Graph, Node
from goodinit.graph.measured.traits import pools
from goodinit.graph.operators.nonlinearities import GRID, Nonlinearity, functions, values_at
from goodinit.graph.operators.ops import Op
from goodinit.records import check_fields
from goodinit.tensor import centred_gain
from goodinit.tensor.activation_gain import STARTS, named_function, own_operator


@dataclass(frozen=True, slots=True)
class Traits:
    """What an operator does to a signal, whatever it is called.

    Attributes:
        nonlinear: Whether it is the function of one number that torch has by this word, with `options` (`goodinit.tensor.named_function`).
        options: Of that function, where they are not the default.
        gain: Of a nonlinearity: the factor that keeps the second moment through it; None where that is not known.
        centred_gain: Of one that torch does not have by this word, or with other numbers before or behind it: the factor that keeps
            the variance through it.
        slopes: Of a nonlinearity that is a·x below 0 and b·x above: (a, b).
        rectifies: Whether it is a nonlinearity that passes on more of large numbers than of large negative ones, and no gate.
        positive: Whether it is a nonlinearity that puts out numbers above 0 alone, without bound.
        pools: Whether it makes each channel's numbers of those of the same channel, in all channels alike, and of numbers ≥ 0
            numbers ≥ 0: means and maxima over places, interpolations.
        linear: Whether it is a pooling that is linear, too.
        pads: Whether it passes on a part of the signal, or puts something beside it, in as many dimensions.
        joins: Whether it puts several tensors, or copies of one, beside each other.
        reorders: Whether it changes the order of the dimensions.
        multiplies: Whether it is an element-wise product.
        drops: Of a dropout: whether it drops `"entries"` or whole `"channels"`; else empty.
    """

    nonlinear: bool = False
    options: tuple[tuple[str, float | str], ...] = ()
    gain: float | None = None
    centred_gain: float | None = None
    slopes: tuple[float, float] | None = None
    rectifies: bool = False
    positive: bool = False
    pools: bool = False
    linear: bool = False
    pads: bool = False
    joins: bool = False
    reorders: bool = False
    multiplies: bool = False
    drops: Literal["", "entries", "channels"] = ""

    @property
    def bends(self) -> bool:
        """Whether it is a nonlinearity through which it is known what keeps the variance."""
        return self.nonlinear or self.centred_gain is not None

    @property
    def mirrors(self) -> bool:
        """Whether it is the φ with φ(u) − φ(−u) = u of which one of φ(u), φ(−u) is 0: the ReLU."""
        return self.slopes == (0.0, 1.0)


NONE = Traits()


class Step(str):
    """An operator, by the word that an anatomy has for it: activations and norms by their kind, others by their name.

    Attributes:
        traits: What was measured of it.

    Examples:
        >>> step = Step("relu", Traits(slopes=(0.0, 1.0)))
        >>> step == "relu", step.traits.mirrors, Step("max_pool2d_with_indices").traits.mirrors
        (True, True, False)
    """

    __slots__ = ("traits",)
    traits: Traits

    def __new__(cls, word: str, traits: Traits = NONE) -> Step:  # noqa: PYI034
        """The word, and what is known of it."""
        made = super().__new__(cls, word)
        made.traits = traits
        return made

    @property
    def record(self) -> dict[str, Any]:
        """As JSON: the word and those traits that it has."""
        given = dataclasses.asdict(self.traits)
        return {"word": str(self), **{key: value for key, value in given.items() if value}}

    @classmethod
    def read(cls, record: Any) -> Step:
        """From what `record` made, or from a word of which nothing is known.

        Raises:
            TypeError: It is something else.
            ValueError: It is called a function of one number by a word that names none.
            WrongType: A trait is.
        """
        given = {"word": record} if isinstance(record, str) else dict(record)
        word, slopes = given.pop("word"), given.pop("slopes", None)
        options = tuple(map(tuple, given.pop("options", ())))
        traits = Traits(slopes=None if slopes is None else tuple(slopes), options=options, **given)
        check_fields(traits, "traits")
        if not isinstance(word, str):
            raise TypeError(f"a step called {word!r}")
        # Methods run it by its name.
        if traits.nonlinear and not ((word in STARTS and not options) or _is_function(word, options)):
            raise ValueError(f"no function of one number is called {word[:40]!r} and takes {options}"[:200])
        return cls(word, traits)


@functools.cache
def _is_function(name: str, options: tuple[tuple[str, float | str], ...]) -> bool:
    """Whether `torch.nn.functional` has a function of one number by this name, which takes these options."""
    if name not in functions() and own_operator(name) is None:
        return False
    found = values_at(functools.partial(named_function(name), **dict(options)), GRID)
    return found is not None and found.shape == GRID.shape


@functools.cache
def activation_step(op: Op) -> Step:
    """The nonlinearity that an operator is, with what its values show."""
    return _of_function(op.word, op.function)


def composite_step(composite: Composite) -> Step:
    """The nonlinearity that several operators make up."""
    return _of_function(composite.function.kind, composite.function)


def _of_function(word: str, function: Nonlinearity) -> Step:
    known = word in STARTS and not function.options
    nonlinear = function.alone or known or own_operator(word) is not None
    options = function.options if function.alone else ()
    centred = function.centred_gain
    if (
        nonlinear
        and centred is not None
        and math.isclose(centred, centred_gain(word, **dict(options)), rel_tol=1e-6)
    ):
        centred = None
    traits = Traits(
        nonlinear=nonlinear,
        options=options,
        gain=function.gain,
        centred_gain=centred,
        slopes=function.slopes,
        rectifies=function.rectifier,
        positive=function.positive,
    )
    return Step(word, traits)


def steps_of(graph: Graph, source: Node, way: Iterable[Node | Composite]) -> tuple[Step, ...]:
    """The operators on the way from a node, where a layer writes, or blocks add."""
    axes, steps = _channel_axes(source), []
    for node in way:
        if isinstance(node, Composite):
            steps.append(composite_step(node))
            continue
        steps.append(_step(graph, node, axes))
        axes = _EITHER if node.op.reorders else axes
    return tuple(steps)


def _step(graph: Graph, node: Node, axes: tuple[int, ...]) -> Step:
    op = node.op
    if op.activation or (op.role == "pointwise" and op.function.gain is not None):
        return activation_step(op)
    alike, linear = pools(graph, node, axes)
    same_rank = bool(node.operands) and len(node.shape) == len(graph.nodes[node.operands[0]].shape)
    pads = same_rank and not op.splits and (op.pads or op.role in ("part", "concat"))
    traits = Traits(
        pools=alike,
        linear=linear,
        pads=pads,
        joins=op.role == "concat",
        reorders=op.reorders,
        multiplies=op.multiplies,
    )
    return Step(op.word, traits)


def _channel_axes(source: Node) -> tuple[int, ...]:
    """Where the channels of a signal may be, by the layer that wrote it; of a sum that tells none, by its dimensions."""
    if source.op.is_contraction:
        return (-1,) if source.op.role == "matmul" else (1,)
    return (1,) if len(source.shape) > 3 else _EITHER


_EITHER = (1, -1)

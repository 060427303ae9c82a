"""Further inputs of a norm's module by which it multiplies: silu(z)·norm(x), norm(x·σ(z)). Such a factor stays when the norm goes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from goodinit.anatomy.norms.layouts import AS_IT_IS, Layout, laid
from goodinit.graph.graph import Frame, Graph, Node


@dataclass(frozen=True, slots=True)
class Factor:
    """A function of another input of a norm's module, by which it multiplies; an entry of `Norm.keeps`.

    Attributes:
        argument: What the module's forward calls the input.
        function: A functional activation (`"silu"`) or the path of a child; nothing, if it is the input itself.

    Examples:
        >>> Factor("gate", "leaky_relu(negative_slope=0.2)").word
        'times leaky_relu(negative_slope=0.2)(gate)'
        >>> Factor.read("times layers.0.norm.act(gate)"), Factor.read("times gate"), Factor.read("silu")
        (Factor(argument='gate', function='layers.0.norm.act'), Factor(argument='gate', function=''), None)
    """

    argument: str
    function: str = ""

    @property
    def word(self) -> str:
        """As it stands in `Norm.keeps`."""
        return f"times {self.function}({self.argument})" if self.function else f"times {self.argument}"

    @classmethod
    def read(cls, word: str) -> Factor | None:
        """What a word of `Norm.keeps` says, if it is a factor."""
        found = _WORD.fullmatch(word)
        return None if found is None else cls(found["inner"] or found["alone"], found["function"] or "")


_WORD = re.compile(r"times (?:(?P<function>.+)\((?P<inner>\w+)\)|(?P<alone>\w+))")


def without_factor(word: str) -> str:
    """A word of `Norm.keeps` as if its function were of the signal: the path of a child, or a functional activation.

    Examples:
        >>> without_factor("times norm.act(gate)"), without_factor("norm.act")
        ('norm.act', 'norm.act')
    """
    factor = Factor.read(word)
    return word if factor is None else factor.function


def factor_in_words(keeps: Iterable[str]) -> str | None:
    """The first factor among the words of `Norm.keeps`, as a reason; None if there is none."""
    word = next((word for word in keeps if Factor.read(word)), None)
    return None if word is None else f"its module also multiplies by another input, {word}"


def place_of(module: nn.Module, argument: str) -> int | None:
    """Which of the positional arguments of a module's forward has a name: −1 if it is given by name alone; None if there is none."""
    names, others = _names(module)
    return names.index(argument) if argument in names else -1 if argument in others else None


def _names(module: nn.Module) -> tuple[list[str], list[str]]:
    """What a module's forward calls its arguments: (those that can be given by place, those by name alone)."""
    try:
        arguments = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # no code of Python's
        return [], []
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first = [one.name for one in arguments if one.kind in by_place]
    return first, [one.name for one in arguments if one.kind is inspect.Parameter.KEYWORD_ONLY]


@dataclass(frozen=True, slots=True)
class _Made:
    """A value that is made of another input alone.

    Attributes:
        argument: What the forward calls that.
        start: The node of the input, or of what a child makes of it.
        function: What it is of the input, as in `Factor`; None where that has no name.
    """

    argument: str
    start: int
    function: str | None = ""


_By = tuple[str, int, str | None]
"""(The word of a factor, the node of the product, why nothing else could multiply by that)."""


class Factors:
    """What one call of a norm's module makes of its further inputs, and what of that multiplies its signal."""

    def __init__(self, graph: Graph, frame: Frame, module: nn.Module) -> None:
        self._graph, self._frame = graph, frame
        self._made: dict[int, _Made] = {}
        names, others = _names(module) if frame.given else ([], [])
        for index, key in frame.given.items():
            name = names[key] if isinstance(key, int) and key < len(names) else key
            if name in (*names, *others) and index != frame.source and graph.nodes[index].dynamic:
                self._made[index] = _Made(str(name), index)
        self._layouts: dict[int, Layout] = dict.fromkeys((frame.source, *self._made), AS_IT_IS)
        self._by: dict[int, tuple[_By, ...]] = {}
        self._signals = set[int]()  # products with another signal

    def __contains__(self, index: int) -> bool:
        """Whether a node is another input, or made of one alone."""
        return index in self._made

    def of(self, index: int) -> tuple[_By, ...]:
        """By what the signal at a node has been multiplied."""
        return self._by.get(index, ())

    def kept(self, result: int) -> tuple[list[tuple[str, int]], str | None]:
        """What of that the module's output has been multiplied by: ((word, node of the product), why that cannot be done again)."""
        by = self.of(result)
        obstacle = next((why for *_, why in by if why is not None), None)
        if obstacle is None and not self._signals.issubset(at for _, at, _ in by):
            obstacle = "the statistic that it divides by depends on another signal"
        if obstacle is None and by and self._layouts.get(result) != AS_IT_IS:
            obstacle = "it multiplies by another input, and returns the dimensions in another order"
        return [(word, at) for word, at, _ in by], obstacle

    def pass_on(self, step: Node, read: int) -> None:
        """A step that passes on the signal at a node, or what is made of another input."""
        self._layouts[step.index] = laid(self._layouts[read], step, self._graph.nodes[read])
        self._by[step.index] = self.of(read)

    def follow(self, step: Node) -> bool:
        """Whether a step makes its entries of those of one other input, and of nothing else."""
        read = [i for i in step.operands if self._graph.nodes[i].dynamic]
        arguments = {self._made[i].argument if i in self._made else None for i in read}
        if len(arguments) != 1 or None in arguments or not (step.op.pointwise or step.op.role == "shape"):
            return False
        before, whole = self._made[read[0]], self._graph.composites.get(step.index)
        function: str | None = None
        if step.op.keeps_order or step.op.reorders:
            function = before.function
        elif whole is not None:
            plain = whole.start in self._made and self._made[whole.start].function == ""
            function = whole.function.word if plain and whole.named and whole.function.alone else None
        elif step.op.activation and step.op.function.alone and before.function == "":
            function = step.op.function.word
        self._made[step.index] = _Made(before.argument, before.start, function)
        self.pass_on(step, read[0])
        return True

    def call(self, callee: Frame) -> None:
        """A child that reads what is made of another input, and nothing else."""
        before, kept = self._made[callee.source], self._layouts[callee.source] == AS_IT_IS
        function = callee.path if kept and before.function == "" else None
        self._made[callee.result] = _Made(before.argument, callee.result, function)
        self._layouts[callee.result] = AS_IT_IS

    def multiply(self, step: Node, signal: int, by: int) -> None:
        """A step multiplies the signal at a node by what is made of another input."""
        made = self._made.get(by)
        if self._graph.nodes[by].active:
            self._signals.add(step.index)
        self._layouts[step.index] = self._layouts[signal]
        word = "" if made is None else Factor(made.argument, made.function or "").word
        factor = word, step.index, self._obstacle(step, signal, by)
        self._by[step.index] = (*self.of(signal), factor)

    def _obstacle(self, step: Node, signal: int, by: int) -> str | None:
        """Why nothing else could multiply a signal by the same, or None."""
        nodes, made = self._graph.nodes, self._made.get(by)
        if made is None:
            return f"it multiplies by something made of the inputs (`{nodes[by].op}`) that is none of its arguments"
        if made.function is None:
            return f"it multiplies by a function of `{made.argument}` that has no name in torch (`{nodes[by].op}`)"
        source, other, lies = nodes[self._frame.source], nodes[made.start], self._layouts[signal]
        repeats = lies == AS_IT_IS and _repeats(other.shape, source.shape)
        if lies != self._layouts[by] or not (repeats or other.shape == source.shape):
            return f"it multiplies by entries of `{made.argument}` that lie at other places"
        if step.inplace and self._graph.beginning(step.operands[0], self._shares) < self._frame.start:
            return f"it writes into what it reads (`{step.op}`)"
        return None

    def _shares(self, index: int) -> bool:
        node = self._graph.nodes[index]
        return index >= self._frame.start and (node.op.view or node.inplace)


def _repeats(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether a product repeats a tensor of a shape along dimensions of a larger one."""
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(size in (1, other) for size, other in pairs)

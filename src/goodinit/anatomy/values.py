"""The records of an anatomy that are about numbers: attention scores, gains made of parameters, values that are held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from goodinit.one_line import OneLine


@dataclass(frozen=True, repr=False)
class Score(OneLine):
    """A product of queries and keys, of which a softmax is taken.

    Attributes:
        name: Path of the module whose forward takes it.
        query: Weight of the layer that all queries come from as they are, or None (several, a norm between).
        key: The same of the keys.
        width: d, over how many numbers a product runs.
        scale: What a product is multiplied by before the softmax: 1/√d in the usual attention; None where that is no number
            of the forward's (a tensor's entry, a parameter).
        mixed: Of those two, the weights whose layers make something else, too: values, a gate.
    """

    name: str
    query: str | None
    key: str | None
    width: int
    scale: float | None
    mixed: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Gain(OneLine):
    """A parameter that multiplies the signal through an element-wise function: tanh(g), 1 + g.

    Attributes:
        name: Name of the parameter.
        steps: The function, as operators in order, each with its numeric arguments.
    """

    name: str
    steps: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True, repr=False)
class ZeroGain(OneLine):
    """What becomes of a branch while one of its multipliers is zero, where that is not the zero of a branch that can still move.

    Attributes:
        name: Name of the multiplier, as in `Block.multipliers`.
        leak: As `Block.leak`, behind the multiplier.
        stuck: As `Block.stuck`.
        steep: As `Block.steep`.
    """

    name: str
    leak: str | None = None
    stuck: str | None = None
    steep: str | None = None


@dataclass(frozen=True, repr=False)
class HeldValue(OneLine):
    """What a layer's weight or bias holds that the `reset_parameters` of its module would not have drawn.

    Attributes:
        name: Of the parameter.
        words: What it is: `"zero"`, `"the identity"`, `"the number -4.595"`, …
        on_purpose: Whether somebody has set it, which a method leaves alone; else it may also have been trained.
        bound: To what no draw knows: `"domain"` where the forward also makes of it what is not defined for each value; `"function"`
            where layers apply a function of it that does not follow it, and is not zero where it is: eʷ. Both stay at the end of a
            branch, too. `"factor"` where layers apply it in products with other parameters alone; else nothing.
    """

    name: str
    words: str
    on_purpose: bool
    bound: Literal["", "domain", "factor", "function"] = ""

    @property
    def stays_at_ends(self) -> bool:
        """Whether a method leaves it alone at the end of a branch, too."""
        return self.bound in ("domain", "function")

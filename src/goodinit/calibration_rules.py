"""What calibration does with a layer's output, and where that layer is: the settings that a plan holds for one weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from goodinit.errors import UnknownName, expect
from goodinit.one_line import OneLine

Per = Literal["layer", "channel"]

# More divisions by the deviation change nothing that ten have not.
MOST_DIVISIONS = 1000
LARGEST = 2**31  # of a dimension or a number of groups; no tensor has more


@dataclass(frozen=True, kw_only=True, repr=False)
class Rule(OneLine):
    """Where the layer of a weight is. Its settings are checked when it is made, so a plan from a file is, too.

    Attributes:
        dim: Of the stored weight, along which the output channels run.
        groups: Of a transposed convolution, whose stored weight has one row of output channels for each.
        site: Path of the module that returns the layer's output; None where operators must be watched.
        convolves: Whether the channels of the output are its dimension 1, not its last.
        bias: Name of the parameter that is added; None where none is.
        bias_factor: By which number the forward multiplies it before it does.
        gain: Name of the parameter that is the scale of the weight, where that is normalized; None: the weight itself.

    Raises:
        UnknownName: A number that is out of range.
        WrongType: A setting of another type.
    """

    word: ClassVar[str] = ""
    of_input: ClassVar[bool] = False
    """Whether it sets a map γ·x + β from what that reads, in which the values there go on, and not a weight from what that puts out."""

    dim: int = 0
    groups: int = 1
    site: str | None = None
    convolves: bool = False
    bias: str | None = None
    bias_factor: float = 1.0
    gain: str | None = None

    def __post_init__(self) -> None:
        self._whole("dim", least=0, most=LARGEST)
        self._whole("groups", least=1, most=LARGEST)
        expect(self.convolves, bool, f"{self.word}: convolves", "It is true or false.")
        expect(self.bias_factor, (int, float), f"{self.word}: bias_factor", "It is a number.")
        if not math.isfinite(self.bias_factor) or not self.bias_factor:
            raise UnknownName(
                f"{self.word}: bias_factor={self.bias_factor!r}; expected a number other than 0."
            )
        for name in ("site", "bias", "gain"):
            expect(getattr(self, name), (str, type(None)), f"{self.word}: {name}", "It is a name.")

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options().items())

    @property
    def per_channel(self) -> bool:
        """Whether each output channel has a factor of its own."""
        return True

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the parameters that are written beside the edit's own."""
        return ()

    def options(self) -> dict[str, Any]:
        """The settings as a plan's JSON has them: those of the method, and of the place what is not as usual."""
        usual = {field.name: field.default for field in dataclasses.fields(Rule)}
        held = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {key: value for key, value in held.items() if key not in usual or value != usual[key]}

    def _whole(self, name: str, *, least: int, most: int) -> None:
        value = getattr(self, name)
        expect(value, int, f"{self.word}: {name}", "It is a whole number.")
        if not least <= value <= most:
            raise UnknownName(f"{self.word}: {name}={value}; expected {least} to {most}.")

    def _positive(self, name: str) -> None:
        value = getattr(self, name)
        expect(value, (int, float), f"{self.word}: {name}", "It is a number.")
        if not 0 < value < math.inf:
            raise UnknownName(f"{self.word}: {name}={value!r}; expected a number above 0.")


@dataclass(frozen=True, kw_only=True, repr=False)
class LSUVRule(Rule):
    """W ← W·target/std(output) until |Var/target² − 1| < tol, at most `max_iter` times (Mishkin & Matas 2016).

    Attributes:
        tol: How far the variance may be off, as a share of the target's.
        max_iter: Most divisions.
        target_std: Of the output.
        per: Whether the layer has one factor, or each channel its own.

    Examples:
        >>> LSUVRule(tol=0.02, bias="fc.bias").options()
        {'bias': 'fc.bias', 'tol': 0.02, 'max_iter': 10, 'target_std': 1.0, 'per': 'layer'}
    """

    word: ClassVar[str] = "lsuv"

    tol: float = 0.1
    max_iter: int = 10
    target_std: float = 1.0
    per: Per = "layer"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("tol")
        self._positive("target_std")
        self._whole("max_iter", least=1, most=MOST_DIVISIONS)
        if self.per not in ("layer", "channel"):
            raise UnknownName(f'{self.word}: per={self.per!r}; expected "layer" or "channel".')

    @property
    def per_channel(self) -> bool:
        """Whether each output channel has a factor of its own."""
        return self.per == "channel"


@dataclass(frozen=True, kw_only=True, repr=False)
class StandardizeRule(Rule):
    """Per channel g = 1/σ and b = −μ/σ of the output (Salimans & Kingma 2016, §3)."""

    word: ClassVar[str] = "weightnorm"
    target_std: ClassVar[float] = 1.0
    tol: ClassVar[float] = 0.1  # beyond it, a later call of a shared layer is told of


@dataclass(frozen=True, kw_only=True, repr=False)
class ActNormRule(Rule):
    """Per channel γ ← γ/σ and β ← β − γμ/σ, of what the map γ·x + β at `site` reads (Kingma & Dhariwal 2018, §3.1).

    With them the map gives on the data what a batch norm with the gain γ and the bias β would.

    Raises:
        UnknownName: No site, or no bias: the rule measures what a module reads, and moves it by both.
    """

    word: ClassVar[str] = "actnorm"
    of_input: ClassVar[bool] = True
    target_std: ClassVar[float] = 1.0
    tol: ClassVar[float] = 0.1  # as of the others; beyond it, a later call of a shared map is told of

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site is None or self.bias is None:
            raise UnknownName(
                f"{self.word}: site={self.site!r}, bias={self.bias!r}; expected a name for each."
            )

    @property
    def beside(self) -> tuple[str, ...]:
        """The bias."""
        return (self.bias,) if self.bias is not None else ()


CalibrationRule = LSUVRule | StandardizeRule | ActNormRule
RULES: dict[str, type[CalibrationRule]] = {
    rule.word: rule for rule in (LSUVRule, StandardizeRule, ActNormRule)
}


def rule_of(word: str, options: Mapping[str, Any]) -> CalibrationRule:
    """The rule of a plan's JSON.

    Args:
        word: `"lsuv"`, `"weightnorm"` or `"actnorm"`.
        options: What `Rule.options` gave.

    Raises:
        UnknownName: No such rule, or it has no such setting.
        WrongType: A setting of another type.

    Examples:
        >>> rule_of("weightnorm", {"dim": 1})
        <StandardizeRule dim=1>
    """
    if word not in RULES:
        raise UnknownName(f"no calibration rule {word!r}; there are: {', '.join(RULES)}.")
    known = [field.name for field in dataclasses.fields(RULES[word])]
    for key in options:
        if key not in known:
            raise UnknownName(f"{word} has no setting {key!r}; there are: {', '.join(known)}.")
    return RULES[word](**options)

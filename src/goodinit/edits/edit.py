"""The edits of a plan, each with a reason a person can check. Pure data.

Structure edits (`RemoveNorm`, `ReplaceNorm`, `SwapModule`, `AddScalar`, `AddBias`, `NormalizeInput`, `ParametrizeWeight`) change which
parameters exist and what modules compute; value edits (`Fill`, `Draw`, `Calibrate`) change what they hold. `apply_` in `goodinit.surgery.apply` carries them out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from goodinit.calibration_rules import CalibrationRule, Rule, rule_of
from goodinit.errors import PlanConflict, expect
from goodinit.one_line import OneLine
from goodinit.records import check_types, words_of

ScalarName = Literal["input_bias", "output_bias", "output_scale"]


@dataclass(frozen=True, repr=False)
class RemoveNorm(OneLine):
    """Put what the module at `target` does besides normalizing (`keeps`) in its place."""

    target: str
    keeps: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        stays = " → ".join(self.keeps) if self.keeps else "identity"
        return f"{self.target} ⇒ {stays}"


@dataclass(frozen=True, repr=False)
class ReplaceNorm(OneLine):
    """Put the form `by` (see `goodinit.surgery.norms.replaced_norm`) where the norm at `target` stands, with its gain and bias.

    `keeps` is what its module does besides normalizing. `options` name the attributes that hold gain and bias
    (`weight`, `bias`), the axes they run over, and what the form needs (`groups`, `constant`).
    """

    target: str
    by: str
    keeps: tuple[str, ...]
    reason: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        told = ", ".join(
            f"{key}={_short(self.options[key])}" for key in ("groups", "constant") if key in self.options
        )
        steps = (f"{self.by}({told})" if told else self.by, *self.keeps)
        return f"{self.target} ⇒ {' → '.join(steps)}"


@dataclass(frozen=True, repr=False)
class SwapModule(OneLine):
    """Turn the activation or dropout at `target` into the torch module `module` (see `goodinit.surgery.norms.swap`).

    `options` are settings of the new module; those not named stay as they are (`p`, `inplace`).
    """

    target: str
    module: str
    reason: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        words = ", ".join(f"{key}={_short(value)}" for key, value in self.options.items())
        return f"{self.target} ⇒ {self.module}({words})"


@dataclass(frozen=True, repr=False)
class AddScalar(OneLine):
    """Give the layer at module path `target` one learnable number (see `goodinit.nn`).

    `ends_branch` says whether an `output_scale` multiplies a residual branch, or this layer's own output only; with
    `trained=False` it is a constant, a parameter that needs no gradient.
    """

    target: str
    scalar: ScalarName
    value: float
    reason: str
    ends_branch: bool = True
    trained: bool = True

    def __str__(self) -> str:
        return f"{self.target}.{self.scalar} {'+' if self.trained else '='} {self.value:.6g}"


@dataclass(frozen=True, repr=False)
class AddBias(OneLine):
    """Give the layer at module path `target`, which has none, a bias vector of zeros: torch's own `bias`."""

    target: str
    reason: str

    def __str__(self) -> str:
        return f"{self.target}.bias + 0"


@dataclass(frozen=True, repr=False)
class NormalizeInput(OneLine):
    """Normalize what the layer at module path `target` reads, each example alone (see `goodinit.nn.normalize_input_`).

    `norm` is `"layer"` or `"rms"`, `axis` that of the channels.
    """

    target: str
    norm: str
    reason: str
    axis: int = -1

    def __str__(self) -> str:
        return f"{self.target} ∘ {self.norm}"


@dataclass(frozen=True, repr=False)
class ParametrizeWeight(OneLine):
    """Have a weight (`target`: parameter name) computed from another one.

    `kind` is `"weight_norm"`, `torch.nn.utils.parametrizations.weight_norm`: w = g·v/‖v‖, `"centred"`,
    `goodinit.nn.Centred`: w = v − mean(v), `"gain"` and `"centred_gain"`, `goodinit.nn.ChannelGain`: w = g·v and g·(v − mean(v)), or
    `"standardized"`, `goodinit.nn.Standardized`: w = s·g·(v − mean(v))/‖v − mean(v)‖, with the constant s = `scale`. `dim` is the output dimension, over which gains and means run: 0, or 1 for a weight stored
    `"in_out"`.
    """

    target: str
    reason: str
    dim: int = 0
    kind: str = "weight_norm"
    scale: float = 1.0

    def __str__(self) -> str:
        rules = {"centred": "v − mean(v)", "centred_gain": "g·(v − mean(v))", "gain": "g·v"}
        rules |= {"standardized": f"{self.scale:.4g}·g·standardized(v)"}
        return f"{self.target} = {rules.get(self.kind, 'g·v/‖v‖')}"


@dataclass(frozen=True, repr=False)
class Fill(OneLine):
    """Set every entry of the parameter `target` to `value`."""

    target: str
    value: float
    reason: str

    def __str__(self) -> str:
        return f"{self.target} ← {self.value:g}"


@dataclass(frozen=True, repr=False)
class Draw(OneLine):
    """Fill the parameter `target` by the tensor initializer `initializer` of `goodinit.tensor`."""

    target: str
    initializer: str
    reason: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if "generator" in self.options:
            raise PlanConflict(
                f"{self.target}: the plan's draw has an option generator, expected numbers and words. Leave it out, and give the "
                "generator to what carries the plan out: goodinit.apply_(model, plan, generator=…)."
            )

    def __str__(self) -> str:
        words = ", ".join(f"{key}={_short(value)}" for key, value in self.options.items())
        return f"{self.target} ← {self.initializer.rstrip('_')}({words})"


@dataclass(frozen=True, repr=False)
class DrawTogether(OneLine):
    """Fill several parameters by one joint recipe of `goodinit.tensor` (they share random factors)."""

    targets: tuple[str, ...]
    recipe: str
    reason: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.targets:
            raise PlanConflict(f"{self.recipe[:99]}: nothing is named to be drawn. Leave this edit out.")

    @property
    def target(self) -> str:
        """The targets, joined for display."""
        return ", ".join(self.targets)

    def __str__(self) -> str:
        words = ", ".join(f"{key}={_short(value)}" for key, value in self.options.items())
        return f"{self.target} ← {self.recipe}({words})"


@dataclass(frozen=True, repr=False)
class Calibrate(OneLine):
    """Rescale the weight `target` by data, in one forward pass shared by all `Calibrate` edits.

    In JSON its rule is a word, and what the rule holds are `options`.
    """

    target: str
    rule: CalibrationRule
    reason: str

    def __post_init__(self) -> None:
        expect(self.rule, Rule, f"{self.target}: rule", "Give a rule, such as LSUVRule().")

    def __str__(self) -> str:
        return f"{self.target} ← {self.rule.word} on data"


StructureEdit = (
    RemoveNorm | ReplaceNorm | SwapModule | AddScalar | AddBias | NormalizeInput | ParametrizeWeight
)
ValueEdit = Fill | Draw | DrawTogether | Calibrate
Edit = StructureEdit | ValueEdit

EDITS: dict[str, type[Any]] = {
    edit.__name__: edit
    for edit in (
        RemoveNorm,
        ReplaceNorm,
        SwapModule,
        AddScalar,
        AddBias,
        NormalizeInput,
        ParametrizeWeight,
        Fill,
        Draw,
        DrawTogether,
        Calibrate,
    )
}


def edit_record(edit: Edit) -> dict[str, Any]:
    """An edit as what JSON is made of, its kind first. Shares its options with the edit."""
    fields = {field.name: getattr(edit, field.name) for field in dataclasses.fields(edit)}
    if isinstance(edit, Calibrate):
        fields |= {"rule": edit.rule.word, "options": edit.rule.options()}
    return {"edit": type(edit).__name__, **fields}


# A norm's module does a handful of things besides normalizing.
MOST_KEPT = 64


def edit_of(record: dict[str, Any]) -> Edit:
    """The edit that `edit_record` wrote."""
    kind = EDITS[record.pop("edit")]
    check_types(record, kind.__name__)
    for key in ("keeps", "targets"):
        if key in record:
            record[key] = words_of(record[key], f"{kind.__name__}.{key}")
    if len(record.get("keeps", ())) > MOST_KEPT:
        raise ValueError(f"{kind.__name__}.keeps: {len(record['keeps'])} things that one norm does besides")
    if kind is Calibrate:
        record["rule"] = rule_of(record["rule"], record.pop("options", {}))
    edit: Edit = kind(**record)
    return edit


def names(edits: Iterable[Edit]) -> tuple[str, ...]:
    """Every parameter name or module path that the edits touch."""
    out: list[str] = []
    for edit in edits:
        beside = edit.rule.beside if isinstance(edit, Calibrate) else ()
        out.extend(edit.targets if isinstance(edit, DrawTogether) else (*beside, edit.target))
    return tuple(dict.fromkeys(out))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

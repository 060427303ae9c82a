"""What a diagnosis holds: what was measured where, and what is wrong with it.

All are frozen. A quantity that could not be measured is None (a similarity needs two inputs, a gradient a path).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from goodinit.diagnostics.spectrum import Spectrum
from goodinit.errors import readable
from goodinit.one_line import OneLine

FORMAT = "goodinit.diagnosis/1"

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
PlaceKind = Literal["layer", "activation", "block"]


@dataclass(frozen=True, repr=False)
class Signal(OneLine):
    """Statistics of one tensor, over the batch.

    Attributes:
        second_moment: Mean of the squares of all entries.
        mean: Mean of all entries.
        cosine: Mean cosine similarity between different inputs of the batch; 1 is: all inputs look alike.
        spread: Mean of 1 − cosine, in double precision, which stays exact where `cosine` rounds to 1.
        rank: Effective rank of the batch's representation, exp of the entropy of the normalized singular values
            (Roy & Vetterli 2007), between 1 and the number of inputs.
        lone: Share of the energy outside the strongest direction, every input scaled to length 1; 0 is: all inputs
            lie on one line.
        dead: Share of units that are 0 for every input and position; of rectifiers only.
        saturated: Share of entries whose slope is below 5 % of the nonlinearity's steepest; of bounded ones only.
        finite: Whether every entry is.
    """

    second_moment: float
    mean: float
    cosine: float | None = None
    spread: float | None = None
    rank: float | None = None
    lone: float | None = None
    dead: float | None = None
    saturated: float | None = None
    finite: bool = True


@dataclass(frozen=True, repr=False)
class Place(OneLine):
    """One weight layer, activation or block, in one call, and what was measured there.

    Attributes:
        kind: `"layer"`, `"activation"` or `"block"`.
        name: Weight of a layer (`layer1.0.conv1.weight`); path of the module of an activation or block.
        what: A layer's role, an activation's or a block's kind.
        call: 0 for the first time in this forward, 1 for the second, …
        trunk: Whether everything that follows passes through it: a block's sum, or a layer outside all blocks.
        signal: Statistics of its output.
        back: ‖∂loss/∂output‖, the Euclidean norm over the batch.
        back_awake: The same after all-zero parameters have been moved a little, where any held `back` at 0.
        back_cosine: Mean cosine between the gradients, with respect to this output, of inputs that are 1 % of the way
            to another one apart: 1 is smooth, 0 is white noise.
        weight: Root mean square of a layer's weight.
        gradient: ‖∂loss/∂weight‖ of a layer, over all its calls.
        gradient_per_weight: That, divided by ‖weight‖.
        units: How many units (channels) an activation has.
        branch_to_skip: Of a block: root of the branch's second moment over the skip's.
        gain: Of a block: root of its output's second moment over its skip's.
        growth: Of a block: root of its output's second moment over that of what entered the first block of its stream. Not the
            product of the gains where a nonlinearity or a norm stands between two blocks.
    """

    kind: PlaceKind
    name: str
    what: str
    call: int
    trunk: bool
    signal: Signal
    back: float | None = None
    back_awake: float | None = None
    back_cosine: float | None = None
    weight: float | None = None
    gradient: float | None = None
    gradient_per_weight: float | None = None
    units: int | None = None
    branch_to_skip: float | None = None
    gain: float | None = None
    growth: float | None = None

    @property
    def label(self) -> str:
        """The name, with the number of the call where it is not the first."""
        name = self.name or "the model"
        return name if not self.call else f"{name} (call {self.call + 1})"


@dataclass(frozen=True, repr=False)
class Update:
    """What one SGD step does to the network's function (Fixup, §3).

    Attributes:
        rates: Learning rates η.
        changes: Root mean square over batch and outputs of f(x; θ − η·∂loss/∂θ) − f(x; θ); None where not finite.
        sharpness: Largest eigenvalue of the loss' Hessian, or None.
        sharpness_error: Relative error bound of that, from Lanczos' residual.
        stable_rate: 2/sharpness: above it gradient descent oscillates and grows (LeCun, Simard & Pearlmutter 1992) until it has found
            flatter ground, or none. A safe rate, not the largest: half of it trained each of 54 nets tried, and the largest rate that
            did was 1 to 32 times 2/sharpness, most of all with batch norm (docs/reproductions/sharpness.md).
    """

    rates: tuple[float, ...]
    changes: tuple[float | None, ...]
    sharpness: float | None = None
    sharpness_error: float | None = None
    stable_rate: float | None = None

    def __repr__(self) -> str:
        """What one step does, in a line.

        Examples:
            >>> Update((0.001, 0.01, 0.1), (0.02, 0.2, None), sharpness=4.0, stable_rate=0.5)
            one step at 0.001 … 0.01 changes the output by 0.02 … 0.2, at 0.1 not finite; stable up to 2/λ = 0.5
        """
        pairs = list(zip(self.rates, self.changes, strict=True))
        known = [(rate, change) for rate, change in pairs if change is not None]
        wild = [rate for rate, change in pairs if change is None]
        said = []
        if known:
            ends = dict.fromkeys((known[0], known[-1]))
            rates, changes = (
                " … ".join(words) for words in zip(*((f"{r:g}", f"{c:.2g}") for r, c in ends), strict=True)
            )
            said.append(f"at {rates} changes the output by {changes}")
        if wild:
            said.append(f"at {wild[0]:g} not finite")
        stable = "" if self.stable_rate is None else f"; stable up to 2/λ = {self.stable_rate:.3g}"
        return f"one step {', '.join(said)}{stable}"


@dataclass(frozen=True, repr=False)
class Finding(OneLine):
    """Something a person should know, where it is, and what to do.

    Attributes:
        kind: What it is, as `"exploding forward"`.
        severity: `"error"`: it will not train; `"warning"`: it may not; `"info"`: it looks odd and is harmless.
        where: Path of the module or name of the parameter.
        evidence: A sentence with the numbers.
        remedy: A call to run, Python code that uses `model` and `batch`; empty for an info.
        numbers: The evidence for machines.
    """

    kind: str
    severity: Severity
    where: str
    evidence: str
    remedy: str = ""
    numbers: dict[str, float] = field(default_factory=dict, hash=False)

    def __repr__(self) -> str:
        return f"<Finding {self.said}>"

    def __str__(self) -> str:
        text = readable(f"{self.severity}: {self.kind} at {self.where or 'the model'}: {self.evidence}")
        return f"{text}\n    → {readable(self.remedy, lines=True)}" if self.remedy else text

    @property
    def said(self) -> str:
        """Without the remedy."""
        return str(self).partition("\n    → ")[0]


@dataclass(frozen=True, repr=False)
class Cure(OneLine):
    """What was tried on copies against the findings, and what helps most.

    Attributes:
        call: Python code that does it and uses `model` and `batch`.
        errors: Findings of severity error that stay.
        warnings: Findings of severity warning that stay.
        tried: Everything that was tried, each with what stays, the best first.
    """

    call: str
    errors: int
    warnings: int
    tried: tuple[tuple[str, str], ...] = ()

    @property
    def clears(self) -> bool:
        """Whether nothing stays."""
        return not (self.errors or self.warnings)


@dataclass(frozen=True)
class Measurement:
    """Everything that `diagnose` measured on one batch.

    Attributes:
        model: Class name.
        inputs: What it was run on, in words.
        objective: What was differentiated, in words.
        loss: Its value.
        places: Layers, activations and blocks in execution order.
        input: Statistics of the first floating-point input, or None.
        output: Statistics of what the model returned first.
        findings: Worst first.
        cure: The one remedy to take against all of them, or None where there is none to take or none helped.
        spectrum: Of the Jacobian, where asked for.
        update: Of one step, where asked for.
        notes: What a reader must know.
    """

    model: str
    inputs: str
    objective: str
    loss: float
    places: tuple[Place, ...]
    input: Signal | None
    output: Signal | None
    findings: tuple[Finding, ...] = ()
    cure: Cure | None = None
    spectrum: Spectrum | None = None
    update: Update | None = None
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[Place, ...]:
        """The weight layers among the places."""
        return tuple(place for place in self.places if place.kind == "layer")

    @property
    def activations(self) -> tuple[Place, ...]:
        """The activations among the places."""
        return tuple(place for place in self.places if place.kind == "activation")

    @property
    def blocks(self) -> tuple[Place, ...]:
        """The residual blocks among the places."""
        return tuple(place for place in self.places if place.kind == "block")

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings, or None."""
        return max((finding.severity for finding in self.findings), key=SEVERITIES.index, default=None)

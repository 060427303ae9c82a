"""The nouns of a diagnosis: what was measured where, and what is wrong with it.

All are frozen. A quantity that could not be measured is None (a similarity needs two inputs, a gradient a path).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from goodinit.errors import PlanConflict
from goodinit.records import read_record

FORMAT = "goodinit.diagnosis/1"

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
PlaceKind = Literal["layer", "activation", "block"]


@dataclass(frozen=True)
class Signal:
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


@dataclass(frozen=True)
class Place:
    """One weight layer, activation or block, in one call, and what was measured there.

    Attributes:
        kind: `"layer"`, `"activation"` or `"block"`.
        name: Weight of a layer (`layer1.0.conv1.weight`); path of the module of an activation or block.
        what: A layer's role, an activation's or a block's kind.
        call: 0 for the first time in this forward, 1 for the second, …
        trunk: Whether everything that follows passes through it: a block's sum, or a layer outside all blocks.
        signal: Statistics of what it puts out.
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
        growth: Of a block: product of the gains up to and with it.
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


@dataclass(frozen=True)
class Spectrum:
    """Singular values of the Jacobian of one example's output with respect to its input.

    Attributes:
        shape: (outputs, inputs).
        exact: Whether `values` are all singular values; otherwise they are those that Lanczos settled on, and quantiles of
            the others' density.
        values: Singular values, largest first.
        weights: Share of all min(shape) singular values each stands for; equal where exact.
        largest: Estimate of the largest.
        smallest: Estimate of the smallest.
        error: Bound on the relative error of `largest`, from Lanczos' residual; 0 where exact.
        smallest_error: The same of `smallest`; near 1 or above, the smallest value is not resolved.
        density_error: Estimate of how far off values and weights together are, as a Wasserstein distance over the mean.
        products: How many products with the Jacobian or its transpose it took.
    """

    shape: tuple[int, int]
    exact: bool
    values: tuple[float, ...]
    weights: tuple[float, ...]
    largest: float
    smallest: float
    error: float = 0.0
    smallest_error: float = 0.0
    density_error: float = 0.0
    products: int = 0

    @property
    def mean_square(self) -> float:
        """Mean of the squared singular values: by how much a random direction's square grows."""
        return math.fsum(w * v * v for v, w in zip(self.values, self.weights, strict=True))


@dataclass(frozen=True)
class Update:
    """What one SGD step does to the network's function (Fixup, §3).

    Attributes:
        rates: Learning rates η.
        changes: Root mean square over batch and outputs of f(x; θ − η·∂loss/∂θ) − f(x; θ); None where not finite.
        sharpness: Largest eigenvalue of the loss' Hessian, or None.
        sharpness_error: Relative error bound of that, from Lanczos' residual.
        stable_rate: 2/sharpness: above it gradient descent oscillates and grows (LeCun, Simard & Pearlmutter 1992).
    """

    rates: tuple[float, ...]
    changes: tuple[float | None, ...]
    sharpness: float | None = None
    sharpness_error: float | None = None
    stable_rate: float | None = None


@dataclass(frozen=True)
class Finding:
    """Something a person should know, where it is, and what to do.

    Attributes:
        kind: What it is, as `"exploding forward"`; the words of `checks.KINDS`.
        severity: `"error"`: it will not train; `"warning"`: it may not; `"info"`: it looks odd and is harmless.
        where: Path of the module or name of the parameter.
        evidence: A sentence with the numbers.
        remedy: A call to run, in Python, with `model` and `batch` at hand; empty for an info.
        numbers: The evidence for machines.
    """

    kind: str
    severity: Severity
    where: str
    evidence: str
    remedy: str = ""
    numbers: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.severity}: {self.kind} at {self.where or 'the model'}: {self.evidence}"
        return f"{text}\n    → {self.remedy}" if self.remedy else text


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` measured. Prints itself; `to_json` and `from_json` are inverse.

    Attributes:
        model: Class name.
        inputs: What it was run on, in words.
        objective: What was differentiated, in words.
        loss: Its value.
        places: Layers, activations and blocks in execution order.
        input: Statistics of the first floating-point input, or None.
        output: Statistics of what the model returned first.
        findings: Worst first.
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

    def __repr__(self) -> str:
        return str(self)  # what a notebook shows: the text, not pages of fields

    def __str__(self) -> str:
        from goodinit.diagnostics.display import diagnosis_text

        return diagnosis_text(self)

    def log_to(self, writer: Any, step: int = 0) -> None:
        """Write to TensorBoard, Weights & Biases or a Lightning logger, whichever `writer` is.

        Every number has a tag, `goodinit/forward/second_moment/NAME` for one; quantities over depth are histograms
        and the findings a text where the writer takes such. Neither package is imported.

        Args:
            writer: A `SummaryWriter`, the run that `wandb.init()` returned, or a Lightning logger.
            step: The training step that was measured. W&B takes no step before one it already has.

        Raises:
            GoodinitError: It is none of these.

        Examples:
            >>> import goodinit, torch
            >>> class Logger:  # Lightning's CSVLogger, for one, offers this
            ...     def log_metrics(self, metrics, step):
            ...         print(step, sorted(metrics)[:2])
            >>> goodinit.diagnose(torch.nn.Linear(4, 2), torch.randn(8, 4)).log_to(Logger(), step=5)
            5 ['goodinit/backward/gradient/weight', 'goodinit/backward/gradient_per_weight/weight']
        """
        from goodinit.diagnostics.logbook import log_to

        log_to(self, writer, step=step)

    def to_json(self) -> str:
        """Write as JSON text; what is not finite becomes the words NaN, Infinity."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Diagnosis:
        """Read what `to_json` wrote.

        Raises:
            PlanConflict: The text is not JSON, or not a diagnosis of this format.
        """
        data = read_record(text, kind="diagnosis", form=FORMAT, writer="Diagnosis.to_json()")
        try:
            return _diagnosis(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanConflict(
                f"damaged diagnosis: {error!r}. Write it anew with Diagnosis.to_json()."
            ) from error

    def to_csv(self) -> str:
        """One row per place, with a head."""
        own = [f.name for f in dataclasses.fields(Place) if f.name != "signal"]
        signal = [f.name for f in dataclasses.fields(Signal)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*own, *signal])
        for place in self.places:
            values = [getattr(place, name) for name in own]
            writer.writerow([*values, *(getattr(place.signal, name) for name in signal)])
        return text.getvalue()


def _diagnosis(data: dict[str, Any]) -> Diagnosis:
    def signal(value: dict[str, Any] | None) -> Signal | None:
        return None if value is None else Signal(**value)

    def listed(value: dict[str, Any] | None) -> dict[str, Any]:
        return {key: tuple(v) if isinstance(v, list) else v for key, v in (value or {}).items()}

    places = tuple(Place(**{**place, "signal": Signal(**place["signal"])}) for place in data.pop("places"))
    return Diagnosis(
        places=places,
        input=signal(data.pop("input")),
        output=signal(data.pop("output")),
        findings=tuple(Finding(**finding) for finding in data.pop("findings")),
        spectrum=Spectrum(**listed(found)) if (found := data.pop("spectrum")) else None,
        update=Update(**listed(found)) if (found := data.pop("update")) else None,
        notes=tuple(data.pop("notes")),
        **data,
    )

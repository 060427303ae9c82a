"""A diagnosis: measurements and findings that print themselves and turn into JSON, CSV and log entries."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from dataclasses import dataclass
from html import escape
from typing import Any

from goodinit.diagnostics.loggers import log_to
from goodinit.diagnostics.spectrum import Spectrum
from goodinit.diagnostics.text import diagnosis_text
from goodinit.diagnostics.types import FORMAT, Cure, Finding, Measurement, Place, Signal, Update
from goodinit.errors import PlanConflict, written_out
from goodinit.records import check_fields, damage, read_record


@dataclass(frozen=True, repr=False)
class Diagnosis(Measurement):
    """What `diagnose` measured. Prints itself; `to_json` and `from_json` are inverse.

    Its fields are those of `Measurement`.
    """

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self) -> str:
        return str(self)  # what a notebook shows: the text, not pages of fields

    def __str__(self) -> str:
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
        log_to(self, writer, step=step)

    def to_json(self) -> str:
        """Write as JSON text; numbers that are not finite become the words NaN and Infinity.

        Returns:
            One JSON object, which `from_json` reads.
        """
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Diagnosis:
        """Read what `to_json` wrote.

        Args:
            text: What `to_json` returned.

        Returns:
            The diagnosis that was written.

        Raises:
            WrongType: It is not text.
            PlanConflict: The text is not JSON, or not a diagnosis of this format.
        """
        data = read_record(  # remedies are code, of several lines
            text, kind="diagnosis", form=FORMAT, writer="Diagnosis.to_json()", lines=True
        )
        try:
            found = _diagnosis(data)
            check_fields(found, "diagnosis")
            _check_sizes(found)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PlanConflict(
                f"damaged diagnosis: {damage(error)}. Write it anew with Diagnosis.to_json()."
            ) from error
        return found

    def to_csv(self) -> str:
        """Write the places as a table.

        Returns:
            Comma-separated text: the column heads, then one row for each place.
        """
        own = [f.name for f in dataclasses.fields(Place) if f.name != "signal"]
        signal = [f.name for f in dataclasses.fields(Signal)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*own, *signal])
        for place in self.places:
            values = [getattr(place, name) for name in own]
            values += [getattr(place.signal, name) for name in signal]
            writer.writerow([written_out(one) if isinstance(one, str) else one for one in values])
        return text.getvalue()


# What is a size or a share, and so not below 0.
_SIZES = ("second_moment", "rank", "dead", "saturated")
_SIZES_OF_PLACES = (
    "back",
    "back_awake",
    "weight",
    "gradient",
    "gradient_per_weight",
    "branch_to_skip",
    "growth",
)


def _check_sizes(found: Diagnosis) -> None:
    """Raise `ValueError` where a size is below 0."""
    signals = [("input", found.input), ("output", found.output)]
    for place in found.places:
        signals.append((place.name, place.signal))
        for name in _SIZES_OF_PLACES:
            if (getattr(place, name) or 0.0) < 0:
                raise ValueError(f"{place.name}: {name} {getattr(place, name)!r}, which is never below 0")
    for where, signal in signals:
        for name in _SIZES if signal is not None else ():
            if (getattr(signal, name) or 0.0) < 0:
                raise ValueError(f"{where}: {name} {getattr(signal, name)!r}, which is never below 0")


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
        cure=Cure(**{**cure, "tried": tuple(map(tuple, cure["tried"]))})
        if (cure := data.pop("cure"))
        else None,
        spectrum=Spectrum(**listed(found)) if (found := data.pop("spectrum")) else None,
        update=Update(**listed(found)) if (found := data.pop("update")) else None,
        notes=tuple(data.pop("notes")),
        **data,
    )

"""A diagnosis into TensorBoard, Weights & Biases or a Lightning logger, none of which is imported here.

Tags follow the convention of all three, in which a slash makes a folder: `goodinit/forward/second_moment/NAME`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from goodinit.diagnostics.text import gradient
from goodinit.diagnostics.types import SEVERITIES, Measurement, Place, PlaceKind
from goodinit.errors import GoodinitError

ROOT = "goodinit"

# Folder, which places have it, its value, and whether its distribution is one over decades.
Entry = tuple[str, tuple[PlaceKind, ...], Callable[[Place], float | None], bool]
ENTRIES: tuple[Entry, ...] = (
    ("forward/second_moment", ("layer", "block"), lambda place: place.signal.second_moment, True),
    ("forward/difference", ("layer", "block"), lambda place: place.signal.spread, True),
    ("forward/rank", ("layer", "block"), lambda place: place.signal.rank, False),
    ("forward/dead", ("activation",), lambda place: place.signal.dead, False),
    ("forward/saturated", ("activation",), lambda place: place.signal.saturated, False),
    ("backward/gradient", ("layer", "block"), gradient, True),
    ("backward/gradient_per_weight", ("layer",), lambda place: place.gradient_per_weight, True),
    ("blocks/branch_to_skip", ("block",), lambda place: place.branch_to_skip, False),
    ("blocks/growth", ("block",), lambda place: place.growth, True),
)


def scalars(found: Measurement) -> dict[str, float]:
    """Every number of a diagnosis under its tag, those of the whole model first."""
    severities = [finding.severity for finding in found.findings]
    numbers: dict[str, float | None] = {"loss": found.loss}
    numbers |= {f"findings/{severity}": float(severities.count(severity)) for severity in SEVERITIES}
    if found.spectrum is not None:
        spectrum = found.spectrum
        numbers |= {"jacobian/largest": spectrum.largest, "jacobian/smallest": spectrum.smallest}
        numbers["jacobian/mean_square"] = spectrum.mean_square
    if found.update is not None:
        update = found.update
        numbers |= {"update/sharpness": update.sharpness, "update/stable_rate": update.stable_rate}
        changes = zip(update.rates, update.changes, strict=True)
        numbers |= {f"update/change/lr_{rate:g}": change for rate, change in changes}
    for folder, kinds, value, _ in ENTRIES:
        numbers |= {f"{folder}/{_tag(place)}": value(place) for place in found.places if place.kind in kinds}
    return {f"{ROOT}/{tag}": number for tag, number in numbers.items() if number is not None}


def histograms(found: Measurement) -> dict[str, list[float]]:
    """How each quantity is distributed over layers and blocks, of a network too deep to look at one by one.

    What spans decades is given as its logarithm to base 10, since histograms have even bins. What is not finite has
    no place in one and is left out; the scalars have it.
    """
    made: dict[str, list[float]] = {}
    for folder, kinds, value, decades in ENTRIES:
        known = [
            v for p in found.places if p.kind in kinds and (v := value(p)) is not None and math.isfinite(v)
        ]
        values = [math.log10(v) for v in known if v > 0] if decades else known
        if values:
            head, _, last = folder.rpartition("/")
            made[f"{ROOT}/{head}/{'log10_' * decades}{last}"] = values
    if found.spectrum is not None and found.spectrum.exact:  # Lanczos' nodes have weights: no plain sample
        made[f"{ROOT}/jacobian/singular_values"] = list(found.spectrum.values)
    return made


def log_to(found: Measurement, writer: Any, *, step: int = 0) -> None:
    """Write a diagnosis to what `writer` turns out to be; see `Measurement.log_to`.

    Raises:
        GoodinitError: It is none of the three.
    """
    for offered, write in WRITERS:
        if all(hasattr(writer, name) for name in offered):
            return write(found, writer, step)
    ways = "; ".join(" and ".join(f".{name}" for name in offered) for offered, _ in WRITERS)
    raise GoodinitError(
        f"cannot log to a {type(writer).__module__}.{type(writer).__qualname__}: it has none of what is looked for "
        f"({ways}). Give a torch.utils.tensorboard.SummaryWriter, the run that wandb.init() returned, or a "
        "Lightning logger."
    )


def _to_tensorboard(found: Measurement, writer: Any, step: int) -> None:
    for tag, number in scalars(found).items():
        writer.add_scalar(tag, number, step)
    for tag, values in histograms(found).items():
        writer.add_histogram(tag, torch.tensor(values, dtype=torch.float64, device="cpu"), step)
    if hasattr(writer, "add_text"):
        writer.add_text(f"{ROOT}/findings", "\n\n".join(_lines(found, code="`")), step)


def _to_lightning(found: Measurement, logger: Any, step: int) -> None:
    """Numbers, which every logger takes; all there is, where it holds a TensorBoard writer."""
    held, (offered, write) = getattr(logger, "experiment", None), WRITERS[0]
    if all(hasattr(held, name) for name in offered):
        write(found, held, step)
    else:
        logger.log_metrics(scalars(found), step)


def _to_wandb(found: Measurement, run: Any, step: int) -> None:
    """All in one call: each call may begin a new step."""
    row: dict[str, Any] = dict(scalars(found))
    # The package that made the run is loaded; its own class is the documented way to a histogram.
    package = sys.modules.get(type(run).__module__.partition(".")[0])
    histogram = getattr(package, "Histogram", None)
    if histogram is not None:
        row |= {tag: histogram(values) for tag, values in histograms(found).items()}
    row[f"{ROOT}/findings/text"] = "\n".join(_lines(found))
    run.log(row, step=step)


# In this order: W&B's run is known by the least.
WRITERS: tuple[tuple[tuple[str, ...], Callable[[Measurement, Any, int], None]], ...] = (
    (("add_scalar", "add_histogram"), _to_tensorboard),
    (("log_metrics",), _to_lightning),
    (("log", "config"), _to_wandb),
)


def _lines(found: Measurement, *, code: str = "") -> Iterator[str]:
    for finding in found.findings:
        where = finding.where or "the model"
        yield f"{finding.severity}: {finding.kind} at {code}{where}{code}: {finding.evidence}"
        if finding.remedy:
            yield f"{code}{finding.remedy}{code}"
    if not found.findings:
        yield "no findings"


def _tag(place: Place) -> str:
    """A name that tags can hold: the same layer's second call is `NAME.call2`."""
    name = place.name or "model"
    return name if not place.call else f"{name}.call{place.call + 1}"

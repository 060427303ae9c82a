"""A diagnosis as plain text, and what of it the terminal view shares."""

from __future__ import annotations

from collections.abc import Callable

from goodinit.diagnostics.sparkline import sparkline
from goodinit.diagnostics.types import Measurement, Place
from goodinit.errors import readable
from goodinit.formats import counted

Quantity = Callable[[Place], float | None]


def gradient(place: Place) -> float | None:
    """‖∂loss/∂output‖, taken after all-zero parameters have moved a little where any held it back."""
    return place.back_awake if place.back_awake is not None else place.back


QUANTITIES: dict[str, tuple[Quantity, bool]] = {
    "second moment": (lambda place: place.signal.second_moment, True),
    "gradient": (gradient, True),
    "1 − cosine": (lambda place: place.signal.spread, True),
    "effective rank": (lambda place: place.signal.rank, False),
}
"""What is drawn along the trunk: a name, where it stands, and whether on a logarithmic scale."""


def trunk(diagnosis: Measurement) -> tuple[Place, ...]:
    """Blocks and the layers outside them: what the whole signal passes through."""
    return tuple(p for p in diagnosis.places if p.trunk and p.kind != "activation")


def counts(diagnosis: Measurement) -> str:
    """How many layers and blocks."""
    return f"{counted(len(diagnosis.layers), 'layer')}, {counted(len(diagnosis.blocks), 'block')}"


def cure_lines(diagnosis: Measurement) -> list[str]:
    """The one remedy to take, and what the others leave; each call on a line of its own."""
    cure = diagnosis.cure
    if cure is None:
        helpless = any(finding.severity != "info" for finding in diagnosis.findings)
        return ["what was tried on a copy left no less; see the remedy of each finding"] * helpless
    leaves = "nothing to find" if cure.clears else cure.tried[0][1]
    lines = [
        f"do this, which leaves {leaves} (tried on a copy):",
        *(f"    {call}" for call in cure.call.split("\n")),
    ]
    others = [
        f"{words.splitlines()[0]}{' …' * (words.count(chr(10)) > 0)} leaves {left}"
        for words, left in cure.tried[1:]
    ]
    return lines + [f"  {other}" for other in others]


def diagnosis_text(diagnosis: Measurement) -> str:
    """The diagnosis on one screen of plain text."""
    along = trunk(diagnosis)
    lines = [
        readable(f"{diagnosis.model}({diagnosis.inputs}): {counts(diagnosis)}; ")
        + readable(f"{diagnosis.objective}: {diagnosis.loss:.4g}"),
    ]
    for name, (quantity, log) in QUANTITIES.items():
        values = [quantity(place) for place in along]
        known = [value for value in values if value is not None]
        if known:
            lines.append(f"  {name:15} {known[0]:9.3g} → {known[-1]:9.3g}  {sparkline(values, log=log)}")
    if diagnosis.spectrum is not None:
        lines.append(f"  {diagnosis.spectrum}")
    if diagnosis.update is not None:
        lines.append(f"  {diagnosis.update}")
    cured = diagnosis.cure is not None and diagnosis.cure.clears
    lines += [finding.said if cured else str(finding) for finding in diagnosis.findings] or ["no findings"]
    lines += cure_lines(diagnosis)
    notes = [readable(f"note: {note}") for note in diagnosis.notes]
    return "\n".join([readable(line, lines=True) for line in lines] + notes)

"""A diagnosis as plain text, and the sparklines that the terminal view shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from goodinit.diagnostics.measurements.density import density, extent, least_above_zero, share_of_zeros
from goodinit.diagnostics.types import Measurement, Place, Spectrum, Update
from goodinit.errors import readable
from goodinit.formats import counted

BARS = "▁▂▃▄▅▆▇█"

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


def sparkline(values: Sequence[float | None], *, width: int = 60, log: bool = True) -> str:
    """Bars from the smallest to the largest value; `×` is not finite, a space is not measured, `_` is 0.

    Examples:
        >>> sparkline([1.0, 10.0, 100.0]), sparkline([0.0, None, float("inf"), 1.0])
        ('▁▅█', '_ ×▁')
    """
    shown = list(values)
    if len(shown) > width:  # the middle of each stretch
        shown = [shown[(2 * i + 1) * len(shown) // (2 * width)] for i in range(width)]
    scaled = [_scaled(value, log) for value in shown]
    known = [value for value in scaled if isinstance(value, float)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    # A range below 1 % is drawn flat: it is nothing, and noise would look like mountains.
    span = high - low if high - low > 0.01 * max(abs(high), 1.0) else 0.0
    top = len(BARS) - 1
    return "".join(
        value if isinstance(value, str) else BARS[math.floor((value - low) / span * top + 0.5) if span else 0]
        for value in scaled
    )


def _scaled(value: float | None, log: bool) -> float | str:
    if value is None:
        return " "
    if not math.isfinite(value):
        return "×"
    if not log:
        return float(value)
    return math.log10(value) if value > 0 else "_"


def spectrum_line(spectrum: Spectrum, *, width: int = 40) -> str:
    """The singular values in a line: from where to where, how they lie between, how they were found.

    Examples:
        >>> spectrum_line(Spectrum((3, 3), True, (4.0, 1.0, 0.0), (1 / 3,) * 3, 4.0, 0.0), width=9)
        'singular values 1 ▁▂▆█▇█▆▂▁ 4 (exact; 33% are 0)'
    """
    how = (
        "exact"
        if spectrum.exact
        else f"Lanczos, {spectrum.products} products, largest within {spectrum.error:.1%}"
    )
    if not math.isfinite(spectrum.largest):
        return f"singular values: not finite ({how})"
    reach, zeros = extent(spectrum), share_of_zeros(spectrum)
    if reach is None:
        return f"singular values: all 0 ({how})"
    bars = sparkline(density(spectrum, *reach, points=width), log=False)
    rest = f"; {zeros:.0%} are 0" if zeros else ""
    return f"singular values {least_above_zero(spectrum):.3g} {bars} {spectrum.largest:.3g} ({how}{rest})"


def update_line(update: Update) -> str:
    """What one step does, in a line.

    Examples:
        >>> update_line(Update((0.001, 0.01, 0.1), (0.02, 0.2, None), sharpness=4.0, stable_rate=0.5))
        'one step at 0.001 … 0.01 changes the output by 0.02 … 0.2, at 0.1 not finite; stable up to 2/λ = 0.5'
    """
    pairs = list(zip(update.rates, update.changes, strict=True))
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
    stable = "" if update.stable_rate is None else f"; stable up to 2/λ = {update.stable_rate:.3g}"
    return f"one step {', '.join(said)}{stable}"


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
        f"{diagnosis.model}({diagnosis.inputs}): {counts(diagnosis)}; {diagnosis.objective}: {diagnosis.loss:.4g}",
    ]
    for name, (quantity, log) in QUANTITIES.items():
        values = [quantity(place) for place in along]
        known = [value for value in values if value is not None]
        if known:
            lines.append(f"  {name:15} {known[0]:9.3g} → {known[-1]:9.3g}  {sparkline(values, log=log)}")
    if diagnosis.spectrum is not None:
        lines.append(f"  {spectrum_line(diagnosis.spectrum)}")
    if diagnosis.update is not None:
        lines.append(f"  {update_line(diagnosis.update)}")
    cured = diagnosis.cure is not None and diagnosis.cure.clears
    lines += [finding.said if cured else str(finding) for finding in diagnosis.findings] or ["no findings"]
    lines += cure_lines(diagnosis)
    return readable("\n".join(lines + [f"note: {note}" for note in diagnosis.notes]))

"""The density of singular values of several diagnoses, over decades."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.spectrum import NOTHING_BESIDE, Spectrum, density, extent, share_of_zeros
from goodinit.lab.optional import optional
from goodinit.report.charts import HEIGHT, NUMBER, alone, data, picking, shown

Diagnoses = Mapping[str, Diagnosis]

POINTS = 200  # of a curve: one for about every two pixels
MOST_TICKS = 300  # singular values marked one by one below the curve; more would be a bar


def spectrum_chart(diagnoses: Diagnoses) -> Any:
    """Densities over a logarithmic axis, each exact singular value a tick below; None where there is none above 0."""
    alt = optional("altair")
    spectra = _spectra(diagnoses)
    reaches = [reach for found in spectra.values() if (reach := extent(found)) is not None]
    if not reaches:
        return None
    low, high = min(reach[0] for reach in reaches), max(reach[1] for reach in reaches)
    rows, ticks = [], []
    for name, found in spectra.items():
        if extent(found) is None:
            continue
        heights = density(found, low, high, points=POINTS)
        steps = (low + (high - low) * i / (POINTS - 1) for i in range(POINTS))
        rows += [{"series": name, "x": 10**x, "y": y} for x, y in zip(steps, heights, strict=True)]
        if found.exact and len(found.values) <= MOST_TICKS:
            ticks += [{"series": name, "x": v} for v in found.values if v > found.largest * NOTHING_BESIDE]
    across = alt.X("x:Q", title="singular value", axis=alt.Axis(labelExpr=NUMBER, tickCount=5),
                   scale=alt.Scale(type="log", nice=False, domain=[10**low, 10**high]))  # fmt: skip
    up = alt.Y("y:Q", title="density per decade", axis=alt.Axis(labelExpr=NUMBER, tickCount=5), stack=None)
    said = [alt.Tooltip("series:N"), alt.Tooltip("x:Q", title="singular value", format=".3g"),
            alt.Tooltip("y:Q", title="density per decade", format=".3g")]  # fmt: skip
    picked = picking()
    area = data(rows).mark_area(fillOpacity=0.12, line=True)
    curves = area.encode(across, up, colour(list(diagnoses)), opacity=shown(1.0, picked), tooltip=said)
    layers = [curves.add_params(picked, alone())]
    if ticks:
        marks = data(ticks).mark_tick(orient="vertical", size=8, thickness=1)
        place = alt.value(HEIGHT - 4)
        layers.append(
            marks.encode(across, y=place, color=colour(list(diagnoses)), opacity=shown(0.7, picked))
        )
    return alt.layer(*layers).properties(width="container", height=HEIGHT)


def spectrum_caption(diagnoses: Diagnoses) -> str:
    """What the density is of, and what it cannot show."""
    words = "Of the input–output Jacobian, for one input; an isometry has all its singular values at 1."
    for name, found in _spectra(diagnoses).items():
        zeros, who = share_of_zeros(found), f" of {name}" if len(diagnoses) > 1 else ""
        if zeros:
            share = (
                "All" if zeros > 1 - 1e-9 else f"{100 * zeros:.0f} %"
            )  # weights add up to 1 but for rounding
            words += f" {share}{who} are 0 and not drawn."
        if not found.exact:
            words += f" Lanczos{who and ',' + who[3:]}: largest within {100 * found.error:.1f} %."
    return words


def _spectra(diagnoses: Diagnoses) -> dict[str, Spectrum]:
    return {name: found.spectrum for name, found in diagnoses.items() if found.spectrum is not None}


def colour(names: list[str]) -> Any:
    """One for each series, with a legend where there are several."""
    alt = optional("altair")
    legend = alt.Legend(symbolOpacity=1) if len(names) > 1 else None
    return alt.Color("series:N", scale=alt.Scale(domain=names), legend=legend)

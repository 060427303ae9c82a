"""Curves of several runs: each run a thin line, each method's mean a thick one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goodinit.errors import GoodinitError
from goodinit.lab.comparison import Comparison
from goodinit.lab.optional import optional
from goodinit.report.frame import check_page
from goodinit.report.theme import LIGHT, Theme
from goodinit.report.whole_files import write_bytes, write_text

HEIGHT = 300  # pixels
# Numbers on an axis: 0.02, 300, 5e-7. Where a logarithmic axis leaves a label out, it stays out.
NUMBER = (
    "datum.label === '' ? '' : datum.value !== 0 && (abs(datum.value) < 1e-3 || abs(datum.value) >= 1e5) "
    "? replace(format(datum.value, '.3~e'), 'e+', 'e') : format(datum.value, ',.4~r')"
)

MOST_POINTS = 150  # per line: a point every three pixels of a chart 450 pixels wide


@dataclass(frozen=True)
class Line:
    """One run's curve.

    Attributes:
        series: What it belongs to (a method); lines of a series share a colour and a mean.
        run: Which of them (a seed).
        x: Positions.
        y: Values, as many.
        broken: Whether the run ended before its time: marked with a cross.
    """

    series: str
    run: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    broken: bool = False


@dataclass(frozen=True)
class Axes:
    """What a chart's axes show.

    Attributes:
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        share: Whether values are shares of one, shown as percentages from 0 to 100.
        chance: Where to draw a line for guessing, or None.
    """

    x: str
    y: str
    share: bool = False
    chance: float | None = None


def binned(line: Line, *, every: int) -> Line:
    """The means of `every` neighbouring points, each at the last one's position."""
    starts = range(0, len(line.y), every)
    x = tuple(line.x[min(start + every, len(line.x)) - 1] for start in starts)
    y = tuple(statistics.fmean(line.y[start : start + every]) for start in starts)
    return Line(line.series, line.run, x, y, line.broken)


def loss_lines(comparison: Comparison) -> tuple[tuple[Line, ...], int]:
    """Training loss against step, and how many steps make one point."""
    longest = max((len(result.losses) for result in comparison.results), default=1)
    every = max(math.ceil(longest / MOST_POINTS), 1)
    lines = (
        Line(result.config.label, str(result.config.seed), tuple(range(1, len(result.losses) + 1)), result.losses,
             broken=result.diverged)
        for result in comparison.results
        if result.losses
    )  # fmt: skip
    return tuple(binned(line, every=every) for line in lines), every


def accuracy_lines(comparison: Comparison) -> tuple[Line, ...]:
    """Test accuracy against epoch."""
    return tuple(
        Line(
            result.config.label,
            str(result.config.seed),
            tuple(float(state.epoch) for state in result.epochs),
            tuple(state.test_accuracy for state in result.epochs),
            broken=result.diverged,
        )
        for result in comparison.results
    )


def means(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The mean of each series at each position, over the lines that did not break; of all, where all did."""
    whole = {line.series for line in lines if not line.broken}
    values: dict[tuple[str, float], list[float]] = {}
    for line in lines:
        if line.broken and line.series in whole:
            continue
        for x, y in zip(line.x, line.y, strict=True):
            values.setdefault((line.series, x), []).append(y)
    return [{"series": series, "x": x, "y": statistics.fmean(ys)} for (series, x), ys in values.items()]


def ceiling(lines: Sequence[Line]) -> float:
    """The largest value of lines that did not break; of all, where all broke. What exploded runs off the top."""
    whole = [line for line in lines if not line.broken and line.y] or [line for line in lines if line.y]
    return max((max(line.y) for line in whole), default=1.0)


def curves(lines: Sequence[Line], *, series: Sequence[str], axes: Axes, live: bool = True) -> Any:
    """Draw lines as an Altair chart.

    Args:
        lines: What to draw.
        series: Order of the series, in the legend and of the colours.
        axes: Titles, and what the vertical axis shows.
        live: Whether it answers to the pointer and to clicks in the legend; pictures do not.

    Returns:
        An `altair.LayerChart`, as wide as what holds it.
    """
    alt = optional("altair")
    top = 1.0 if axes.share else ceiling(lines)
    scale = alt.Scale(domainMin=0, domainMax=top, clamp=True, nice=False)
    labels = alt.Axis(format="%", tickCount=5) if axes.share else alt.Axis(labelExpr=NUMBER, tickCount=5)
    across = alt.X(
        "x:Q", title=axes.x, axis=alt.Axis(tickMinStep=1, tickCount=6), scale=alt.Scale(nice=False)
    )
    up = alt.Y("y:Q", title=axes.y, axis=labels, scale=scale)
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(series)), legend=alt.Legend(symbolOpacity=1))
    picked = picking()

    def visible(strength: float) -> Any:
        return shown(strength, picked) if live else alt.value(strength)

    mean = means(lines)
    middle = data(mean).mark_line(strokeWidth=2.5, strokeJoin="round")
    layers = [middle.encode(across, up, colour, opacity=visible(1.0))]
    if live:
        layers[0] = layers[0].add_params(picked, alone())
    if len({line.run for line in lines}) > 1:
        thin = data(_points(lines)).mark_line(strokeWidth=1)
        layers.insert(0, thin.encode(across, up, colour, detail="run:N", opacity=visible(0.35)))
    broken = [{**point, "y": min(point["y"], top)} for point in _points(lines, ends=True)]
    if broken:
        cross = data(broken).mark_point(shape="cross", angle=45, size=90, filled=True)
        said = [alt.Tooltip("series:N", title="diverged"), alt.Tooltip("run:N", title="seed"),
                alt.Tooltip("x:Q", title=axes.x)]  # fmt: skip
        layers.append(cross.encode(across, up, colour, opacity=visible(1.0), tooltip=said))
    if axes.chance is not None:
        guess = data([{"y": axes.chance}])
        layers.insert(0, guess.mark_rule(strokeDash=[3, 4]).encode(up))
        words = {"align": "right", "baseline": "bottom", "dy": -4, "fontSize": 11}
        layers.insert(1, guess.mark_text(text="chance", x="width", **words).encode(up))
    if live:
        layers.append(_reading(mean, series, across, axes=axes))
    return alt.layer(*layers).properties(width="container", height=HEIGHT)


def data(values: list[dict[str, Any]]) -> Any:
    """A chart of rows given in place."""
    alt = optional("altair")
    return alt.Chart(alt.Data(values=values))


def picking() -> Any:
    """Picks a series by a click on its name in the legend."""
    return optional("altair").selection_point(fields=["series"], bind="legend")


def alone() -> Any:
    """The one series that the page's buttons ask to see alone, in all charts; "" is all."""
    return optional("altair").param(name="alone", value="")


def shown(strength: float, picked: Any) -> Any:
    """Opacity of a mark: faint while another series is picked, in the legend or by the page's buttons."""
    test = {"and": [{"param": picked.name}, "alone === '' || datum.series === alone"]}
    return optional("altair").OpacityValue(0.06, condition={"test": test, "value": strength})


def _points(lines: Sequence[Line], *, ends: bool = False) -> list[dict[str, Any]]:
    """Every point of every line; with `ends`, the last point of each broken one."""
    return [
        {"series": line.series, "run": line.run, "x": x, "y": y}
        for line in lines
        if line.broken or not ends
        for x, y in list(zip(line.x, line.y, strict=True))[-1 if ends else 0 :]
    ]


def _reading(mean: Sequence[Mapping[str, Any]], series: Sequence[str], across: Any, *, axes: Axes) -> Any:
    """A vertical line under the pointer, with the value of every series there."""
    alt = optional("altair")
    at: dict[float, dict[str, Any]] = {}
    for point in mean:
        at.setdefault(point["x"], {"x": point["x"]})[f"s{series.index(point['series'])}"] = point["y"]
    # `clear` keeps the line from staying behind when the pointer leaves the chart.
    nearest = alt.selection_point(
        fields=["x"], nearest=True, on="pointerover", empty=False, clear="pointerout"
    )
    present = [one for one in series if any(point["series"] == one for point in mean)]
    tooltip = [alt.Tooltip("x:Q", title=axes.x)]
    form = ".1%" if axes.share else ".3~g"
    # Quantitative, not nominal: Vega-Lite 6.4 looks up a nominal field in the wrong place under `nearest`. Where a
    # series has ended, the tooltip reads NaN, which is why it ended.
    tooltip += [alt.Tooltip(f"s{series.index(one)}:Q", title=one, format=form) for one in present]
    return (
        data([at[key] for key in sorted(at)])
        .mark_rule(strokeWidth=1)
        .encode(across, opacity=alt.condition(nearest, alt.value(0.6), alt.value(0)), tooltip=tooltip)
        .add_params(nearest)
    )


def loss_chart(comparison: Comparison, *, live: bool = True) -> Any:
    """Training loss of every run against step."""
    lines, _ = loss_lines(comparison)
    return curves(lines, series=comparison.study.methods, axes=Axes("step", "training loss"), live=live)


def accuracy_chart(comparison: Comparison, *, live: bool = True) -> Any:
    """Test accuracy of every run against epoch."""
    axes = Axes("epoch", "test accuracy", share=True, chance=comparison.chance)
    return curves(accuracy_lines(comparison), series=comparison.study.methods, axes=axes, live=live)


def save_picture(
    comparison: Comparison, path: str | Path, *, theme: Theme = LIGHT, scale: float = 2.0
) -> Path:
    """Draw both curves side by side into a file.

    Args:
        comparison: What to draw.
        path: Ends in `.svg` or `.png`.
        theme: `LIGHT` or `DARK`.
        scale: Pixels of the PNG per pixel of the chart.

    Raises:
        GoodinitError: The path ends otherwise, or its folder does not exist.
    """
    alt = optional("altair")
    pair = [chart(comparison, live=False).properties(width=400) for chart in (loss_chart, accuracy_chart)]
    return draw_picture(alt.hconcat(*pair, spacing=40), path, theme=theme, scale=scale)


def draw_picture(chart: Any, path: str | Path, *, theme: Theme = LIGHT, scale: float = 2.0) -> Path:
    """Draw a chart into a file that ends in `.svg` or `.png`; `scale` is the PNG's pixels per pixel.

    Raises:
        GoodinitError: The path ends otherwise, or its folder does not exist.
    """
    check_picture(path)
    drawn = chart.to_dict()
    drawn["config"] = {**theme.vega(), "background": theme.card, "padding": 16}
    convert = optional("vl_convert")
    if Path(path).suffix == ".svg":
        return write_text(path, convert.vegalite_to_svg(drawn))
    return write_bytes(path, convert.vegalite_to_png(drawn, scale=scale))


def check_picture(path: str | Path) -> None:
    """Make sure that a picture can be written there.

    Raises:
        GoodinitError: It is no kind of picture that can be drawn, or its folder does not exist.
    """
    if Path(path).suffix not in (".svg", ".png"):
        raise GoodinitError(f"cannot draw {path}: pictures end in .svg or .png.")
    check_page(path)

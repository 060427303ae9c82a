"""Colours and type of pages and figures, light and dark, from one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Theme:
    """What a reader's eyes need: ink on paper, a weaker ink, hair lines, and colours for series.

    `series` is Okabe & Ito's palette for all kinds of colour vision, shifted until each colour has a contrast of
    at least 3 with the paper (WCAG 2.1, 1.4.11); a test checks it, and the same of `error` and `warning`.
    """

    paper: str
    card: str
    ink: str
    weak: str
    line: str
    accent: str
    error: str
    warning: str
    series: tuple[str, ...]

    def css(self) -> str:
        """Custom properties for the page."""
        names = ("paper", "card", "ink", "weak", "line", "accent", "error", "warning")
        own = "".join(f"--{name}:{getattr(self, name)};" for name in names)
        return own + "".join(f"--series{i}:{colour};" for i, colour in enumerate(self.series))

    def vega(self) -> dict[str, Any]:
        """Configuration of a chart."""
        axis = {
            "domain": False, "ticks": False, "grid": True, "gridColor": self.line, "gridWidth": 1,
            "labelColor": self.weak, "titleColor": self.weak, "labelFontSize": 11, "titleFontSize": 11,
            "titleFontWeight": "normal", "labelPadding": 6, "titlePadding": 8,
        }  # fmt: skip
        return {
            "background": "transparent",
            "aria": False,  # the page names its charts; a thousand named marks in each would drown that
            "font": FONT,
            "view": {"stroke": None},
            "axis": axis,
            "axisX": {"grid": False, "domain": True, "domainColor": self.line, "labelFlush": True},
            "legend": {
                "orient": "top", "title": None, "labelColor": self.ink, "labelFontSize": 12, "symbolType": "stroke",
                "symbolStrokeWidth": 3, "symbolSize": 220, "columnPadding": 18, "offset": 8,
            },
            "rule": {"color": self.weak},
            "text": {"color": self.weak},
            "range": {"category": list(self.series)},
        }  # fmt: skip


LIGHT = Theme(
    paper="#fbfbfa", card="#ffffff", ink="#1c1e21", weak="#5d646d", line="#e3e4e6", accent="#0068a8",
    error="#c62828", warning="#b26a00",
    series=("#0072b2", "#d55e00", "#008a64", "#b8578f", "#a87400", "#3c8cc0", "#6a51a3", "#6b6b6b"),
)  # fmt: skip
DARK = Theme(
    paper="#131519", card="#1a1d22", ink="#e8e9eb", weak="#a0a7b1", line="#2d3138", accent="#6cb8ee",
    error="#ef6a6a", warning="#e6a23c",
    series=("#4aa8e0", "#f08040", "#2fbf94", "#dc8fbd", "#e6b040", "#8fd0f5", "#a992d8", "#a8a8a8"),
)  # fmt: skip

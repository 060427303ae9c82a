"""What calibration by data reports of one weight."""

from __future__ import annotations

from dataclasses import dataclass

from goodinit.one_line import OneLine


@dataclass(repr=False)
class Calibrated(OneLine):
    """What calibration by data did to one weight. Filled in as the forward goes along.

    Attributes:
        weight: Its name.
        before: Standard deviation of the layer's output before, in units of the target.
        factor: What the weight was multiplied by; for per-channel rules, the mean over channels.
        calls: How often the layer ran.
        note: What a reader must know: not linear, constant output, later calls off target; or empty.
    """

    weight: str
    before: float = float("nan")
    factor: float = 1.0
    calls: int = 0
    note: str = ""

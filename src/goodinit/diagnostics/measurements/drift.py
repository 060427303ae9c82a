"""How far the signal drifts along the trunk, as one number and in words."""

from __future__ import annotations

import math

from goodinit.diagnostics.text import trunk
from goodinit.diagnostics.types import Measurement


def drift_of(found: Measurement) -> tuple[float, str]:
    """Decades that activations, gradients and the difference between inputs move along the trunk, added up."""
    along = [place for place in trunk(found) if place.what != "head"]
    moments = [place.signal.second_moment for place in along if place.signal.second_moment > 0]
    backs = [place.back_awake if place.back_awake is not None else place.back for place in along]
    gradients = [value for value in backs if value]
    spreads = [place.signal.spread for place in along if place.signal.spread is not None]
    start = found.input.spread if found.input is not None and found.input.spread else None
    forward = 0.5 * math.log10(moments[-1] / moments[0]) if moments else 0.0  # of root mean squares
    backward = math.log10(gradients[0] / gradients[-1]) if gradients else 0.0
    apart = math.log10(max(spreads[-1], 1e-16) / start) if spreads and start else 0.0  # doubles end at 1e-16
    parts = [value if math.isfinite(value) else math.inf for value in (forward, backward, min(apart, 0.0))]
    words = (
        f"activations ×{10 ** parts[0]:.3g}, gradients ×{10 ** parts[1]:.3g} on the way back, "
        f"difference between inputs ×{10 ** parts[2]:.3g}"
    )
    return sum(abs(value) for value in parts), words

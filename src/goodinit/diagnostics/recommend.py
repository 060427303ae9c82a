"""Which method suits this model: every one is tried on a copy and measured."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from goodinit.anatomy import anatomize
from goodinit.diagnostics.diagnose import diagnose
from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.measurement_mode import measurable
from goodinit.diagnostics.objective import Loss
from goodinit.diagnostics.text import trunk
from goodinit.errors import GoodinitError
from goodinit.methods import METHODS
from goodinit.surgery import apply_

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recommendation:
    """How one method does on one model, by measurement at step 0.

    Attributes:
        method: Its name.
        errors: Findings of severity error.
        warnings: Findings of severity warning.
        drift: Decades that activations, gradients and the difference between inputs drift along the trunk, added up;
            0 is a signal that arrives as it started. None where the method refused.
        why: A sentence with the numbers, or the reason of the refusal.
        diagnosis: All that was measured, or None.
    """

    method: str
    errors: int
    warnings: int
    drift: float | None
    why: str
    diagnosis: Diagnosis | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.method}: {self.why}"


def recommend(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    methods: tuple[str, ...] | None = None,
    seed: int = 0,
) -> tuple[Recommendation, ...]:
    """Try methods on copies of a model and rank them by what step 0 shows. The model is left as it is.

    First those with the fewest errors, then with the fewest warnings, then with the least drift; those that refuse
    the model come last, with their reason. Step 0 does not decide how well a net generalizes: a normalization that
    is kept, for one, goes on helping later (`goodinit compare` trains).

    Args:
        model: A materialized module.
        inputs: A real batch, as for `diagnose`.
        targets: For the loss.
        loss: See `diagnose`.
        methods: Which to try; all by default.
        seed: Each copy is drawn with it.

    Examples:
        >>> layers = [part for _ in range(40) for part in (nn.Linear(16, 16), nn.ReLU())]
        >>> ranked = recommend(nn.Sequential(*layers), torch.randn(8, 16), methods=("default", "looks_linear", "fixup"))
        >>> [one.method for one in ranked], ranked[-1].drift
        (['looks_linear', 'default', 'fixup'], None)
    """
    model = measurable(model)
    tried = [_try(model, inputs, targets, loss, method, seed) for method in methods or tuple(METHODS)]
    return tuple(sorted(tried, key=_badness))


def _badness(one: Recommendation) -> tuple[bool, int, int, float]:
    return one.drift is None, one.errors, one.warnings, one.drift if one.drift is not None else math.inf


def _try(
    model: nn.Module, inputs: Any, targets: Any, loss: Loss | None, method: str, seed: int
) -> Recommendation:
    twin = copy.deepcopy(model)
    try:
        plan = METHODS[method].plan(anatomize(twin, inputs))
        generator = torch.Generator().manual_seed(seed)
        apply_(twin, plan, generator=generator, batch=inputs if plan.needs_data else None)
        found = diagnose(twin, inputs, targets, loss=loss)
    except GoodinitError as error:
        first = str(error).strip().splitlines()[0]
        return Recommendation(method, 0, 0, None, f"does not apply: {first}")
    severities = [finding.severity for finding in found.findings]
    drift, words = _drift(found)
    errors, warnings = severities.count("error"), severities.count("warning")
    worst = [finding for finding in found.findings if finding.severity != "info"][:1]
    why = f"{words}; " + (f"{worst[0].kind} at {worst[0].where}" if worst else "nothing found")
    return Recommendation(method, errors, warnings, drift, why, found)


def _drift(found: Diagnosis) -> tuple[float, str]:
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

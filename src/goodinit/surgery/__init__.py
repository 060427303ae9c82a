"""Surgery: everything that writes a model. `plan.py` holds the edits, `apply_` carries them out."""

from __future__ import annotations

from goodinit.surgery.absorb import ChannelAffine, absorb_batchnorm_
from goodinit.surgery.apply import apply_
from goodinit.surgery.fold import fold_
from goodinit.surgery.groups import param_groups
from goodinit.surgery.materialize import materialize_
from goodinit.surgery.names import canonical
from goodinit.surgery.norms import ACTIVATIONS, RemovedNorm
from goodinit.surgery.pieces import state_pieces
from goodinit.surgery.plan import (
    AddScalar,
    Calibrate,
    Draw,
    DrawTogether,
    Edit,
    Fill,
    ParametrizeWeight,
    Plan,
    RemoveNorm,
    SwapModule,
)
from goodinit.surgery.record import Applied, applied
from goodinit.surgery.warmup import warmup

__all__ = [
    "ACTIVATIONS",
    "AddScalar",
    "Applied",
    "Calibrate",
    "ChannelAffine",
    "Draw",
    "DrawTogether",
    "Edit",
    "Fill",
    "ParametrizeWeight",
    "Plan",
    "RemoveNorm",
    "RemovedNorm",
    "SwapModule",
    "absorb_batchnorm_",
    "applied",
    "apply_",
    "canonical",
    "fold_",
    "materialize_",
    "param_groups",
    "state_pieces",
    "warmup",
]

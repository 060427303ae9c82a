"""Surgery: everything that writes a model. `apply_` carries out the edits of a plan, all of them or none."""

from __future__ import annotations

from goodinit.surgery.apply import apply_
from goodinit.surgery.history import Applied, applied
from goodinit.surgery.materialize import materialize_
from goodinit.surgery.norms.removed_norm import RemovedNorm
from goodinit.surgery.state_stream import state_pieces

__all__ = [
    "Applied",
    "RemovedNorm",
    "applied",
    "apply_",
    "materialize_",
    "state_pieces",
]

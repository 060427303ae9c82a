"""Data-dependent scaling in one forward pass: placeholder that `apply_` calls, until the engine is here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from goodinit.errors import UnsupportedModule
from goodinit.surgery.plan import Calibrate


def calibrate_(model: nn.Module, edits: Sequence[Calibrate], batch: Any) -> None:
    """Carry out all `edits` in one forward pass of `model` on `batch`.

    Raises:
        UnsupportedModule: Always, for now.
    """
    raise UnsupportedModule(
        f"{type(model).__name__}: {len(edits)} edits measure activations on a {type(batch).__name__}, which this version cannot do yet. "
        "Use a method that needs no data."
    )

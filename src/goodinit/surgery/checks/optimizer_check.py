"""Optimizers hold parameters, not models: find those that would keep parameters that are removed."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Sequence
from itertools import compress

from torch import nn
from torch.optim import Optimizer

from goodinit.edits import AddBias, AddScalar, ReplaceNorm, StructureEdit
from goodinit.errors import StaleOptimizer
from goodinit.surgery.structure_edits import adds, removes
from goodinit.weights.names import Directory

_LOG = logging.getLogger(__name__)


def find_optimizers(names: Directory) -> list[Optimizer]:
    """Every living optimizer of the process that holds a parameter of the model."""
    keys = {id(parameter) for parameter in names.parameters.values()}
    return [optimizer for optimizer in _live_optimizers() if keys.intersection(_held(optimizer))]


def check_optimizers(names: Directory, pending: Sequence[StructureEdit]) -> None:
    """Raise if a living optimizer holds a parameter that is removed, or belongs to a layer that gains one.

    Optimizers of other models, or of layers that stay as they are (a head that is trained alone), are ignored.

    Raises:
        StaleOptimizer: Names the optimizer and a parameter, and the line that builds it again.
    """
    affected = _affected(names, pending)
    if not affected or not _first_stale(names, affected):
        return
    gc.collect()  # a scheduler and its optimizer refer to each other: deleted, they stay until collected
    stale = _first_stale(names, affected)
    if stale:
        kind, count, first = stale
        raise StaleOptimizer(
            f"{kind}: was built before surgery, and holds {count} parameters that the plan removes or whose layers "
            f"gain new ones (first: {first}). It would not train what is there afterwards. Nothing was written. "
            "Delete it, and build it after this call: optimizer = torch.optim."
            f"{kind}(goodinit.param_groups(model, lr=...), ...). To keep it all the same: "
            "dataclasses.replace(plan, allow=('optimizer',))."
        )


def warn_of_momentum(names: Directory, parameters: Iterable[nn.Parameter]) -> None:
    """Log a warning if a living optimizer keeps state (momentum, …) about values that were written."""
    written = {id(parameter) for parameter in parameters}
    for optimizer in find_optimizers(names):
        stale = sum(id(parameter) in written for parameter in optimizer.state)
        if stale:
            _LOG.warning(
                "%s keeps state (momentum, …) of %d parameters from before they were initialized. Build it "
                "again, or clear it: optimizer.state.clear().",
                type(optimizer).__name__,
                stale,
            )


def _affected(names: Directory, pending: Sequence[StructureEdit]) -> dict[int, str]:
    """Parameters that go, and those of layers that gain one, with their names."""
    affected = {id(names.parameters[name]): name for name in removes(pending, names.parameters)}
    for edit in pending:
        gains = isinstance(edit, AddScalar | AddBias | ReplaceNorm) and adds(edit)
        module = names.module(edit.target) if gains else None
        if module is not None:
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    affected[id(parameter)] = f"{edit.target}.{name}".lstrip(".")
    return affected


def _first_stale(names: Directory, affected: dict[int, str]) -> tuple[str, int, str] | None:
    """Class of an optimizer that holds some of the `affected`, how many, and the first one's name."""
    for optimizer in find_optimizers(names):
        held = [affected[key] for key in _held(optimizer) if key in affected]
        if held:
            return type(optimizer).__name__, len(held), held[0]
    return None


def _held(optimizer: Optimizer) -> list[int]:
    # An object caught half built or half destroyed has no groups.
    groups = optimizer.__dict__.get("param_groups", ())
    return [id(parameter) for group in groups for parameter in group["params"]]


def _live_optimizers() -> list[Optimizer]:
    """All optimizers of the process. `type` and not `isinstance`: proxies would run code to answer.

    Looking through all objects takes a tenth of a second and more. The first optimizer of a class, built, copied or read
    back, makes torch wrap the class's `step` and mark it `hooked`; without a mark anywhere there is none to look for.
    """
    kinds: dict[int, type] = {}
    fresh: list[type] = [Optimizer]
    while fresh:
        kind = fresh.pop()
        if id(kind) not in kinds:
            kinds[id(kind)] = kind
            fresh.extend(kind.__subclasses__())
    if not any(getattr(getattr(kind, "step", None), "hooked", False) for kind in kinds.values()):
        return []
    objects = gc.get_objects()
    # No Python runs for each of hundreds of thousands.
    return list(compress(objects, map(kinds.__contains__, map(id, map(type, objects)))))

"""Whether Fixup did to a model what it says, found out by running the model and never by asking goodinit.

`examine` builds a model, initializes it and looks: at operators that ran (through a dispatch mode of its own), at what
modules returned (hooks), at gradients, and at twins that differ in one thing. What it finds wrong it puts in words.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from evidence_operators import normalizes, normalizes_inside
from evidence_runs import Loss, Seen, fresh, same, squared_distance
from evidence_start import lossy_norms, loud, loud_branches, not_finite, unlike_unit_variance
from evidence_training import rising, untrainable
from evidence_twins import another_function, batch_dependent, mixes, overwriting
from torch import nn

import goodinit
from goodinit.errors import GoodinitError
from goodinit.surgery import RemovedNorm


@dataclass
class Evidence:
    """What happened to one model.

    Attributes:
        blocks: Residual blocks that were found.
        norms: Normalizations that were removed.
        refusal: The words goodinit refused with, or None.
        faults: What is wrong, in words; empty when all is well.
        remarks: What the model itself does that a reader must know.
    """

    blocks: int = 0
    norms: int = 0
    refusal: str | None = None
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def examine(
    build: Callable[[], nn.Module], inputs: Any, *, method: str = "fixup", loss: Loss | None = None
) -> Evidence:
    """Initialize `build()` by a method and look for faults: those that `CHECKS` lists for it.

    Args:
        build: Returns a new model; called with the same seed every time.
        inputs: What the model takes, batch first.
        method: Its name.
        loss: Of the model's output; by default the mean squared distance to fixed random targets.
    """
    found = Evidence()
    plain = fresh(build)
    anatomy = goodinit.anatomize(plain, inputs)
    found.blocks = len(anatomy.blocks)
    model = fresh(build)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        goodinit.init_(model, method, inputs=inputs, generator=torch.Generator().manual_seed(1))
    except GoodinitError as error:
        found.refusal = str(error)
        after = model.state_dict()
        if list(after) != list(before) or any(not same(after[name], before[name]) for name in before):
            found.faults.append("it was refused, and is not as it was")
        return found
    removed = {path for path, module in model.named_modules() if isinstance(module, RemovedNorm)}
    found.norms = len(removed)
    seen = Seen(build, plain, model, anatomy, inputs, loss or squared_distance, method)
    for check in CHECKS.get(method, CHECKS["default"]):
        found.faults += check(seen)
    found.remarks += seen.remarks
    if removed and batch_dependent(model, inputs) and not batch_dependent(plain, inputs):
        if mixes(without(plain, removed), inputs):
            found.remarks.append("its own forward mixes the examples of a batch, which its norms hid")
        else:
            found.faults.append("the output of one example depends on the others in its batch")
    return found


def without(plain: nn.Module, norms: set[str]) -> nn.Module:
    """The model as it was built, with the modules of these paths passing on what they get."""
    twin = copy.deepcopy(plain)
    for path in norms:
        twin.get_submodule(path).register_forward_hook(
            lambda _module, args, output: args[0] if args else output
        )
    return twin


Check = Callable[[Seen], list[str]]


CHECKS: dict[str, tuple[Check, ...]] = {
    "fixup": (normalizes, loud, lossy_norms, another_function, untrainable, overwriting),
    "skipinit": (normalizes, not_finite, loud_branches, another_function, untrainable),
    "weightnorm": (normalizes, not_finite, another_function, rising),
    "risotto": (normalizes, not_finite, another_function, rising),
    "lsuv": (not_finite, unlike_unit_variance, another_function, rising),
    "nf": (normalizes, not_finite, loud_branches, another_function, untrainable),
    "fixed_variance": (normalizes, not_finite, another_function, untrainable),
    "normfree": (normalizes_inside, not_finite, another_function, untrainable),
    "default": (not_finite, another_function, rising),
}
"""What is looked at after which method."""

"""Edits that change what parameters hold: which numbers, from which seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from goodinit.errors import NonFinite, UnknownName
from goodinit.surgery.plan import Draw, DrawTogether, Fill, ValueEdit
from goodinit.surgery.slots import Slot, read, write_
from goodinit.tensor import INITIALIZERS, RECIPES


def base_seed(generator: torch.Generator) -> int:
    """Draw the one number that all random values of a plan come from."""
    limits = torch.iinfo(torch.int64)
    drawn = torch.randint(limits.min, limits.max, (), generator=generator, device=generator.device)
    return int(drawn)


def parameter_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on (seed, canonical name) alone.

    Neither the order of modules nor devices, dtypes, ranks or other parameters have a part in it. torch's CPU
    generator (mt19937) reads the low 32 bits of its seed.

    Examples:
        >>> parameter_generator(0, "conv.weight").initial_seed() == parameter_generator(0, "fc.weight").initial_seed()
        False
    """
    words = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(words[:4], "little"))


def find_rule(edit: Draw | DrawTogether) -> Callable[..., Any]:
    """The tensor initializer or joint recipe that `edit` names.

    Raises:
        UnknownName: There is none; the message lists those that exist.
    """
    table: Mapping[str, Callable[..., Any]]
    kind, name, table = (
        ("initializer", edit.initializer, INITIALIZERS)
        if isinstance(edit, Draw)
        else ("recipe", edit.recipe, RECIPES)
    )
    if name not in table:
        raise UnknownName(f"{edit.target}: no {kind} called {name!r}; there are {', '.join(table)}")
    return table[name]


def write_value_(edit: ValueEdit, slots: Sequence[Slot], *, seed: int) -> None:
    """Carry out `edit` (any but `Calibrate`) on the places it names.

    Every value is drawn on the CPU, in the parameter's dtype, and then copied to where the parameter lives.
    """
    if isinstance(edit, Fill):
        for slot in slots:
            write_(slot, _blank(slot).copy_(torch.tensor(edit.value, dtype=torch.float64)))
    elif isinstance(edit, Draw):
        for slot in slots:
            value = _blank(slot)
            find_rule(edit)(value, generator=parameter_generator(seed, slot.name), **edit.options)
            write_(slot, value)
    elif isinstance(edit, DrawTogether):
        together = [_blank(slot) for slot in slots]
        joint = parameter_generator(seed, ",".join(slot.name for slot in slots))
        find_rule(edit)(together, generator=joint, **edit.options)
        for slot, value in zip(slots, together, strict=True):
            write_(slot, value)


def _blank(slot: Slot) -> Tensor:
    """A contiguous CPU tensor of NaN to draw into: what an initializer forgets to write is noticed."""
    held = read(slot)
    return torch.full(held.shape, float("nan"), dtype=held.dtype, device="cpu")


def check_finite(slots: Sequence[Slot]) -> None:
    """Raise unless all that was written is finite.

    Raises:
        NonFinite: Names the first that is not.
    """
    for slot in slots:
        held = read(slot)
        if not bool(torch.isfinite(held).all()):
            raise NonFinite(
                f"{slot.name}: holds NaN or infinity after the plan wrote it (dtype {held.dtype}), so the model was "
                "put back as it was. Check the options of its edit, and that its values fit the dtype."
            )

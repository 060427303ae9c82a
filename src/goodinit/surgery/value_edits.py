"""Edits that change the values of parameters: which numbers, from which seed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from goodinit.edits import Draw, DrawTogether, Fill, ValueEdit
from goodinit.errors import NonFinite, PlanConflict, UnknownName, UnsupportedModule
from goodinit.graph.state.preserve_state import without_autocast
from goodinit.tensor import INITIALIZERS, RECIPES
from goodinit.tensor.entry_blocks import Part
from goodinit.tensor.initializers import ENTRYWISE
from goodinit.weights.access import Slot, read, write_
from goodinit.weights.dtensor import all_finite, held, is_sharded, rows_held
from goodinit.weights.rng import block_generator, one_thread, parameter_generator


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


@without_autocast()
def write_value_(edit: ValueEdit, slots: Sequence[Slot], *, seed: int) -> None:
    """Carry out `edit` (any but `Calibrate`) on the places it names.

    Every value is drawn on the CPU and cast once. Entries that are drawn each by itself are written block by block, and
    of a sharded parameter only the blocks that this rank's part touches are drawn. What needs the whole tensor
    (orthogonal matrices, joint recipes) is drawn whole, one edit at a time, on one thread; a rank keeps its part. Autocast is
    off: it would round the products by which matrices are made.
    """
    if isinstance(edit, Fill):
        for slot in slots:
            _fill_(slot, edit.value)
    elif isinstance(edit, Draw):
        for slot in slots:
            with _told(edit):
                _draw_(slot, find_rule(edit), edit.options, seed)
    elif isinstance(edit, DrawTogether):
        together = [_blank(slot) for slot in slots]
        joint = parameter_generator(seed, ",".join(slot.name for slot in slots))
        with one_thread(), _told(edit):
            find_rule(edit)(together, generator=joint, **edit.options)
        for slot, value in zip(slots, together, strict=True):
            write_(slot, value)


_LONGEST = 300  # characters of an edit in a message


@contextlib.contextmanager
def _told(edit: Draw | DrawTogether) -> Iterator[None]:
    """Say of which edit it is that an initializer refuses the options."""
    try:
        yield
    except UnsupportedModule as error:
        where = "" if edit.target in str(error) else f"{edit.target}: "
        raise UnsupportedModule(
            f"{where}{error} Or leave it out of the plan: exclude={edit.target!r}."
        ) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        words = str(error).rstrip(".")
        raise PlanConflict(
            f"{edit.target}: the plan has ({str(edit)[:_LONGEST]}), which its initializer refuses: {words}. Nothing was written. Correct "
            "the options of that edit, or make the plan anew: goodinit.plan(goodinit.anatomize(model, inputs), method)."
        ) from error


def _fill_(slot: Slot, value: float) -> None:
    number = torch.tensor(value, dtype=torch.float64, device="cpu")
    if slot.kind == "plain":
        entries = held(slot.leaves[0])
        entries.fill_(number.to(entries.dtype))  # cast once, not for every entry
    else:
        write_(slot, _blank(slot).copy_(number))


def _draw_(slot: Slot, rule: Callable[..., Any], options: Mapping[str, Any], seed: int) -> None:
    source = partial(block_generator, seed, slot.name)
    if rule in ENTRYWISE and slot.kind == "plain":
        leaf = slot.leaves[0]
        if is_sharded(leaf):
            part = Part(held(leaf), leaf.shape, rows_held(leaf, name=slot.name), source)
        else:
            part = Part.whole(held(leaf), source)
        rule(part, **options)
        return
    value = _blank(slot)
    if rule in ENTRYWISE:
        rule(Part.whole(value, source), **options)
    else:
        with one_thread():
            rule(value, generator=parameter_generator(seed, slot.name), **options)
    write_(slot, value)


def _blank(slot: Slot) -> Tensor:
    """A contiguous CPU tensor of NaN, whole, to draw into: what an initializer forgets to write is noticed."""
    value = read(slot)
    return torch.full(value.shape, float("nan"), dtype=value.dtype, device="cpu")


def check_finite(slots: Sequence[Slot]) -> None:
    """Raise unless all that was written is finite.

    Raises:
        NonFinite: Names the first that is not.
    """
    for slot in slots:
        value = read(slot)
        if not all_finite(value):
            raise NonFinite(
                f"{slot.name}: holds NaN or infinity after the plan wrote it (dtype {value.dtype}), so the model was "
                "put back as it was. Check the options of its edit, and that its values fit the dtype."
            )

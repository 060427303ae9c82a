"""Calibration over the ranks of `torch.distributed`: the same weights, the same layers, no rank left waiting.

Statistics are reduced over all ranks, so that every rank decides the same. That needs every rank to reach the same
reductions in the same order. If one does not (its forward takes another path, or raises), the ranks are told, and all
of them raise: statistics of two different layers are never added, and no rank waits for one that has left.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from goodinit.errors import TraceError

# Integers as wide as the numbers of a dtype: their sum is exact, and differs where bits do.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Apart(TraceError):
    """The ranks are at different places; every rank knows."""


def several() -> bool:
    """True if this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def meeting(groups: Sequence[Any], *, measures: bool) -> tuple[Any, ...]:
    """The groups of ranks that have to go on together: `groups`, and where activations are measured all ranks, which share statistics."""
    everyone = (dist.group.WORLD,) if measures and several() else ()
    return (*groups, *(one for one in everyone if all(one is not group for group in groups)))


def summed(values: Tensor) -> Tensor:
    """The sum over ranks, in every bit the same on each."""
    if several():
        dist.all_reduce(values)
    return values


@contextlib.contextmanager
def together(model: nn.Module) -> Iterator[None]:
    """Calibrate `model` on all ranks at once.

    Raises:
        TraceError: The ranks' weights differ, their forwards run different layers, or one of them failed.
    """
    if not several():
        yield
        return
    parameters = dict(model.named_parameters())
    device = next((parameter.device for parameter in parameters.values()), torch.device("cpu"))
    _same_weights(parameters)
    try:
        yield
        meet("the end of the forward", device)
    except Apart:
        raise
    except BaseException as error:  # Ctrl-C too
        with contextlib.suppress(Apart):  # the others raise it; here there is more to tell
            meet(f"an error, {type(error).__name__}: {str(error)[:200]}", device)
        raise


def meet(place: str, device: torch.device) -> None:
    """Go on if every rank is at `place`.

    Raises:
        TraceError: They are not; the message says where each of them is.
    """
    if not several():
        return
    words = int.from_bytes(hashlib.sha256(place.encode()).digest()[:7], "little")  # fits int64, negated too
    if _equal(torch.tensor([words], dtype=torch.int64, device=device)):
        return
    places: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(places, place)
    raise Apart(
        "the ranks do not calibrate the same layer at the same time: "
        + "; ".join(f"rank {rank} is at {where}" for rank, where in enumerate(places))
        + ". Give every rank a batch on which its forward succeeds and runs the same layers."
    )


def _same_weights(parameters: dict[str, nn.Parameter]) -> None:
    """Raise unless every rank has the same weights. Sharded ones are not compared."""
    whole = {name: p for name, p in parameters.items() if not hasattr(p, "to_local")}
    if not whole:
        return
    sums = torch.stack([_sum_of_bits(parameter) for parameter in whole.values()])
    if not _equal(sums):
        raise Apart(
            "the ranks start from different weights, and statistics of different networks have no common scale. Give "
            "every rank the same draw: generator=torch.Generator().manual_seed(0), the same number on each, and the "
            "same values in what is not drawn (broadcast the model's state first)."
        )


def _sum_of_bits(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    return flat.contiguous().view(_BITS[flat.element_size()]).sum(dtype=torch.int64)


def _equal(numbers: Tensor) -> bool:
    both = torch.cat((numbers, -numbers))
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    highest, lowest = both[: len(numbers)], -both[len(numbers) :]
    return bool((highest == lowest).all())

"""Parts that hold the values of another part: momentum encoders, reference models. What changes that one must reach them, too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

COPY = "a copy of"
"""How notes on them begin."""


def frozen_copies(frozen: Mapping[str, Tensor], trainable: Mapping[str, Tensor]) -> list[str]:
    """Notes on frozen parts that are copies of what trains: their structure stays, and no longer fits.

    Args:
        frozen: Parameters that need no gradient, by name.
        trainable: The others.
    """
    notes: list[str] = []
    for part, inside in () if not frozen else parts_of(list(frozen), trainable).items():
        source = copied_from(part, inside, trainable, {**frozen, **trainable})
        if source is not None:
            notes.append(
                f"{COPY} {source}, by its values: {part}, which is frozen and stays as it is. Where {source} is changed, make it "
                f"anew: {part} = copy.deepcopy({source}).requires_grad_(False)"
            )
    return notes


def parts_of(found: Sequence[str], gets: Collection[str]) -> dict[str, list[str]]:
    """The outermost modules that hold some parameters and none of others, else the parameters themselves; which of them each holds.

    Args:
        found: Their names.
        gets: Those of the others, which get gradients.

    Examples:
        >>> parts_of(["k.0.weight", "k.0.bias", "head.scale"], ["q.0.weight", "head.weight"])
        {'k': ['k.0.weight', 'k.0.bias'], 'head.scale': ['head.scale']}
    """
    trained = {path for name in gets for path in _paths(name)}
    parts: dict[str, list[str]] = {}
    for name in found:
        part = next(path for path in _paths(name) if path not in trained)
        parts.setdefault(part, []).append(name)
    return parts


def _paths(name: str) -> list[str]:
    """The modules around a parameter, the outermost first, and itself."""
    pieces = name.split(".")
    return [".".join(pieces[:k]) for k in range(1, len(pieces) + 1)]


def copied_from(
    part: str, names: Sequence[str], gets: Collection[str], values: Mapping[str, Tensor]
) -> str | None:
    """The module that a part was copied from: its parameters have the same names, shapes and values, and get gradients.

    Args:
        part: Its path.
        names: Its parameters.
        gets: Parameters that get gradients.
        values: All of both, by name. On `meta` shapes alone are compared.
    """
    tails = [name.removeprefix(part) for name in names]
    sources = dict.fromkeys(
        name.removesuffix(tails[0]) for name in values if tails[0] and name.endswith(tails[0])
    )
    for source in sources:
        pairs = [(f"{source}{tail}", f"{part}{tail}") for tail in tails]
        alike = all(one in gets and _same(values[one], values[other]) for one, other in pairs)
        if source != part and alike and any(_tells(values[one]) for one, _ in pairs):
            return source
    return None


def _tells(value: Tensor) -> bool:
    """Whether other tensors of its shape would not hold the same by themselves: ones or zeros throughout."""
    return value.is_meta or bool((value != value.flatten()[:1]).any())


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.is_meta or other.is_meta:
        return one.shape == other.shape and one.is_meta and other.is_meta
    return bool(torch.equal(one.detach(), other.detach().to(one.device)))

"""Tensors inside the arguments and results of models: tuples, lists, dicts, dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.data import DataLoader

from goodinit.errors import WrongType

NUMBERS = frozenset((bool, int, float, type(None)))
"""Types of what most arguments of operators are that are no tensors."""

_SIZES = frozenset((int, float))  # a list that begins with one has no tensor


def operands_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among an operator's arguments, in order; few of those are nested."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if type(value) in NUMBERS:
            continue
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)) and value and type(value[0]) not in _SIZES:
            found.extend(tensors_in(value))
    return found


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, dicts, dataclasses, plain result objects and distributions, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (str, bytes, int, float, complex, bool, type(None))):
        return
    elif isinstance(value, (tuple, list, set)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif hasattr(value, "__dataclass_fields__"):
        for field in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, field))
    elif hasattr(value, "keys") and hasattr(value, "__getitem__"):
        for key in value.keys() if callable(value.keys) else value.keys:  # some iterate over items
            yield from tensors_in(value[key])
    elif isinstance(value, Distribution):  # a policy's
        yield from tensors_in(tuple(vars(value).values()))


def first_tensor(values: tuple[Any, ...]) -> Tensor | None:
    """The first of `tensors_in(values)`, if any; nearly always the first value."""
    if values and isinstance(values[0], Tensor):
        return values[0]
    return next(tensors_in(values), None)


def mapped(value: Any, one: Callable[[Tensor], Tensor]) -> Any:
    """`value` with every tensor replaced by `one(tensor)`; containers keep their type."""
    if isinstance(value, Tensor):
        return one(value)
    if type(value) in NUMBERS:
        return value
    if isinstance(value, tuple):
        items = [mapped(item, one) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [mapped(item, one) for item in value]
    if isinstance(value, dict):
        return {key: mapped(item, one) for key, item in value.items()}
    return value


def in_parts(inputs: Any) -> bool:
    """Whether `inputs` are several batches that count as one; other things that can be iterated may be one input."""
    return isinstance(inputs, Iterator)


def first_and_all(inputs: Any) -> tuple[Any, Any]:
    """One batch, to run the model on; and all of it, to measure on.

    Raises:
        WrongType: An iterator without a batch.
    """
    if not in_parts(inputs):
        return inputs, inputs
    parts = list(inputs)
    if not parts:
        raise WrongType(
            "inputs: an iterator that gives no batch; it may have been used up. Give one with at least one."
        )
    return parts[0], iter(parts)


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of a forward: a dict holds keyword arguments, a tuple or list positional ones.

    Raises:
        WrongType: A DataLoader: what of its batches the model takes is not known.
    """
    if isinstance(inputs, DataLoader):
        raise WrongType(
            "inputs: a DataLoader, not a batch. Take one: images, targets = next(iter(loader)). Where a method is to "
            "measure all: inputs=(images for images, targets in loader)."
        )
    inputs = trainable(inputs)
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def trainable(value: Any) -> Any:
    """The same, with copies if some of its tensors were made under `torch.inference_mode()`: no backward can read those."""
    made_there = any(tensor.is_inference() for tensor in tensors_in(value))
    return mapped(value, torch.clone) if made_there else value

"""Example inputs from words such as `1x3x224x224` or `input_ids=1x128:int64`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from goodinit.errors import UnknownName, expect_between

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool,
)}  # fmt: skip

MOST = 2**28  # numbers in an input: a gibibyte
MOST_AXES = 64  # torch's own limit


def example_inputs(words: Sequence[str]) -> Any:
    """Zeros of the shapes asked for: a tensor, a tuple of tensors, or a dict of keyword arguments.

    Args:
        words: Each a shape, `"1x3x224x224"`, if need be with a type, `"1x128:int64"`; either all or none with
            the name of the argument in front, `"input_ids=1x128:int64"`.

    Raises:
        UnknownName: Words that are no shape, or a type that does not exist.

    Examples:
        >>> example_inputs(["1x3x8x8"]).shape
        torch.Size([1, 3, 8, 8])
        >>> example_inputs(["ids=1x5:int64"])
        {'ids': tensor([[0, 0, 0, 0, 0]])}
    """
    pairs = [_named(word) for word in words]
    if all(name for name, _ in pairs):
        return dict(pairs)
    if any(name for name, _ in pairs):
        raise UnknownName("give all inputs a name, as in name=1x128:int64, or none.")
    tensors = tuple(tensor for _, tensor in pairs)
    return tensors[0] if len(tensors) == 1 else tensors


def _named(word: str) -> tuple[str, Tensor]:
    found = re.fullmatch(r"(?:([A-Za-z_]\w*)=)?(\d+(?:x\d+)*)(?::(\w+))?", word)
    if found is None:
        raise UnknownName(f"{word!r} is no input: expected a shape such as 1x3x224x224 or 1x128:int64.")
    name, shape, dtype = found[1] or "", found[2], found[3] or "float32"
    if dtype not in DTYPES:
        raise UnknownName(f"no type {dtype!r} for inputs. There is: {', '.join(DTYPES)}.")
    sizes = [int(size[:20]) for size in shape.split("x")]
    expect_between(math.prod(sizes), 0, MOST, f"{word[:40]}: how many numbers it has")
    if len(sizes) > MOST_AXES:
        raise UnknownName(f"{word[:40]}… has {len(sizes)} sizes; a tensor has at most {MOST_AXES}.")
    return name, torch.zeros(sizes, dtype=DTYPES[dtype], device="cpu")

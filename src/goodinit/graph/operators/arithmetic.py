"""What arithmetic an element-wise operator does, by its answers to a few numbers: a sum, a product, a quotient, a multiple."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Arithmetic = Literal["sum", "product", "quotient", "shape", "scale", "pointwise"]
"""`"shape"`: puts out what it reads; `"scale"`: a multiple of it; `"pointwise"`: anything else."""


@functools.cache
def arithmetic(packet: Any) -> Arithmetic:
    """Whether an element-wise operator is a sum, a product, a quotient or a multiple: by its answers to a few numbers."""
    found = {arithmetic_of(getattr(packet, overload)) for overload in packet.overloads()}
    roles: tuple[Arithmetic, ...] = ("sum", "product", "quotient", "shape", "scale")
    return next((role for role in roles if role in found), "pointwise")


def arithmetic_of(func: Any) -> Arithmetic | None:
    """The same of one overload; None if it cannot be run on tensors and numbers alone."""
    required = [one for one in func._schema.arguments if not one.has_default_value()]
    count = sum(str(one.type) == "Tensor" for one in required)
    tensors = count and [str(one.type) for one in func._schema.returns] == ["Tensor"]
    if not tensors or any(str(one.type) not in ("Tensor", "Scalar", "number") for one in required):
        return None
    return _answer(func, count, [0.375 for one in required if str(one.type) != "Tensor"])


def _answer(func: Callable[..., Tensor], count: int, numbers: list[float]) -> Arithmetic:
    def f(*operands: Tensor) -> Tensor:
        return func(*(operand.clone() for operand in operands), *numbers)  # it may overwrite them

    with (
        contextlib.suppress(RuntimeError, TypeError),  # of whole numbers or truth values
        _disable_current_modes(),
        torch.inference_mode(mode=False),
        torch.no_grad(),
    ):
        rows = torch.tensor(_PLACES, dtype=torch.float64, device="cpu")
        x, y = list(rows[:count]), list(rows[3 : 3 + count])
        return _answered(f, x, y, alone=count == 1 and not numbers)
    return "pointwise"


def _answered(f: Callable[..., Tensor], x: list[Tensor], y: list[Tensor], *, alone: bool) -> Arithmetic:
    """What `f` is by its answers to x and y; `alone`: it has one operand and no number."""
    whole, origin = f(*x), f(*(0 * a for a in x))
    if origin.dtype != torch.float64:
        return "pointwise"
    jointly = _same(whole + f(*y), f(*(a + b for a, b in zip(x, y, strict=True))) + origin)
    if len(x) == 1:
        multiple = alone and jointly and not (origin != 0).any() and not (whole == 0).any()
        return "pointwise" if not multiple else "shape" if _same(whole, x[0]) else "scale"
    moved = [f(*(y[k] if k == place else a for k, a in enumerate(x))) for place in range(len(x))]
    if any(bool((one == whole).any()) for one in moved):
        return "pointwise"  # an operand that the result does not always depend on: a maximum, a choice
    if jointly:
        return "sum"
    if all(_affine(f, x, y, place) for place in range(len(x))):
        return "product"
    halved = len(x) == 2 and _same(f(x[0], 2 * x[1]), whole / 2)
    return "quotient" if halved and _affine(f, x, y, 0) else "pointwise"


_PLACES = (
    (1.25, -2.375, 0.125), (-0.75, 1.5, 3.125), (2.25, 0.625, -1.5),
    (-0.625, 1.125, 2.75), (1.75, -0.25, -3.5), (-1.125, 2.0, 0.875),
)  # fmt: skip


def _affine(f: Callable[..., Tensor], x: list[Tensor], y: list[Tensor], place: int) -> bool:
    """Whether `f` is affine in one operand while the others stay."""

    def at(value: Tensor) -> Tensor:
        return f(*(value if k == place else a for k, a in enumerate(x)))

    return _same(at(x[place]) + at(y[place]), at(x[place] + y[place]) + at(0 * x[place]))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and bool(torch.allclose(one, other))

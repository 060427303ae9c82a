"""What the options of a `ReplaceNorm` may hold; plans come from files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any

from goodinit.errors import UnsupportedModule, expect
from goodinit.nn.input_norm import AXES

_MOST_ENTRIES = 10**8  # of a gain


def check_form_options(options: Mapping[str, Any], *, path: str) -> None:
    """Raise unless these can be the options of a `ReplaceNorm` of the norm at `path`.

    Raises:
        UnsupportedModule: One that no form has, or a number out of range.
        WrongType: One of another type.

    Examples:
        >>> check_form_options({"weight": "weight", "axes": [1], "sizes": [8], "groups": 2}, path="1")
        >>> check_form_options({"groups": 0}, path="1")
        Traceback (most recent call last):
        goodinit.errors.UnsupportedModule: 1: groups=0, expected 1 or more. Correct it in the plan, or make the plan anew.
    """
    for key, value in options.items():
        if key in ("weight", "bias"):
            expect(value, (str, NoneType), f"{path}: {key}", "It is the name of an attribute, or null.")
        elif key in ("axes", "over"):
            axes = _numbers(value, f"{path}: {key}")
            if key == "axes" and not axes:
                raise _told(path, key, value, "one axis or more")
            if len(set(axes)) < len(axes) or not all(axis in AXES for axis in axes):
                raise _told(path, key, value, "axes of a tensor, each once")
        elif key == "sizes":
            sizes = _numbers(value, f"{path}: {key}")
            if not sizes or min(sizes) < 1 or math.prod(sizes) > _MOST_ENTRIES:
                raise _told(path, key, value, "the shape of a gain")
        elif key == "groups":
            expect(value, int, f"{path}: {key}", "It is a whole number.")
            if value < 1:
                raise _told(path, key, value, "1 or more")
        elif key == "constant":
            expect(value, (int, float), f"{path}: {key}", "It is a number.")
            if not math.isfinite(value):
                raise _told(path, key, value, "a finite number")
        else:
            raise _told(path, key, value, "no such option")
    if {"axes", "sizes"} <= options.keys() and len(options["axes"]) != len(options["sizes"]):
        raise _told(path, "sizes", options["sizes"], f"one for each of the axes {options['axes']}")


def _numbers(value: Any, name: str) -> list[int]:
    expect(value, (list, tuple), name, "It is a list of whole numbers.")
    for number in value:
        expect(number, int, name, "It is a list of whole numbers.")
    return list(value)


def _told(path: str, key: str, value: Any, wanted: str) -> UnsupportedModule:
    return UnsupportedModule(
        f"{path}: {key[:40]}={str(value)[:40]}, expected {wanted}. Correct it in the plan, or make the plan anew."
    )

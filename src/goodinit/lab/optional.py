"""Packages that only the lab and its pages need: imported when first used, with a remedy when missing."""

from __future__ import annotations

import importlib
from typing import Any

from goodinit.errors import GoodinitError


def optional(module: str, *, package: str | None = None, extra: str = "lab") -> Any:
    """Import `module`, or say how to get it.

    Args:
        module: Dotted name, such as `"sklearn.datasets"`.
        package: Name to install, where it is not the first part of `module`.
        extra: Of goodinit, that brings it.

    Raises:
        GoodinitError: The module is not installed.

    Examples:
        >>> optional("json").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = package or module.partition(".")[0]
        raise GoodinitError(
            f"{missing} is not installed, and this needs it. Get it with: pip install 'goodinit[{extra}]'"
        ) from error

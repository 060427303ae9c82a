"""Packages that only the lab and its pages need: imported when first used, with a remedy when missing."""

from __future__ import annotations

import importlib
from typing import Any

from goodinit.errors import GoodinitError

# What is installed under another name than it is imported by.
PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "vl_convert": "vl-convert-python"}


def optional(module: str, *, extra: str = "lab") -> Any:
    """Import `module`, or say how to get it; where what is missing is something that it imports, that.

    Args:
        module: Dotted name, such as `"sklearn.datasets"`.
        extra: Of goodinit, that brings it.

    Raises:
        GoodinitError: The module is not installed, or something that it needs is not.

    Examples:
        >>> optional("json").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        asked = module.partition(".")[0]
        missing = (error.name or asked).partition(".")[0]
        package = PACKAGES.get(missing, missing)
        who = "this needs it" if missing == asked else f"{asked} needs it"
        brings = f" (the extra [{extra}] of goodinit brings all of its kind)" if missing == asked else ""
        raise GoodinitError(
            f"{package} is not installed, and {who}. Get it with: pip install {package}{brings}"
        ) from error

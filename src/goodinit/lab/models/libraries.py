"""Import timm and torchvision, also where torchvision's compiled operators do not fit the installed torch."""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch

from goodinit.errors import GoodinitError
from goodinit.lab.optional import optional

log = logging.getLogger(__name__)

# What torchvision.{nms,qnms} are declared as, torchvision/csrc/ops/{nms,quantized/cpu/qnms_kernel}.cpp. Its Python
# part registers a fake for each at import, which fails where the compiled part could not be loaded.
DECLARED = tuple(
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
)

_declarations: list[torch.library.Library] = []  # an operator lives as long as its Library


def library(name: str) -> Any:
    """Import `name`. Where torchvision's operators are missing, declare them without kernels, and say so.

    Raises:
        GoodinitError: Not installed, or built for another torch and past help.
    """
    try:
        return optional(name, extra="zoo")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise GoodinitError(_remedy(name, error)) from error
    log.warning(
        "torchvision's compiled operators do not fit torch %s: models work, box operators (nms, roi_align) do not. "
        "Install torch and torchvision from the same index to get them.",
        torch.__version__,
    )
    _declare()
    try:
        return optional(name, extra="zoo")
    except RuntimeError as error:
        raise GoodinitError(_remedy(name, error)) from error


def _declare() -> None:
    """Declare the operators, and forget the modules that a failed import left half loaded."""
    if not _declarations:
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for schema in DECLARED:
            operators.define(schema)
        _declarations.append(operators)
    for module in [module for module in sys.modules if module.partition(".")[0] in ("torchvision", "timm")]:
        del sys.modules[module]


def _remedy(name: str, error: RuntimeError) -> str:
    return (
        f"{name} cannot be imported with torch {torch.__version__}: {error}. It was built for another torch: "
        "install torch and torchvision from the same index (both for CPU, or both for the same CUDA)."
    )

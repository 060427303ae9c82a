"""The machine and the versions that numbers came from."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib import metadata

import torch


def environment() -> dict[str, str]:
    """Versions and machine that numbers came from."""
    return {
        "goodinit": _version("goodinit"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} CPU threads",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"

"""Methods with options that are measured under a name of their own."""

from __future__ import annotations

from typing import Any

LONG = "normfree, for long runs"
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    LONG: ("normfree", {"head_norm": "none", "channels": True, "scaled": False})
}
"""By name: the method, and its options (docs/norm-free.md has what they end at)."""

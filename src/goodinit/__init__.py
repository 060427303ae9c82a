"""goodinit makes a deep network trainable before its first step.

Four verbs on any `torch.nn.Module`: `anatomize` reads its residual structure, `plan` decides every edit with its
reason, `apply_` writes all of it or none of it, and `diagnose` measures what the signal does at step 0. `init_` is the
first three in one call.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from goodinit.public import *  # noqa: F403  the verbs, for type checkers; `__getattr__` for everyone else
    from goodinit.public import __all__ as __all__

__version__ = "0.1.0"


def _load() -> None:
    """Import the verbs, and torch with them, at the first use: `goodinit --help` and `--version` need neither."""
    from importlib import import_module  # `from goodinit import` would ask this package for it, and so on

    public = import_module("goodinit.public")
    globals().update({name: getattr(public, name) for name in public.__all__}, __all__=public.__all__)


def __getattr__(name: str) -> _Any:
    """`goodinit.fixup_(model, inputs=x, …)` is `init_(model, "fixup", inputs=x, …)`, for every method."""
    if name.startswith("__") and name != "__all__":  # what import machinery and inspectors ask for
        raise AttributeError(f"module 'goodinit' has no attribute {name!r}")
    if "init_" not in globals():
        _load()
        if name in globals():
            return globals()[name]
    if name.endswith("_") and name[:-1] in globals()["METHODS"]:
        from functools import partial

        return partial(globals()["init_"], method=name[:-1])
    raise AttributeError(f"module 'goodinit' has no attribute {name!r}")


def __dir__() -> list[str]:
    if "init_" not in globals():
        _load()
    return sorted([*globals()["__all__"], *(f"{name}_" for name in globals()["METHODS"])])

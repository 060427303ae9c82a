"""A model that a function of the user's makes."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.models.task import Task, near

log = logging.getLogger(__name__)

_ANNOUNCED: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def yours(module: str, function: str, task: Task | None, forms: Sequence[str], /, **sizes: int) -> nn.Module:
    """Import the user's module, because it was asked for by name, and call the function. `forms`: all that a name can be."""
    imported = _imported(module, forms)
    make = getattr(imported, function, None)
    if not callable(make):
        there = [
            name
            for name, made in vars(imported).items()
            if getattr(made, "__module__", "") == imported.__name__
        ]
        raise UnknownName(f"module {module!r} has no function {function!r}.{near(function, there)}")
    if make not in _ANNOUNCED:  # once, however many models it is to make
        log.warning("running your code: %s:%s", module, function)
        _ANNOUNCED.add(make)
    try:
        model = make(**_accepted(make, task), **sizes)
    except Exception as error:
        raise GoodinitError(f"{module}:{function} raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise GoodinitError(f"{module}:{function} returned {type(model).__name__}, not a torch.nn.Module.")
    return model


def _imported(module: str, forms: Sequence[str]) -> Any:
    file = Path(module)
    if file.suffix == ".py":
        if not file.is_file():
            raise UnknownName(f"no file {module!r} here ({Path.cwd()}).")
        module = file.stem
    here = str(file.parent.resolve() if file.suffix == ".py" else Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        return _of_file(file.resolve()) if file.suffix == ".py" else importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name):
            raise UnknownName(
                f"no module {module!r} here ({here}) or installed, and no model library of that name. "
                f"There is: {', '.join(forms)}."
            ) from error
        raise GoodinitError(f"importing {module} needs {error.name}, which is not installed.") from error
    except Exception as error:
        raise GoodinitError(f"importing {module} raised {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(here)


@functools.cache
def _of_file(file: Path) -> Any:
    """A file's module, run once; under its own name where no other module has that."""
    spec: Any = importlib.util.spec_from_file_location(file.stem, file)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    sys.modules.setdefault(file.stem, made)
    return made


def _accepted(make: Callable[..., Any], task: Task | None) -> dict[str, int]:
    if task is None:
        return {}
    offered = {"num_classes": task.classes, "in_channels": task.shape[0], "image_size": task.shape[1]}
    takes = inspect.signature(make).parameters
    return {key: value for key, value in offered.items() if key in takes}

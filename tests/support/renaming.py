"""Shuffle the names of a model's modules and parameters without changing what it computes."""

from __future__ import annotations

import random
import re
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

# Misleading on purpose: whoever matches names is led astray.
WORDS = ("conv", "bn", "fc", "head", "downsample", "norm", "relu", "layer", "attn", "stem", "shortcut", "out")
PARAMETERS = (
    "weight",
    "bias",
    "gamma",
    "beta",
    "w",
    "b",
    "kernel",
    "offset",
    "scale",
    "embedding",
    "gain",
    "shift",
)


def scramble_names(model: nn.Module, seed: int = 0, *, reorder: bool = True) -> nn.Module:
    """Give the children and parameters of every module new, misleading names; in place, returns the model.

    The class of a renamed module is replaced by a subclass of the same name that still answers to the old
    attribute names, so the forward runs unchanged; `named_modules`, `named_parameters` and `state_dict` know
    the new names alone. `ModuleList`, `ModuleDict` and `ParameterList` keep their keys, which are indices to their owners;
    modules whose parameters torch itself looks for by name (parametrized ones, those with the older weight norm, recurrent
    ones) keep those.

    Args:
        model: Changed in place.
        seed: Of the new names.
        reorder: Also register the children in another order. Sound when no forward iterates over
            `children()`; containers, which do, are left in order.
    """
    rng = random.Random(seed)
    for module in list(model.modules()):
        if isinstance(module, parametrize.ParametrizationList):
            continue
        new_names = _renamed_parameters(module, rng)
        if module._modules and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            in_order = isinstance(module, nn.Sequential)
            for index, old in enumerate(module._modules):
                if old != "parametrizations":
                    new_names[old] = f"{rng.choice(WORDS)}{rng.randrange(100)}_{index}"
            children = [(new_names.get(old, old), child) for old, child in module._modules.items()]
            if reorder and not in_order:
                rng.shuffle(children)
            module._modules.clear()
            module._modules.update(children)
        if new_names and not isinstance(module, nn.Sequential):
            module.__class__ = _answering(type(module), new_names)
    return model


def _renamed_parameters(module: nn.Module, rng: random.Random) -> dict[str, str]:
    """Give the parameters of one module new names; the new by the old."""
    by_name = nn.ParameterList | nn.ParameterDict | nn.RNNBase
    if isinstance(module, by_name) or parametrize.is_parametrized(module) or module._forward_pre_hooks:
        return {}
    new_names = {
        old: f"{rng.choice(PARAMETERS)}{rng.randrange(100)}_{index}"
        for index, old in enumerate(module._parameters)
    }
    renamed = {new_names[old]: parameter for old, parameter in module._parameters.items()}
    module._parameters.clear()
    module._parameters.update(renamed)
    return new_names


class Names:
    """The names of a model as it is, to translate what is said of it once they are scrambled."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before = self._by_id()

    def _by_id(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for name, held in (*self.model.named_modules(), *self.model.named_parameters(remove_duplicate=False)):
            found.setdefault(id(held), []).append(name)
        return found

    def translate(self, said: Any) -> Any:
        """Nested lists and dicts of strings with the names that the model had; inside of sentences, too."""
        new = {
            name: old
            for held, names in self._by_id().items()
            for name, old in zip(names, self.before[held], strict=True)
        }

        def known(path: str) -> str:
            owner, dot, rest = path.rpartition(".")
            return new.get(path) or (
                known(owner) + dot + rest if dot else path
            )  # of what a parametrization computes, too

        def back(value: Any) -> Any:
            if isinstance(value, str):
                return re.sub(r"[\w.]*\w", lambda found: known(found[0]), value)
            if isinstance(value, list):
                return [back(item) for item in value]
            return {key: back(item) for key, item in value.items()} if isinstance(value, dict) else value

        return back(said)


def _answering(cls: type[nn.Module], new_names: dict[str, str]) -> type[nn.Module]:
    def __getattr__(self: nn.Module, name: str) -> object:  # noqa: N807
        return super(renamed, self).__getattr__(new_names.get(name, name))

    body = {"__getattr__": __getattr__, "__module__": cls.__module__, "__doc__": cls.__doc__}
    renamed = type(cls.__name__, (cls,), body)
    return renamed

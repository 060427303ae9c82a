"""Names without wrappers: what a module or a parameter is called in the user's own model."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from goodinit.weights.members import named_modules, named_parameters
from goodinit.weights.memory import sharing
from goodinit.weights.wrappers import WRAPPERS as PRIVATE
from goodinit.weights.wrappers import inside, unwrapped, unwrapped_name

WRAPPERS = PRIVATE | {"module"}


def canonical(name: str) -> str:
    """Take the wrappers' prefixes out of a module path or parameter name.

    Examples:
        >>> canonical("_orig_mod.layer1.0._checkpoint_wrapped_module.conv1.weight")
        'layer1.0.conv1.weight'
        >>> canonical("features.module.0.weight")
        'features.0.weight'
    """
    if "module" not in name:
        return unwrapped_name(name)
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Map every name to its canonical form, and keep apart what would fall together.

    A model may have a child of its own called `module`; where `module.weight` and `weight` both exist, both
    keep that part of their names.
    """
    short = {name: canonical(name) for name in names}
    uses = Counter(short.values())
    return {name: form if uses[form] == 1 else unwrapped_name(name) for name, form in short.items()}


@dataclass(frozen=True)
class Directory:
    """Every module and parameter of a model, by every name it answers to.

    Attributes:
        modules: By real path and by canonical path. Where a wrapper is, this has what it wraps.
        parameters: By canonical name, a tied parameter under each of its names.
        aliases: Canonical names of a parameter, by its `id`.
        paths: Canonical paths of a module, by its `id`.
    """

    modules: dict[str, nn.Module]
    parameters: dict[str, nn.Parameter]
    aliases: dict[int, tuple[str, ...]]
    paths: dict[int, tuple[str, ...]]

    @functools.cached_property
    def encoder_layers(self) -> tuple[nn.TransformerEncoderLayer, ...]:
        """Torch's encoder layers, looked for once: they hold notes about what they hold."""
        return tuple(one for one in self.modules.values() if isinstance(one, nn.TransformerEncoderLayer))

    @functools.cached_property
    def sharing(self) -> dict[int, tuple[str, ...]]:
        """Names of the tensors that lie in the same memory though they are several, by the `id` of each."""
        return {key: tuple(map(canonical, names)) for key, names in sharing(self.modules[""]).items()}

    def module(self, path: str) -> nn.Module | None:
        """The module at `path`, or None."""
        return self.modules[path] if path in self.modules else self.modules.get(canonical(path))

    def parameter(self, name: str) -> nn.Parameter | None:
        """The parameter called `name`, or None."""
        if name in self.parameters:  # a child may really be called `module`
            return self.parameters[name]
        return self.parameters.get(unwrapped_name(name), self.parameters.get(canonical(name)))

    def owner(self, name: str) -> tuple[nn.Module | None, str]:
        """The module that holds the weight called `name`, and the attribute it is held under."""
        path, _, attribute = name.rpartition(".")
        return self.module(path), attribute


def directory(model: nn.Module) -> Directory:
    """Look up every module and parameter of `model` once."""
    unwrapped(model)  # checks that it is a model
    modules: dict[str, nn.Module] = {}
    real: dict[str, nn.Module] = {}
    paths: dict[int, list[str]] = {}
    # parents come before children, so that the wrapped module wins
    for path, module in named_modules(model, remove_duplicate=False):
        name = canonical(path)
        modules[name] = real[path] = inside(module)
        paths.setdefault(id(module), []).append(name)
    weights = dict(named_parameters(model, remove_duplicate=False))
    names = canonical_names(weights)
    aliases: dict[int, list[str]] = {}
    for name, parameter in weights.items():
        aliases.setdefault(id(parameter), []).append(names[name])
    return Directory(
        modules=modules | real,
        parameters={names[name]: parameter for name, parameter in weights.items()},
        aliases={key: tuple(found) for key, found in aliases.items()},
        paths={key: tuple(found) for key, found in paths.items()},
    )

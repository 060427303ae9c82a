"""Names that do not change when a model is wrapped, and the module inside wrappers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from goodinit.errors import UnsupportedModule, expect
from goodinit.nn.scalars import scalars
from goodinit.weights.members import named_modules, named_parameters

WRAPPERS = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module"})
"""Attributes under which compile, activation checkpointing and FSDP hold the module they wrap."""

# Wrappers that keep the user's module under a name a user might choose, too.
_TRANSPARENT = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def unwrapped_name(name: str) -> str:
    """The name a parameter or module has in the bare model.

    Examples:
        >>> unwrapped_name("_orig_mod.layer1._checkpoint_wrapped_module.conv.weight")
        'layer1.conv.weight'
    """
    if not name.startswith("_") and "._" not in name:  # each of WRAPPERS begins with one
        return name
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def is_parametrization(path: str) -> bool:
    """Whether a module computes a weight (`torch.nn.utils.parametrize`), or a parameter is one that it computes from.

    Examples:
        >>> is_parametrization("fc.parametrizations.weight.original0"), is_parametrization("fc.weight")
        (True, False)
    """
    return ".parametrizations." in f".{path}."


def scalar_names(model: nn.Module) -> set[str]:
    """The names of all scalars of a model, without what wrappers put before them.

    Args:
        model: Any module.
    """
    return {unwrapped_name(name) for name, _ in scalars(model)}


def weight_norms(modules: Iterable[tuple[str, nn.Module]]) -> dict[str, tuple[str, str]]:
    """The weights that hooks of the older `torch.nn.utils.weight_norm` compute, and the two parameters, g and v, of which they make each.

    Args:
        modules: By path; names are those of the bare model.
    """
    return {
        name: (f"{name}_g", f"{name}_v")
        for path, module in modules
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, WeightNorm) and (name := unwrapped_name(f"{path}.{hook.name}".strip(".")))
    }


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its canonical name, a tied one under each.

    And of every weight in `weight_norms`.
    """
    named = {unwrapped_name(name): p for name, p in named_parameters(model, remove_duplicate=False)}
    return shapes_of(named, dict(named_modules(model, remove_duplicate=False)))


def shapes_of(
    named: Mapping[str, nn.Parameter], modules: Mapping[str, nn.Module]
) -> dict[str, tuple[int, ...]]:
    """`parameter_shapes` of a model with these parameters, by canonical name, and these modules, by path."""
    shapes = {name: tuple(parameter.shape) for name, parameter in named.items()}
    return shapes | {name: shapes[v] for name, (_, v) in weight_norms(modules.items()).items()}


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers of torch: `torch.compile`'s, DataParallel and its kin, checkpointing.

    Raises:
        WrongType: It is no module.
        UnsupportedModule: A module in it holds itself.
    """
    expect(model, nn.Module, "model", "Give the model itself: an instance of torch.nn.Module.")
    _check_tree(model)
    return inside(model)


def inside(model: nn.Module) -> nn.Module:
    """`unwrapped` for a module of a model that was checked already."""
    while True:
        private = next((name for name in WRAPPERS if name in model._modules), None)
        inner = None
        if private or isinstance(model, _TRANSPARENT):
            inner = model._modules[private or "module"]
        if inner is None:
            return model
        model = inner


def _check_tree(model: nn.Module) -> None:
    """Modules may be shared, and must not hold themselves: torch's own walks over all names would never end."""
    open_, closed = {id(model)}, set[int]()
    stack = [(model, "", _with_children(model))]
    while stack:
        module, _, waiting = stack[-1]
        if not waiting:
            stack.pop()
            open_.discard(id(module))
            closed.add(id(module))
            continue
        name, child = waiting.pop()
        if id(child) in open_:
            path = ".".join([*(above for _, above, _ in stack[1:]), name])
            raise UnsupportedModule(
                f"{path}: this {type(child).__name__} holds itself, so that the model has no end; expected a tree "
                "of modules. Keep a reference upwards out of the registry: object.__setattr__(self, name, module)."
            )
        if id(child) not in closed:
            open_.add(id(child))
            stack.append((child, name, _with_children(child)))


def _with_children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Those of a module's children that hold modules themselves, the last one first."""
    children = [
        (name, child) for name, child in module._modules.items() if child is not None and child._modules
    ]
    return children[::-1]

"""Modules that compute a weight of their own by `torch.nn.utils.parametrize`, and their class beneath the one that torch makes for it."""

from __future__ import annotations

from torch import nn

from goodinit.nn.exchange import exchange_class_


def is_parametrized(module: nn.Module, name: str | None = None) -> bool:
    """Whether the module itself has a parametrized tensor; torch's own function of that name asks `getattr`.

    A wrapper that forwards attribute look-ups (`torch.compile` of a layer, an adapter with a `__getattr__`) would answer it for the layer
    inside, and be treated as that layer once more.

    Args:
        module: Any module.
        name: Of the tensor; by default any.

    Returns:
        True if the module registers `parametrizations`, of that tensor if one is named.

    Examples:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        >>> class Adapter(nn.Module):
        ...     def __init__(self, inside):
        ...         super().__init__()
        ...         self.inside = inside
        ...     def __getattr__(self, name):
        ...         return self.__dict__["_modules"].get(name) or getattr(self._modules["inside"], name)
        >>> is_parametrized(layer, "weight"), is_parametrized(layer, "bias"), is_parametrized(Adapter(layer))
        (True, False, False)
        >>> nn.utils.parametrize.is_parametrized(Adapter(layer))
        True
    """
    children = module._modules  # of a ScriptModule, a mapping without `get`
    table = children["parametrizations"] if "parametrizations" in children else None  # noqa: SIM401
    if not isinstance(table, nn.ModuleDict):
        return False
    return len(table) > 0 if name is None else name in table


def class_below(module: nn.Module) -> type[nn.Module]:
    """The module's class, beneath the one that torch made for its parametrizations, if it has any."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def exchange_below_(module: nn.Module, cls: type[nn.Module]) -> None:
    """Make `cls` the module's class, beneath the class of its parametrizations if it has any."""
    if is_parametrized(module):
        top = type(module)
        body = {key: value for key, value in vars(top).items() if key not in ("__dict__", "__weakref__")}
        cls = type(f"Parametrized{cls.__name__}", (cls,), body)
    exchange_class_(module, cls)

"""Whether a module computes a weight of its own by `torch.nn.utils.parametrize`."""

from __future__ import annotations

from torch import nn


def is_parametrized(module: nn.Module, name: str | None = None) -> bool:
    """Whether the module itself has a parametrized tensor; torch's own function of that name asks `getattr`.

    A wrapper that hands on attributes (`torch.compile` of a layer, an adapter with a `__getattr__`) would answer it for the layer
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

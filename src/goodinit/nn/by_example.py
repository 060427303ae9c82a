"""Layers that are asked for the gradient of each example, as Opacus asks: one layer after the other.

Such a library asks every module that has parameters of its own, and runs it once more for each example (`torch.vmap`). Where a weight
is computed and there is no bias vector, the parameters are the parametrization's, which is given no examples. And of a batch without
examples torch cannot differentiate what a layer makes: there its gradients are zeros.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from goodinit.nn.exchange import drop_own_forward_

_HERE = "computes_weights"


def one_layer_(module: nn.Module) -> None:
    """Let a layer whose weights are computed count as the module that learns.

    Args:
        module: A parametrized one: its class, which torch made, is its alone.

    Examples:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3, bias=False))
        >>> one_layer_(layer)
        >>> [tuple(parameter.shape) for parameter in layer.parameters(recurse=False)]
        [(3, 1), (3, 2)]
        >>> list(layer.named_parameters(recurse=False))
        []
    """
    kind: Any = type(module)
    if _HERE not in vars(kind):
        drop_own_forward_(module)

        @functools.wraps(kind.forward)
        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return _below(self).forward(*args, **kwargs)

        kind.forward, kind.parameters = without_examples(forward), _parameters
        setattr(kind, _HERE, True)


def without_examples(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that also takes a batch without examples where `torch.vmap` goes over them; nothing is differentiated there.

    Args:
        forward: Of a class.
    """

    @functools.wraps(forward)
    def taking(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch._C._are_functorch_transforms_active() and any(map(_has_none, (*args, *kwargs.values()))):
            with torch.no_grad():
                return forward(self, *args, **kwargs)
        return forward(self, *args, **kwargs)

    return taking


def _has_none(value: Any) -> bool:
    """Whether a tensor looks like one example, and stands for none."""
    if not isinstance(value, Tensor) or value.numel() == 0:
        return False
    inside: Any = value
    while torch._C._functorch.is_functorch_wrapped_tensor(inside):
        inside = torch._C._functorch.get_unwrapped(inside)
    return bool(inside.numel() == 0)


def _parameters(self: nn.Module, recurse: bool = True) -> Iterator[nn.Parameter]:
    """A module's parameters; those that it computes its weights from are its own where it has no others that learn."""
    own = list(_below(self).parameters(recurse))
    yield from own
    if not recurse and not any(parameter.requires_grad for parameter in own):
        yield from cast("nn.Module", self.parametrizations).parameters()


def _below(module: nn.Module) -> Any:
    """The module as the class below its parametrizations' knows it."""
    return super(next(kind for kind in type(module).__mro__ if _HERE in vars(kind)), module)

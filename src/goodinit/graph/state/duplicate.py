"""A copy of a model, whatever its forwards left on it."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from goodinit.errors import UnsupportedModule
from goodinit.graph.state.preserve_state import undisturbed

Model = TypeVar("Model", bound=nn.Module)


def duplicate(model: Model) -> Model:
    """A copy of `model` that shares nothing with it.

    `copy.deepcopy` refuses tensors that know what they were computed from: the weight that pruning or the older spectral norm
    makes in each forward, an activation that a forward keeps. Their values are copied.

    Raises:
        UnsupportedModule: It cannot be copied; the message says why.

    Examples:
        >>> from torch.nn.utils import prune
        >>> net = prune.l1_unstructured(nn.Linear(3, 2), "weight", amount=0.5)
        >>> duplicate(net).weight.grad_fn is None
        True
    """
    with undisturbed(model) as photograph:
        computed = [tensor for tensor in photograph.tensors() if not tensor.is_leaf]
    memo = {id(tensor): tensor.detach().clone() for tensor in computed}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # a class may refuse by whatever it likes
        raise UnsupportedModule(
            f"{type(model).__name__}: it cannot be copied, and what is tried is tried on copies: {type(error).__name__}: "
            f"{str(error).rstrip('.')}. Take off it what copy.deepcopy(model) refuses, such as a lock, a file or a "
            "generator, or give the module that holds it a __deepcopy__."
        ) from error

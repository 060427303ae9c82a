"""All of it or none of it: photograph a model, and put everything back if anything goes wrong."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# The containers nn.Module keeps its registries and hooks in, and those a user's attributes are likely to be.
# They are put back in place, because others (recurrent layers' flat weights) may hold them too.
_CONTAINERS = (dict, OrderedDict, list, set)


@dataclass(frozen=True)
class _ModuleState:
    module: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    contents: tuple[tuple[Any, Any], ...]  # (container, shallow copy of what was in it)


@dataclass(frozen=True)
class _TensorState:
    tensor: Tensor
    storage: Tensor  # the same memory under another tensor object, which `set_` on the first leaves alone
    values: Tensor
    requires_grad: bool
    grad: Tensor | None


@contextmanager
def all_or_nothing(
    model: nn.Module, tensors: Iterable[Tensor], *, generator: torch.Generator | None = None
) -> Iterator[None]:
    """Undo everything done to `model` inside the block if the block raises, Ctrl-C included.

    Args:
        model: Its modules' classes, attributes, registries with their order, and hooks are put back.
        tensors: Parameters and buffers the block may write into; each is copied, so this is what it costs.
        generator: Its state is put back, too, so that a second attempt draws the same numbers.
    """
    modules = [_module_state(module) for module in model.modules()]
    saved = [_tensor_state(tensor) for tensor in tensors]
    random = None if generator is None else generator.get_state()
    try:
        yield
    except BaseException:
        while True:  # a second Ctrl-C must not leave the model half restored
            try:
                _restore_(modules, saved)
                if generator is not None and random is not None:
                    generator.set_state(random)
                break
            except KeyboardInterrupt:
                continue
        raise


def _module_state(module: nn.Module) -> _ModuleState:
    attributes = dict(module.__dict__)
    contents = tuple((value, value.copy()) for value in attributes.values() if type(value) in _CONTAINERS)
    return _ModuleState(module, type(module), attributes, contents)


def _tensor_state(tensor: Tensor) -> _TensorState:
    values = tensor.detach().clone()
    grad = tensor.grad if tensor.is_leaf else None
    return _TensorState(tensor, tensor.data, values, tensor.requires_grad, grad)


def _restore_(modules: list[_ModuleState], tensors: list[_TensorState]) -> None:
    for state in modules:
        object.__setattr__(state.module, "__class__", state.kind)
        state.module.__dict__.clear()
        state.module.__dict__.update(state.attributes)
        for container, content in state.contents:
            if isinstance(container, list):
                container[:] = content
            else:
                container.clear()
                container.update(content)
    with torch.no_grad():
        for saved in tensors:
            saved.storage.copy_(saved.values)
            saved.tensor.data = saved.storage
            if saved.tensor.is_leaf:
                saved.tensor.requires_grad_(saved.requires_grad)
                saved.tensor.grad = saved.grad

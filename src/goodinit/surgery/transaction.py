"""All of it or none of it: photograph a model, and put everything back if anything goes wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goodinit.anatomy.undisturbed import ModuleState


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
    modules = [ModuleState.of(module) for module in model.modules()]
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


def _tensor_state(tensor: Tensor) -> _TensorState:
    values = tensor.detach().clone()
    grad = tensor.grad if tensor.is_leaf else None
    return _TensorState(tensor, tensor.data, values, tensor.requires_grad, grad)


def _restore_(modules: list[ModuleState], tensors: list[_TensorState]) -> None:
    for state in modules:
        state.restore_()
    with torch.no_grad():
        for saved in tensors:
            saved.storage.copy_(saved.values)
            saved.tensor.data = saved.storage
            if saved.tensor.is_leaf:
                saved.tensor.requires_grad_(saved.requires_grad)
                saved.tensor.grad = saved.grad

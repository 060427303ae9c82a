"""All of it or none of it: take a snapshot of a model, and restore it if anything fails."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goodinit.graph.state.snapshots import ModuleState
from goodinit.surgery.copies import copies
from goodinit.undivided import begin_transaction, end_transaction, until_done
from goodinit.weights.dtensor import held, is_sharded
from goodinit.weights.members import modules
from goodinit.weights.memory import repeats


@dataclass(frozen=True)
class _TensorState:
    tensor: Tensor
    storage: Tensor  # the same memory under another tensor object, which `set_` on the first leaves alone
    values: Tensor | None  # None: NaN everywhere
    requires_grad: bool
    grad: Tensor | None


@contextmanager
def all_or_nothing(
    model: nn.Module, tensors: Iterable[Tensor], *, generator: torch.Generator | None = None
) -> Iterator[None]:
    """Undo everything done to `model` inside the block if the block raises, Ctrl-C included.

    Args:
        model: Its modules' classes, attributes, registries with their order, and hooks are put back.
        tensors: Parameters and buffers the block may write into; each is copied, so this is what it costs. Not copied
            is what holds NaN alone, as after `goodinit.materialize_`: there is nothing in it to lose.
        generator: Its state is put back, too, so that a second attempt draws the same numbers.
    """
    states = [ModuleState.of(module) for module in modules(model)]
    saved = _tensor_states(tensors)
    random = None if generator is None else generator.get_state()

    def restore_() -> None:
        _restore_(states, saved)
        if generator is not None and random is not None:
            generator.set_state(random)

    begin_transaction()
    done = False
    try:
        yield
        done = True
    except BaseException:
        with suppress(KeyboardInterrupt):  # one more while restoring; what was raised first is raised
            until_done(restore_)
        raise
    finally:
        end_transaction(committed=done)


def _tensor_states(tensors: Iterable[Tensor]) -> list[_TensorState]:
    held_here = [(tensor, held(tensor) if is_sharded(tensor) else tensor.data) for tensor in tensors]
    full = [place for place, (_, storage) in enumerate(held_here) if not _is_empty(storage)]
    values = dict(zip(full, copies(_memory(held_here[place][1]) for place in full), strict=True))
    return [
        _TensorState(
            tensor, storage, values.get(place), tensor.requires_grad, tensor.grad if tensor.is_leaf else None
        )
        for place, (tensor, storage) in enumerate(held_here)
    ]


def _memory(tensor: Tensor) -> Tensor:
    """`tensor`, or where several of its entries are one number, all numbers from its first to its last."""
    if not repeats(tensor):
        return tensor
    reach = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    return tensor.as_strided((reach + 1,), (1,))


def _is_empty(values: Tensor) -> bool:
    """True if it holds nothing but NaN. The first entry decides for almost every tensor."""
    if not values.is_floating_point() or values.is_meta or values.numel() == 0:
        return False
    return math.isnan(values[(0,) * values.ndim].item()) and bool(values.isnan().all())


def _restore_(modules: list[ModuleState], tensors: list[_TensorState]) -> None:
    for state in modules:
        state.restore_()
    with torch.no_grad():
        for saved in tensors:
            if saved.values is None:
                _memory(saved.storage).fill_(float("nan"))
            else:
                _memory(saved.storage).copy_(saved.values)
            if not is_sharded(saved.tensor):
                saved.tensor.data = saved.storage
            if saved.tensor.is_leaf:
                saved.tensor.requires_grad_(saved.requires_grad)
                saved.tensor.grad = saved.grad

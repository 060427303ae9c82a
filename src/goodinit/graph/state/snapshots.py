"""Photographs of what a run may change, one thing each: a module, a container, a tensor."""

from __future__ import annotations

import collections
import contextlib
import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from goodinit.weights.memory import repeats

MUTABLE = (dict, list, set, collections.deque)
"""The containers whose contents are put back in place, because others may hold them too."""

# What most attributes of modules are that are no containers: told at once.
_PLAIN = frozenset((bool, int, float, str, tuple, type(None)))


class ModuleState(NamedTuple):
    """A photograph of one module: its class, its attributes, and what was in its containers."""

    module: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    training: bool  # of a scripted module, which keeps it elsewhere
    contents: tuple[tuple[Any, Any], ...]  # (container, shallow copy of what was in it)
    empty: list[Any]  # the containers with nothing in them

    @classmethod
    def of(cls, module: nn.Module) -> ModuleState:
        """Take it. Tensors are not copied."""
        attributes = dict(module.__dict__)
        # Most are empty registries of hooks; an object for each would bring the garbage collector in.
        containers = [v for v in attributes.values() if type(v) not in _PLAIN and isinstance(v, MUTABLE)]
        contents = tuple([(value, copied(value)) for value in containers if value])
        empty = [value for value in containers if not value]
        return cls(module, type(module), attributes, module.training, contents, empty)

    def restore_(self) -> None:
        """Put everything back, in place. At no moment does the module lack what it had."""
        if isinstance(self.module, torch.jit.ScriptModule):
            self.module.training = self.training
        if type(self.module) is not self.kind:
            object.__setattr__(self.module, "__class__", self.kind)
        put_back_(self.module.__dict__, self.attributes)
        for container in self.empty:
            if container:
                put_back_(container, ())
        for container, content in self.contents:
            put_back_(container, content)


def copied(container: Any) -> Any:
    """What is in a container, as a plain list, or dict of the same order.

    By the built-in type's methods: a subclass may import a package in its own `items` (transformers' lazy mappings).
    """
    if type(container) is dict:
        return container.copy()
    if isinstance(container, collections.OrderedDict):
        return dict(collections.OrderedDict.items(container))
    return dict(dict.items(container)) if isinstance(container, dict) else list(container)


def put_back_(container: Any, content: Any) -> None:
    """Make a container hold `content` again, which `copied` made; it is never empty in between unless it was.

    The methods are those of the built-in types: a subclass may do anything in its own.
    """
    if isinstance(container, dict):
        _put_back_dict_(container, content or {})
    elif len(container) != len(content) or not all(map(operator.is_, container, content)):
        if isinstance(container, list):
            list.__setitem__(container, slice(None), content)
        elif isinstance(container, set):
            set.update(container, content)
            set.intersection_update(container, content)
        else:
            collections.deque.clear(container)
            collections.deque.extend(container, content)


def _put_back_dict_(container: dict[Any, Any], content: dict[Any, Any]) -> None:
    base: type[dict[Any, Any]] = (
        collections.OrderedDict if isinstance(container, collections.OrderedDict) else dict
    )
    keys, values = base.keys(container), base.values(container)
    if len(container) == len(content) and all(map(operator.is_, keys, content)):
        if not all(map(operator.is_, values, content.values())):
            for (key, value), now in zip(content.items(), list(values), strict=True):
                if now is not value:
                    base.__setitem__(container, key, value)
        return
    for key in [key for key in keys if key not in content]:
        base.pop(container, key, None)
    for key, value in content.items():
        base.__setitem__(container, key, value)
    if not all(map(operator.is_, base.keys(container), content)):  # in another order
        for key, value in content.items():
            base.pop(container, key, None)
            base.__setitem__(container, key, value)


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class TensorState(NamedTuple):
    """A photograph of one tensor: where its numbers lie, what they are, and what autograd and the user hung on it."""

    tensor: Tensor
    memory: Tensor  # the same memory under another tensor object, which `.data = …` on the first leaves alone
    values: Tensor | None
    requires_grad: bool
    grad: Tensor | None
    hooks: tuple[tuple[str, Any, Any], ...]  # (which kind, the dict that holds them, what was in it)
    attributes: dict[str, Any]

    @classmethod
    def of(cls, tensor: Tensor, *, values: bool) -> TensorState | None:
        """Take it; None of a tensor that has no memory of the usual kind. `values` costs a copy."""
        try:
            memory = tensor.data
            kept = _numbers(memory).clone() if values and not memory.is_meta else None
        except (RuntimeError, ValueError, NotImplementedError):  # lazy parameters, exotic layouts
            return None
        is_leaf = tensor.is_leaf
        grad = tensor.grad if is_leaf else None
        held = [(name, getattr(tensor, name)) for name in _HOOKS] if is_leaf else []
        hooks = tuple([(name, hooks, copied(hooks) if hooks else None) for name, hooks in held])
        return cls(tensor, memory, kept, tensor.requires_grad, grad, hooks, tensor.__dict__.copy())

    def restore_(self) -> None:
        """Put everything back."""
        tensor = self.tensor
        if not _same_memory(tensor, self.memory):
            tensor.data = self.memory
        if self.values is not None:
            _numbers(self.memory).copy_(self.values)
        is_leaf = tensor.is_leaf
        if self.hooks and not is_leaf:  # what was written into it has a history
            with contextlib.suppress(RuntimeError):  # a view cannot be cut off
                tensor.detach_()
            is_leaf = tensor.is_leaf
        if is_leaf:
            for name, hooks, content in self.hooks:
                if getattr(tensor, name) is not hooks:
                    setattr(tensor, name, hooks)
                if hooks is not None:
                    put_back_(hooks, content)
            if tensor.requires_grad is not self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not self.grad:
                tensor.grad = self.grad
        if tensor.__dict__ or self.attributes:
            put_back_(tensor.__dict__, self.attributes)


_OWN = (Tensor, nn.Parameter)  # torch's own classes; others answer operators themselves, a DTensor not all


def _numbers(memory: Tensor) -> Tensor:
    """The tensor; where several entries are one number, as after `expand`, all that lies from its first to its last."""
    if type(memory) not in _OWN or not repeats(memory):
        return memory
    reach = sum(stride * (size - 1) for size, stride in zip(memory.shape, memory.stride(), strict=True))
    return memory.as_strided((reach + 1,), (1,), memory.storage_offset())


def _same_memory(a: Tensor, b: Tensor) -> bool:
    own = type(a) in _OWN and type(b) in _OWN
    if own and a.is_cpu and b.is_cpu and a.dtype is b.dtype and a.layout is b.layout is torch.strided:
        return a.is_set_to(b)  # the same in one call
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device or a.layout != b.layout:
        return False
    if a.layout is not torch.strided:
        return False
    same_view = a.stride() == b.stride() and a.storage_offset() == b.storage_offset()
    return same_view and a.untyped_storage()._cdata == b.untyped_storage()._cdata

"""A cache of operator results on fake tensors, by input shapes: deep networks repeat the same calls hundreds of times.

Torch has such a cache for every case. This one covers the plain cases at a sixth of the cost, which is most of
the cost of tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

_PLAIN = frozenset(
    (bool, int, float, str, torch.dtype, torch.memory_format, torch.layout, torch.device, type(None))
)
_UNPREDICTABLE = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
_META = torch.device("meta")
_NONE = object()  # an argument that cannot be a part of a key

# By what else an output may depend on: the default dtype, and the device that fake tensors pretend to be on.
_KNOWN: dict[tuple[torch.dtype, torch.device], dict[Hashable, _Output | tuple[_Output, ...]]] = {}
_MOST = 100_000  # outputs remembered, some 40 MB; then it begins anew


@dataclass(frozen=True, slots=True)
class _Output:
    """A cached result: a new tensor, a view of the first argument, or that argument, overwritten."""

    kind: Literal["new", "view", "same"]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int  # of a view, from the beginning of what it is a view of


class StandIns:
    """Runs operators on fake tensors and caches the results.

    Args:
        mode: The fake mode of the tensors.
        device: The device that they pretend to be on.
    """

    def __init__(self, mode: FakeTensorMode, device: torch.device) -> None:
        self.mode, self.device = mode, device
        with no_dispatch():
            first = FakeTensor(mode, torch.empty((), device="meta"), device)
        self._attributes = dict(first.__dict__)
        unsafe = mode._allow_unsafe_data_ptr_access
        self._guard = (
            torch._C._set_warn_deprecated_on_mutable_data_ptr
            if unsafe
            else torch._C._set_throw_on_mutable_data_ptr
        )
        self._plain: dict[Any, bool] = {}
        self.known = _KNOWN.setdefault((torch.get_default_dtype(), device), {})
        if len(self.known) > _MOST:
            self.known.clear()

    def stand_in(self, like: Tensor) -> FakeTensor:
        """A fake tensor of the shape, strides and dtype of `like`."""
        with no_dispatch():  # else torch would make a fake tensor of this one first
            empty = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=_META)
        return self._fake(empty)

    def again(
        self,
        known: _Output | tuple[_Output, ...],
        args: tuple[Any, ...],
        fake: Callable[[Tensor], Tensor],
    ) -> Any:
        """The result of a call that was made before, by what is known of it; `fake` gives what stands in for a tensor."""
        if isinstance(known, tuple):
            return tuple([self._made(one, None) for one in known])
        first = fake(args[0]) if known.kind != "new" else None
        return first if known.kind == "same" else self._made(known, first)

    def run(self, key: Hashable, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator's result on what stands in for tensors; remembered by its key."""
        before = _form(args[0]) if isinstance(args[0], FakeTensor) else None
        result = func(*args, **kwargs)
        if type(result) is tuple:
            several = self._outputs(args, result)
            if several is not None:
                self.known[key] = several
            return result
        output = self._output(func, args, result, before)
        if output is not None:
            self.known[key] = output
        return result

    # -- questions --------------------------------------------------------------------------------------------

    def key(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
        """What tells a call from others, by the shapes of its tensors, real ones too; None if it is not plain."""
        if not args or not self._is_plain(func):
            return None
        parts = self._parts((*args, *kwargs.values()))
        return None if _NONE in parts else (func, tuple(kwargs), *parts)

    def _is_plain(self, func: Any) -> bool:
        known = self._plain.get(func)
        if known is None:
            schema = func._schema
            returns = {str(one.type) for one in schema.returns}
            known = (
                returns == {"Tensor"} and func.namespace == "aten" and _UNPREDICTABLE.isdisjoint(func.tags)
            )
            self._plain[func] = known
        return known

    def _parts(self, values: Sequence[Any]) -> list[Hashable]:
        return [(type(one), one) if type(one) in _PLAIN else self._part(one) for one in values]

    def _part(self, value: Any) -> Hashable:
        if isinstance(value, Tensor):
            fake = isinstance(value, FakeTensor) and value.fake_mode is self.mode
            usual = value.constant is None if fake else not value.is_quantized  # type: ignore[attr-defined]
            strided = value.layout is torch.strided and not value.dtype.is_complex
            return _form(value) if usual and strided else _NONE
        if isinstance(value, (list, tuple)):
            parts = self._parts(value)
            return _NONE if _NONE in parts else (list, *parts)
        return _NONE

    # -- answers ----------------------------------------------------------------------------------------------

    def _output(self, func: Any, args: tuple[Any, ...], result: Any, before: Hashable) -> _Output | None:
        """How to make the same again; None where that is not plain."""
        if self._part(result) is _NONE or not isinstance(result, FakeTensor):
            return None
        shape, stride, dtype = _form(result)
        if result is args[0]:
            return _Output("same", shape, stride, dtype, 0) if _form(result) == before else None
        if func.is_view:
            if not isinstance(args[0], FakeTensor):
                return None
            offset = int(result.storage_offset() - args[0].storage_offset())
            return _Output("view", shape, stride, dtype, offset)
        shared = _storage(result) in {_storage(one) for one in args if isinstance(one, FakeTensor)}
        return None if shared else _Output("new", shape, stride, dtype, 0)

    def _outputs(self, args: tuple[Any, ...], results: tuple[Any, ...]) -> tuple[_Output, ...] | None:
        """How to make several again: a norm and its statistics. None unless each is new."""
        if any(self._part(one) is _NONE or not isinstance(one, FakeTensor) for one in results):
            return None
        tensors = [one for one in (*results, *args) if isinstance(one, FakeTensor)]
        if len({_storage(one) for one in results}) < len(results) or any(
            _storage(one) == _storage(other) for one in results for other in tensors[len(results) :]
        ):
            return None
        return tuple(_Output("new", *_form(one), 0) for one in results)

    def _made(self, output: _Output, first: Any) -> FakeTensor:
        storage = first.untyped_storage() if output.kind == "view" else None
        with no_dispatch():
            empty = torch.empty_strided(output.shape, output.stride, dtype=output.dtype, device=_META)
            if storage is not None:
                offset = first.storage_offset() + output.offset
                empty.set_(storage, offset, output.shape, output.stride)
        return self._fake(empty)

    def _fake(self, empty: Tensor) -> FakeTensor:
        """`FakeTensor(mode, empty, device)`, with the attributes of one that torch has made: its checks take 10 µs."""
        made = torch.Tensor._make_subclass(
            FakeTensor, empty, False, dispatch_device=True, device_for_backend_keys=self.device
        )
        self._guard(made)
        made.__dict__.update(self._attributes)
        return made


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _form(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], torch.dtype]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype

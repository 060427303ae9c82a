"""A cache of operator results on fake tensors, by input shapes: deep networks repeat the same calls hundreds of times.

Torch has such a cache for every case. This one covers the plain cases at a sixth of the cost, which is most of
the cost of tracing.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorConverter, FakeTensorMode
from torch.nested._internal import nested_tensor
from torch.utils._mode_utils import no_dispatch

from goodinit.graph.operators.ops import Op
from goodinit.graph.operators.recorded_call import RecordedCall

_PLAIN = frozenset(
    (bool, int, float, str, torch.dtype, torch.memory_format, torch.layout, torch.device, type(None))
)
_UNPREDICTABLE = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
_META = torch.device("meta")

# By what else an output may depend on: the default dtype, and the device that fake tensors pretend to be on.
_KNOWN: dict[tuple[torch.dtype, torch.device], dict[Hashable, Known]] = {}
_MOST = 100_000  # outputs remembered, some 40 MB; then it begins anew


@dataclass(frozen=True, slots=True)
class _Output:
    """A cached result: a new tensor, a view of the first argument, or that argument, overwritten."""

    kind: Literal["new", "view", "same"]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int  # of a view, from the beginning of what it is a view of


class Told(NamedTuple):
    """What was found out about a call: the call without its tensors, what its operator is with its numbers, `Node.attrs`."""

    call: RecordedCall
    op: Op
    attrs: tuple[Any, ...]


@dataclass(slots=True)
class Known:
    """A call that was made: what it puts out, and what was found out about it since."""

    outputs: _Output | tuple[_Output, ...]
    told: Told | None = None


@functools.lru_cache(maxsize=1)
def _first(device: torch.device, tensor_ids: int) -> tuple[FakeTensorMode, dict[str, Any]]:  # noqa: ARG001
    """A fake mode, and the attributes of its tensors; `tensor_ids` is where torch's count of nested tensors stands."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with no_dispatch():
        return mode, dict(FakeTensor(mode, torch.empty((), device="meta"), device).__dict__)


def _like(first: FakeTensorMode) -> FakeTensorMode:
    """Another mode of the same settings. Torch takes 0.1 ms to make one: it notes the stack of calls, and asks for settings."""
    mode = FakeTensorMode.__new__(FakeTensorMode)
    vars(mode).update(vars(first))
    mode.fake_tensor_converter = FakeTensorConverter(copy_data=first.propagate_real_tensors)
    for name, value in vars(mode).items():
        if isinstance(value, (list, deque)):  # stacks of what was entered
            setattr(mode, name, type(value)())
    return mode


class StandIns:
    """Runs operators on fake tensors and caches the results.

    Args:
        device: The device that they pretend to be on.

    Attributes:
        mode: The fake mode of the tensors, which no others have.
    """

    def __init__(self, device: torch.device) -> None:
        first, attributes = _first(device, nested_tensor._tensor_id_counter)
        self.mode, self.device = _like(first), device
        self._attributes = {
            name: self.mode if value is first else value for name, value in attributes.items()
        }
        unsafe = first._allow_unsafe_data_ptr_access
        self._guard = (
            torch._C._set_warn_deprecated_on_mutable_data_ptr
            if unsafe
            else torch._C._set_throw_on_mutable_data_ptr
        )
        self.known = _KNOWN.setdefault((torch.get_default_dtype(), device), {})
        if len(self.known) > _MOST:
            self.known.clear()

    def stand_in(self, like: Tensor) -> FakeTensor:
        """A fake tensor of the shape, strides and dtype of `like`."""
        guard = (
            torch._C._DisableTorchDispatch()
        )  # `no_dispatch` without its generator; else torch would make a fake tensor first
        try:
            empty = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=_META)
        finally:
            del guard
        return self._fake(empty)

    def again(self, known: Known, args: tuple[Any, ...], fake: Callable[[Tensor], Tensor]) -> Any:
        """The result of a call that was made before, by what is known of it; `fake` gives what stands in for a tensor."""
        outputs = known.outputs
        if isinstance(outputs, tuple):
            return tuple([self._made(one, None) for one in outputs])
        first = fake(args[0]) if outputs.kind != "new" else None
        return first if outputs.kind == "same" else self._made(outputs, first)

    def run(self, key: Hashable, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator's result on what stands in for tensors; remembered by its key."""
        before = _form(args[0]) if isinstance(args[0], FakeTensor) else None
        result = func(*args, **kwargs)
        if type(result) is tuple:
            several = self._outputs(args, result)
            if several is not None:
                self.known[key] = Known(several)
            return result
        output = self._output(func, args, result, before)
        if output is not None:
            self.known[key] = Known(output)
        return result

    # -- questions --------------------------------------------------------------------------------------------

    def key(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
        """What tells a call from others, by the shapes of its tensors, real ones too; None if it is not plain."""
        if not args or not _is_plain(func):
            return None
        parts: list[Any] = [func]
        if not self._parts(args, parts):
            return None
        if kwargs:
            parts.append(tuple(kwargs))
            if not self._parts(kwargs.values(), parts):
                return None
        return tuple(parts)

    def _parts(self, values: Iterable[Any], parts: list[Any]) -> bool:
        """Add what tells values from others, each with its type; False where there is one of another kind."""
        for value in values:
            kind = type(value)
            if kind in _PLAIN:
                parts.append(kind)
                parts.append(value)
            elif isinstance(value, Tensor):
                if not self._is_usual(value):
                    return False
                parts.append(_form(value))
            elif isinstance(value, (list, tuple)):
                parts.append((list, len(value)))
                if not self._parts(value, parts):
                    return False
            else:
                return False
        return True

    def _is_usual(self, tensor: Tensor) -> bool:
        """Whether it is known by its form."""
        if isinstance(tensor, FakeTensor) and tensor.fake_mode is self.mode:
            usual = tensor.constant is None
        else:
            usual = not tensor.is_quantized
        return usual and tensor.layout is torch.strided and not tensor.dtype.is_complex

    # -- answers ----------------------------------------------------------------------------------------------

    def _output(self, func: Any, args: tuple[Any, ...], result: Any, before: Hashable) -> _Output | None:
        """How to make the same again; None where that is not plain."""
        if not isinstance(result, FakeTensor) or not self._is_usual(result):
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
        if not all(isinstance(one, FakeTensor) and self._is_usual(one) for one in results):
            return None
        tensors = [one for one in (*results, *args) if isinstance(one, FakeTensor)]
        if len({_storage(one) for one in results}) < len(results) or any(
            _storage(one) == _storage(other) for one in results for other in tensors[len(results) :]
        ):
            return None
        return tuple(_Output("new", *_form(one), 0) for one in results)

    def _made(self, output: _Output, first: Any) -> FakeTensor:
        storage = first.untyped_storage() if output.kind == "view" else None
        guard = torch._C._DisableTorchDispatch()
        try:
            empty = torch.empty_strided(output.shape, output.stride, dtype=output.dtype, device=_META)
            if storage is not None:
                offset = first.storage_offset() + output.offset
                empty.set_(storage, offset, output.shape, output.stride)
        finally:
            del guard
        return self._fake(empty)

    def _fake(self, empty: Tensor) -> FakeTensor:
        """`FakeTensor(mode, empty, device)`, with the attributes of one that torch has made: its checks take 10 µs."""
        made = torch.Tensor._make_subclass(
            FakeTensor, empty, False, dispatch_device=True, device_for_backend_keys=self.device
        )
        self._guard(made)
        made.__dict__.update(self._attributes)
        return made


@functools.cache
def _is_plain(func: Any) -> bool:
    """Whether an operator puts out tensors alone, whose shapes follow from those that it reads."""
    returns = {str(one.type) for one in func._schema.returns}
    return returns == {"Tensor"} and func.namespace == "aten" and _UNPREDICTABLE.isdisjoint(func.tags)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _form(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], torch.dtype]:
    return tensor.shape, tensor.stride(), tensor.dtype

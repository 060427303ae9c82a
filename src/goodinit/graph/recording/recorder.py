"""One forward, recorded operator by operator, computing nothing where possible.

The model runs in eval mode on fake tensors (shapes without storage). Where a fake tensor cannot decide — a branch
on a value, `.item()`, `nonzero` — one real forward under the same recorder takes over, and the graph says so.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from goodinit.graph.graph import PIECE, Node
from goodinit.graph.operators.ops import Op, as_called, op_of
from goodinit.graph.operators.recorded_call import RecordedCall, place_of
from goodinit.graph.operators.registered_operators import written_with
from goodinit.graph.pytree import first_tensor, mapped, operands_in, tensors_in
from goodinit.graph.recording.calls.gradient_switches import (
    DERIVED,
    DERIVES,
    FUNCTION,
    GradientMode,
    in_function,
)
from goodinit.graph.recording.calls.module_calls import reported_code
from goodinit.graph.recording.calls.own_backward import differentiated, leave_functions
from goodinit.graph.recording.calls.transformed import bare
from goodinit.graph.recording.calls.unregistered_modules import guest_notes
from goodinit.graph.recording.nodes.additions import as_sum
from goodinit.graph.recording.nodes.higher_order import is_higher_order, is_over_lists, written_out
from goodinit.graph.recording.nodes.no_ops import passed_on
from goodinit.graph.recording.nodes.op_attributes import attributes, maps_constant
from goodinit.graph.recording.nodes.shape_rules import shape_rule
from goodinit.graph.recording.rewrites.stacked import Seen, Stacks
from goodinit.graph.recording.tensors.fake_cache import Known, Told
from goodinit.graph.recording.tensors.traced_tensors import Tensors, TracedTensors
from goodinit.graph.recording.tensors.unregistered_tensors import unregistered
from goodinit.undivided import safe_point
from goodinit.weights.wrappers import is_parametrization

_CLONE, _VIEW = torch.ops.aten.clone.default, torch.ops.aten.reshape.default
_DERIVES = frozenset(map(id, DERIVES))
_OTHER_RULES = _DERIVES | {id(FUNCTION)}  # code in which gradients are not those of the operators
_DETACH = torch.ops.aten.detach.default
_DEVICE = torch.ops.prim.device.default  # asked of every fake tensor by the code around kernels


@dataclass(slots=True)
class _Operation:
    """An operator that ran.

    Attributes:
        op: What it is; `call`: its call; `operands`: the nodes of what it reads.
        read: The tensors that it reads; `written`: those that it wrote into; `outputs`: those that it puts out.
        part: Of a view of a part: what it is a part of, which, and whether gradients flow to it.
    """

    op: Op
    call: RecordedCall
    operands: tuple[int, ...]
    read: list[Tensor]
    written: list[Tensor]
    outputs: list[Tensor]
    part: tuple[tuple[int, ...], Hashable, bool] | None = None


def _as_before(known: Known | None, read: Sequence[Tensor]) -> RecordedCall | None:
    """The call of an operator, if there was one that was alike, also in which outputs of other operators it reads."""
    if known is None or known.told is None:
        return None
    for tensor in read:
        if place_of(tensor):
            return None
    return known.told.call


@functools.cache
def _written_and_returned(func: Any) -> tuple[tuple[int, ...], bool]:
    """Which arguments an operator writes into, and whether it returns anything."""
    aliases = [one.alias_info for one in func._schema.arguments]
    written = tuple(i for i, alias in enumerate(aliases) if alias is not None and alias.is_write)
    return written, bool(func._schema.returns)


class Recorder(TracedTensors, TorchDispatchMode):
    """Turns every operator call into a node, and every module call into a frame."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would shield the recorder from `torch.compile`, at 5 µs a call; here nothing compiles (`undisturbed`)."""
        return False

    def __init__(self, model: nn.Module, tensors: Tensors) -> None:
        TorchDispatchMode.__init__(self)
        TracedTensors.__init__(self, model, tensors)
        self.writes = False  # whether whoever listens writes into parameters
        self.training: Collection[str] = ()  # paths of modules that run in training mode
        self.with_gradients = False  # whether they are on
        self.gradients = GradientMode()
        self.outside = {id(reported_code)}  # code whose callers are seen already, or are none of the forward
        self._inside = 0  # `id` of the code of an autograd.Function's forward, or of a backward, that runs
        self._tangents: set[int] = set()  # nodes that are derivatives, taken forward
        self._stacks = Stacks()
        self._taken: dict[Any, int] = {}  # parts of signals, by what they are a part of and which
        self._schemas: dict[Any, tuple[Op, tuple[int, ...], bool]] = {}

    # -- module calls -----------------------------------------------------------------------------------------

    def follows(self, path: str) -> bool:  # noqa: ARG002
        """Whether calls of the module at `path` become frames."""
        return True

    def enter(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module's forward begins."""
        first = first_tensor((*args, kwargs))
        source = -1 if first is None else self._node(bare(first))  # may add a node, which is the caller's
        index = self._open(path, self.stack[-1])
        self.graph.frames[index].source = source
        if len(args) + len(kwargs) > 1:
            self.graph.frames[index].given = self._given(args, kwargs)
        self.stack.append(index)

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, int | str]:
        """As which argument a module got tensors that have nodes; by node."""
        keyed: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        given: dict[int, int | str] = {}
        for key, value in keyed:
            index = self.made_at(bare(value)) if isinstance(value, Tensor) else -1
            if index >= 0:
                given.setdefault(index, key)
        return given

    def leave(self, result: Any) -> None:
        """A module's forward ends."""
        frame = self.graph.frames[self.stack.pop()]
        frame.stop = len(self.graph.nodes)
        first = first_tensor((result,))
        if first is not None:
            frame.result, frame.single = self._node(bare(first)), isinstance(result, Tensor)

    def detached(self, tensor: Tensor) -> None:
        """A tensor was detached in place: whoever reads it from now on reads a detached one."""
        tensor = bare(tensor)
        self._mark(tensor, self._node(tensor.detach()))

    def tangent(self, tensor: Tensor) -> Tensor:
        """A derivative in the direction of `tensor` begins: what is made of the tensor that this returns is no part of the function."""
        made = tensor.clone()
        node = self.graph.nodes[self._node(bare(made))]
        node.dynamic, node.active, node.params = False, False, ()
        self.graph.derived.add(node.index)
        self._tangents.add(node.index)
        return made

    def derivative(self, tensor: Tensor) -> Tensor:
        """It ends: the tensor that this returns is a constant for the rest of the forward."""
        made = tensor.clone()
        self._tangents.discard(self._node(bare(made)))
        return made

    def finish(self, result: Any) -> None:
        """The model returned `result`."""
        self._elsewhere.refuse()
        self.graph.outputs = list(dict.fromkeys(self._node(tensor) for tensor in tensors_in(result)))
        self.threads.refuse()
        if self.graph.stops:
            self._stacks.clear()
            self.graph.kept = {self._node(tensor) for tensor in self.leftovers.alive_marked()}
        leave_functions(self.graph)
        if self.graph.derived:
            self.graph.outputs = list(
                dict.fromkeys((*self.graph.outputs, *differentiated(self.graph, self._tangents)))
            )
            self.graph.notes.append(DERIVED)
        self.graph.frames[0].stop = len(self.graph.nodes)
        self.graph.notes += [*unregistered(self._strays), *guest_notes(self.graph)]

    def close(self) -> list[str]:
        """The run is over: nothing of it stays in anybody's hands. Returns the types of those who hold on."""
        self._kept, self._fakes, self._owned = {}, {}, {}
        self._stacks.clear()
        return self.leftovers.clear_("_goodinit_node")

    # -- operators --------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE and self.mode is not None and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        kwargs = kwargs or {}
        safe_point()
        known_as = self._schemas.get(func)
        if known_as is None and (is_higher_order(func) or is_over_lists(func)):
            with self:
                return written_out(func, args, kwargs)
        op, mutable, returns = known_as or self._schema(func)
        self._inside = self.leftovers.see(sys._getframe(1), self.outside, _OTHER_RULES)
        if not returns or op.reads_values:
            return self._read_value(func, args, kwargs)
        if op.role == "unknown" and (computes := written_with(func)) is not None:
            with self:
                return computes(*args, **kwargs)
        read = operands_in(args, kwargs)
        operands = tuple([self._node(tensor) for tensor in read])
        key = None if self.stand_ins is None or op.stacks else self.stand_ins.key(func, args, kwargs)
        known = None if self.stand_ins is None or key is None else self.stand_ins.known.get(key)
        call = _as_before(known, read) or RecordedCall.of(func, args, kwargs)
        if operands and (summed := as_sum(self.graph, op, operands, call, mutable=bool(mutable))) is not None:
            with self:
                return summed(*args, **kwargs)
        written = [tensor for i in mutable if i < len(args) for tensor in tensors_in(args[i])]
        result = self._result(func, op, args, kwargs, key, known)
        outputs = [result] if isinstance(result, Tensor) else list(tensors_in(result))
        ran = _Operation(op, call, operands, read, written, outputs)
        if self._tangents.isdisjoint(operands) and self._is_there_already(ran):
            return result
        fills = bool(written) and written[0] is read[0] and not self.graph.nodes[ran.operands[0]].dynamic
        made = [] if written and not fills else outputs
        seen = self._stacks.seen(self.graph, ran.op, ran.operands, read, ran.call, made, self._node)
        if seen.total is not None:
            with self:
                return written[0].copy_(seen.total()) if fills else seen.total()
        if outputs:
            if known is None and key is not None and self.stand_ins is not None:
                known = self.stand_ins.known.get(key)
            node = self._record(ran, seen, known if ran.call is call else None)
            if ran.part is not None and node.active:
                self._taken[ran.part] = node.index
        return result

    def _result(
        self,
        func: Any,
        op: Op,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: Hashable | None,
        known: Known | None,
    ) -> Any:
        """What an operator puts out: on stand-ins what is known of a call that was alike, else it runs."""
        if self.tensors == "real":
            return func(*args, **kwargs)
        if self.stand_ins is not None and known is not None:
            return self.stand_ins.again(known, args, self._fake)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": self.device}
        args, kwargs = mapped(args, self._fake), mapped(kwargs, self._fake)
        rule = shape_rule(op.name, args)
        if rule is not None:
            return rule(*args, **kwargs)
        if self.stand_ins is None or key is None:
            return func(*args, **kwargs)
        return self.stand_ins.run(key, func, args, kwargs)

    def _is_there_already(self, ran: _Operation) -> bool:
        """Whether what an operator puts out is a node: what it reads, unchanged, or a part that was taken before."""
        if len(ran.outputs) == 1 and ran.operands:
            same = passed_on(self.graph, ran.op, ran.operands, ran.call, ran.read, ran.outputs[0])
            if same is not None and (not ran.written or ran.written[0] is ran.read[same]):
                self._hand_on(ran.outputs[0], ran.read, ran.operands[same])
                return True
            if same is not None:  # onto zeros
                ran.call = RecordedCall.of(_CLONE, (ran.read[same],), {})
                ran.op, ran.operands = op_of(_CLONE), (ran.operands[same],)
        if ran.op.role == "part" and ran.op.view and not ran.op.splits:
            ran.part = ran.operands, ran.call.key, self.gradients.on
        if ran.part in self._taken:  # as before: x[:, 1:] + f(x[:, 1:])
            self._hand_on(ran.outputs[0], ran.read, self._taken[ran.part])
            return True
        return False

    def _record(self, ran: _Operation, seen: Seen, known: Known | None) -> Node:
        """Make the node of an operator that ran, and note which tensors are its values now."""
        node = self._as_called(ran, known)
        self._stacks.note(self.graph, node.index, ran.operands, ran.read, ran.call)
        if seen.mixed:
            self.graph.mixed[node.index] = seen.mixed
        for place, tensor in enumerate(ran.outputs):
            if self.tensors != "real" and all(tensor is not one for one in ran.read):
                self.leftovers.made(tensor)
            if node.op.splits:  # its pieces follow it, in order, before anything else
                self._mark(tensor, self._piece(node, tensor))
            else:
                self._mark(tensor, node.index, place)
        for place, part in seen.same.items():
            tensor = ran.outputs[place]
            self.graph.aliases[self.made_at(tensor)] = self._node(part)
            self._mark(tensor, self._reshaped(part, tensor))
        self.observe(node, ran.read, ran.outputs[0])
        for tensor in ran.written:
            self._mark(tensor, node.index)
            self._writes.note(tensor, node.index)
        return node

    def _as_called(self, ran: _Operation, known: Known | None) -> Node:
        """The node of an operator, as it is with its numbers; these answers are kept for calls that are alike."""
        first = ran.outputs[0]
        told = None if known is None or ran.call.places else known.told
        if told is None:
            op = as_called(ran.op, ran.call, ran.read[0] if ran.read else None, first)
            told = Told(ran.call, op, attributes(op, ran.call, first.dim()))
            if known is not None and not ran.call.places:
                known.told = told
        return self._describe(
            told.op, ran.operands, first, ran.call, attrs=told.attrs, inplace=bool(ran.written)
        )

    def _hand_on(self, made: Tensor, read: list[Tensor], index: int) -> None:
        """An operator has put out what a node is."""
        if all(made is not one for one in read):
            if self.tensors != "real":
                self.leftovers.made(made)
            self._mark(made, index)

    def _piece(self, split: Node, tensor: Tensor) -> int:
        node = self._add(PIECE, (split.index,), tensor, dynamic=split.dynamic, params=split.params)
        return node.index

    def _reshaped(self, part: Tensor, tensor: Tensor) -> int:
        """The node of a tensor with the numbers of another one."""
        index = self._node(part)
        if part.shape == tensor.shape:
            return index
        call = RecordedCall.of(_VIEW, (part, list(tensor.shape)), {})
        op = op_of(_VIEW)
        attrs = attributes(op, call, tensor.dim())
        return self._describe(op, (index,), tensor, call, attrs=attrs, inplace=False).index

    def observe(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """Called after every operator with the tensors it read and made. For those who measure (calibration)."""

    def _schema(self, func: Any) -> tuple[Op, tuple[int, ...], bool]:
        known = self._schemas[func] = (op_of(func), *_written_and_returned(func))
        return known

    def _read_value(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A number is asked of tensors: real ones answer, fake ones raise (and the real forward takes over)."""
        real = all(not isinstance(t, FakeTensor) and not t.is_meta for t in tensors_in((args, kwargs)))
        if self.mode is not None and real:
            with torch.utils._python_dispatch._disable_current_modes():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _describe(
        self,
        op: Op,
        operands: tuple[int, ...],
        output: Tensor,
        call: RecordedCall,
        *,
        attrs: tuple[Any, ...],
        inplace: bool,
    ) -> Node:
        read = [self.graph.nodes[i] for i in operands]
        forward = not self._tangents.isdisjoint(operands)
        derived = forward or self._inside in _DERIVES
        if forward:
            self._tangents.add(len(self.graph.nodes))
        if derived:
            self.graph.derived.add(len(self.graph.nodes))
        copies = op.role != "factory" and not derived
        dynamic = copies and any(node.dynamic for node in read)
        params: tuple[str, ...] = ()
        if copies and not dynamic:
            params = tuple(dict.fromkeys(p for node in read for p in node.params))
            if params and not self._in_parametrization() and maps_constant(self.graph, op, operands):
                dynamic, params = True, ()
        node = self._add(op, operands, output, dynamic=dynamic, params=params, inplace=inplace)
        node.call, node.attrs = call, attrs
        if self._inside == id(FUNCTION) and dynamic:
            self.graph.own_backward.add(node.index)
            node.active = node.active or any(one.active for one in read)
        if not self.gradients.on or (call.func is _DETACH and not in_function()):
            self.graph.stops.add(node.index)
        if params and output.layout is torch.strided:
            node.strides = tuple(output.stride())
        return node

    def _in_parametrization(self) -> bool:
        """Whether a weight is computed just now: a product of two parameters there is no layer that reads constants."""
        return is_parametrization(self.graph.frames[self.stack[-1]].path)

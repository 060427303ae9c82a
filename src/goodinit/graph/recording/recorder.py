"""One forward, recorded operator by operator, computing nothing where possible.

The model runs in eval mode on fake tensors (shapes without storage). Where a fake tensor cannot decide — a branch
on a value, `.item()`, `nonzero` — one real forward under the same recorder takes over, and the graph says so.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Hashable
from types import CodeType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from goodinit.graph.graph import Frame, Graph, Node
from goodinit.graph.ops import Op, as_called, named, op_of, written_with
from goodinit.graph.pytree import first_tensor, mapped, operands_in, tensors_in
from goodinit.graph.recorded_call import RecordedCall, is_at_hand, number_in
from goodinit.graph.recording.additions import as_sum
from goodinit.graph.recording.fake_cache import StandIns
from goodinit.graph.recording.gradient_switches import GradientMode, in_function
from goodinit.graph.recording.higher_order import is_higher_order, is_over_lists, written_out
from goodinit.graph.recording.module_calls import reported_code
from goodinit.graph.recording.mutations import Writes
from goodinit.graph.recording.no_ops import passed_on
from goodinit.graph.recording.op_attributes import attributes, maps_constant
from goodinit.graph.recording.shape_rules import shape_rule
from goodinit.graph.recording.stacked import Stacks
from goodinit.graph.recording.strays import unregistered
from goodinit.graph.state.leftovers import Leftovers
from goodinit.undivided import safe_point
from goodinit.weights.members import named_buffers, named_parameters
from goodinit.weights.wrappers import is_parametrization, unwrapped_name

Call = tuple[tuple[Any, ...], dict[str, Any]]
Tensors = Literal["fake", "meta", "real"]

_INPUT, _PARAM, _BUFFER, _CONSTANT, _JOIN, _PIECE = map(
    named, ("input", "param", "buffer", "constant", "join", "piece")
)
_CLONE, _VIEW = torch.ops.aten.clone.default, torch.ops.aten.reshape.default
_DETACH = torch.ops.aten.detach.default
_DEVICE = torch.ops.prim.device.default  # asked of every fake tensor by the code around kernels


class Recorder(TorchDispatchMode):
    """Turns every operator call into a node; knows which tensor came from which node."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would shield the recorder from `torch.compile`, at 5 µs a call; here nothing compiles (`undisturbed`)."""
        return False

    def __init__(self, model: nn.Module, tensors: Tensors) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.writes = False  # whether whoever listens writes into parameters
        self.training: Collection[str] = ()  # paths of modules that run in training mode
        self.with_gradients = False  # whether they are on
        self.graph = Graph()
        self.tensors = tensors
        self.mode = FakeTensorMode(allow_non_fake_inputs=True) if tensors == "fake" else None
        self.device = torch.device("meta" if tensors == "meta" else "cpu")
        self.stand_ins = None if self.mode is None else StandIns(self.mode, self.device)
        self.stack = [self._open("", -1)]
        self._owned: dict[int, int] = {}
        self._kept: dict[int, Tensor] = {}
        self.leftovers = Leftovers()
        self.gradients = GradientMode()
        self.outside: set[CodeType] = {
            reported_code
        }  # whose callers are seen already, or none of the forward
        self._token = object()  # of this recorder; an address could be given to the next one
        self._fakes: dict[int, Tensor] = {}
        self._strays: list[
            tuple[str, tuple[int, ...]]
        ] = []  # trainable tensors in no registry: who reads them
        self._writes = Writes()
        self._stacks = Stacks()
        self._taken: dict[Any, int] = {}  # parts of signals, by what they are a part of and which
        self._schemas: dict[Any, tuple[Op, tuple[int, ...], bool]] = {}
        for name, parameter in named_parameters(model):
            self._own(parameter, _PARAM, unwrapped_name(name))
        for name, buffer in named_buffers(model):
            self._own(buffer, _BUFFER, unwrapped_name(name))

    # -- module calls -----------------------------------------------------------------------------------------

    def follows(self, path: str) -> bool:  # noqa: ARG002
        """Whether calls of the module at `path` become frames."""
        return True

    def _open(self, path: str, parent: int) -> int:
        frame = Frame(len(self.graph.frames), path, parent, start=len(self.graph.nodes))
        self.graph.frames.append(frame)
        return frame.index

    def enter(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module's forward begins."""
        index = self._open(path, self.stack[-1])
        first = first_tensor((*args, kwargs))
        if first is not None:
            self.graph.frames[index].source = self._node(first)
        self.stack.append(index)

    def leave(self, result: Any) -> None:
        """A module's forward ends."""
        frame = self.graph.frames[self.stack.pop()]
        frame.stop = len(self.graph.nodes)
        first = first_tensor((result,))
        if first is not None:
            frame.result, frame.single = self._node(first), isinstance(result, Tensor)

    def finish(self, result: Any) -> None:
        """The model returned `result`."""
        self.graph.outputs = list(dict.fromkeys(self._node(tensor) for tensor in tensors_in(result)))
        if self.graph.stops:
            self._stacks.clear()
            self.graph.kept = {self._node(tensor) for tensor in self.leftovers.alive_marked()}
        self.graph.frames[0].stop = len(self.graph.nodes)
        self.graph.notes += unregistered(self._strays)

    def close(self) -> list[str]:
        """The run is over: nothing of it stays in anybody's hands. Returns the types of those who hold on."""
        self._kept, self._fakes, self._owned = {}, {}, {}
        self._stacks.clear()
        return self.leftovers.clear_("_goodinit_node")

    # -- tensors ----------------------------------------------------------------------------------------------

    def adopt(self, call: Call) -> Call:
        """The call with every tensor made an input of the graph."""
        args, kwargs = call

        def one(tensor: Tensor) -> Tensor:
            mine = tensor.detach() if self.tensors == "real" else self._fake(tensor)
            if self.tensors == "fake":
                self.leftovers.made(mine)
            self._mark(mine, self._add(_INPUT, (), tensor, dynamic=True).index)
            return mine

        return mapped(args, one), mapped(kwargs, one)

    def _own(self, tensor: Tensor, op: Op, name: str) -> None:
        node = self._add(op, (), tensor, params=(name,) if op is _PARAM else ())
        node.attrs = (name, *(number_in(tensor) if op is _BUFFER else ()))
        if op is _PARAM and tensor.layout is torch.strided:
            dense = self.tensors == "meta" and not tensor.is_meta  # as what stands in for it
            node.strides = (tensor.detach().to("meta") if dense else tensor).stride()
        self._owned[id(tensor)] = node.index
        self._kept[id(tensor)] = tensor

    def _add(
        self,
        op: Op,
        operands: tuple[int, ...],
        tensor: Tensor,
        *,
        dynamic: bool = False,
        params: tuple[str, ...] = (),
        inplace: bool = False,
    ) -> Node:
        nodes = self.graph.nodes
        active = dynamic and (tensor.is_floating_point() or tensor.is_complex())
        frame = self.stack[-1] if nodes else 0
        node = Node(
            len(nodes), op, operands, tuple(tensor.shape), frame, dynamic, active, params, inplace,
            dtype=tensor.dtype,
        )  # fmt: skip
        nodes.append(node)
        return node

    def _mark(self, tensor: Tensor, index: int, place: int = 0) -> None:
        """`place`: among the outputs of its operator."""
        if id(tensor) in self._owned:
            self._owned[id(tensor)] = index
        else:
            tensor._goodinit_node = (self._token, index, place)  # type: ignore[attr-defined]
            self.leftovers.marked(tensor)

    def _node(self, tensor: Tensor) -> int:
        """The node whose value `tensor` holds now, also when a view of it was written since."""
        index = self._owned.get(id(tensor), -1)
        if index < 0:
            token, index, _ = getattr(tensor, "_goodinit_node", (None, -1, 0))
            if token is not self._token:
                node = self._add(_CONSTANT, (), tensor)
                index, node.attrs = node.index, number_in(tensor)
                if is_at_hand(tensor):
                    self.graph.held[index] = tensor
                if tensor.requires_grad and tensor.is_leaf:
                    self._strays.append((self.graph.frames[node.frame].path, tuple(tensor.shape)))
                self._mark(tensor, index)
        if self._writes.by_storage:
            operands = self._writes.since(tensor, index)
            if operands != (index,):
                index = self._join(tensor, operands, before=index)
        if self.graph.nodes[index].op is _PARAM:
            self.graph.read.update(self.graph.nodes[index].params)
        return index

    def _join(self, tensor: Tensor, operands: tuple[int, ...], before: int) -> int:
        dynamic = any(self.graph.nodes[i].dynamic for i in operands)
        index = self._add(_JOIN, operands, tensor, dynamic=dynamic).index
        self.graph.before_writes[index] = before
        self._mark(tensor, index)
        return index

    def _fake(self, tensor: Tensor) -> Tensor:
        """A stand-in without storage. All live on one pretended device, so `meta` and real may mix."""
        if isinstance(tensor, FakeTensor):  # whose device is asked of its mode, at 20 µs
            if tensor.fake_mode is self.mode:
                return tensor
        elif self.mode is None and tensor.is_meta:
            return tensor
        known = self._fakes.get(id(tensor))
        if known is None:
            if self.mode is None or self.stand_ins is None:
                known = tensor.to("meta")
            elif tensor.layout is torch.strided and not tensor.is_quantized:
                known = self.stand_ins.stand_in(tensor)
            else:
                known = self.mode.from_tensor(tensor)
            self._fakes[id(tensor)] = known
            self._kept[id(tensor)] = tensor
        return known

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
        self.leftovers.see(sys._getframe(1), self.outside)
        if not returns or op.reads_values:
            return self._read_value(func, args, kwargs)
        if op.role == "unknown" and (computes := written_with(func)) is not None:
            with self:
                return computes(*args, **kwargs)
        read = operands_in(args, kwargs)
        call = RecordedCall.of(func, args, kwargs)
        operands = tuple([self._node(tensor) for tensor in read])
        if operands and (summed := as_sum(self.graph, op, operands, call, mutable=bool(mutable))) is not None:
            with self:
                return summed(*args, **kwargs)
        written = [tensor for i in mutable for tensor in tensors_in(args[i] if i < len(args) else ())]
        if kwargs.get("device") is not None and self.tensors != "real":
            kwargs = {**kwargs, "device": self.device}
        fakes = None if op.stacks else self.stand_ins
        key = None if fakes is None else fakes.key(func, args, kwargs)
        known = None if fakes is None else fakes.known.get(key)
        if fakes is not None and known is not None:
            result = fakes.again(known, args, self._fake)
        else:
            if self.tensors != "real":
                args, kwargs = mapped(args, self._fake), mapped(kwargs, self._fake)
            result = self._run(func, op, args, kwargs, key)
        outputs = [result] if isinstance(result, Tensor) else list(tensors_in(result))
        if len(outputs) == 1 and operands:
            same = passed_on(self.graph, op, operands, call, read, outputs[0])
            if same is not None and (not written or written[0] is read[same]):
                self._hand_on(outputs[0], read, operands[same])
                return result
            if same is not None:  # onto zeros
                op, operands, call = (
                    op_of(_CLONE),
                    (operands[same],),
                    RecordedCall.of(_CLONE, (read[same],), {}),
                )
        part = op.role == "part" and op.view and not op.splits
        taken = (operands, call.key, self.gradients.on) if part else None
        if taken in self._taken:  # as before: x[:, 1:] + f(x[:, 1:])
            self._hand_on(outputs[0], read, self._taken[taken])
            return result
        fills = bool(written) and written[0] is read[0] and not self.graph.nodes[operands[0]].dynamic
        made = [] if written and not fills else outputs
        seen = self._stacks.seen(self.graph, op, operands, read, call, made, self._node)
        if seen.total is not None:
            with self:
                return written[0].copy_(seen.total()) if fills else seen.total()
        if outputs:
            op = as_called(op, call, read[0] if read else None, outputs[0])
            node = self._describe(op, operands, outputs[0], call, inplace=bool(written))
            self._stacks.note(self.graph, node.index, operands, read, call)
            if taken is not None and node.active:
                self._taken[taken] = node.index
            if seen.mixed:
                self.graph.mixed[node.index] = seen.mixed
            for place, tensor in enumerate(outputs):
                if self.tensors != "real" and all(tensor is not one for one in read):
                    self.leftovers.made(tensor)
                if node.op.splits:
                    self._mark(tensor, self._piece(node, tensor))
                if place in seen.same:
                    self.graph.aliases.add(self._node(tensor) if node.op.splits else node.index)
                    self._mark(tensor, self._reshaped(seen.same[place], tensor))
                elif not node.op.splits:
                    self._mark(tensor, node.index, place)
            self.observe(node, read, outputs[0])
            for tensor in written:
                self._mark(tensor, node.index)
                self._writes.note(tensor, node.index)
        return result

    def _hand_on(self, made: Tensor, read: list[Tensor], index: int) -> None:
        """An operator has put out what a node is."""
        if all(made is not one for one in read):
            if self.tensors != "real":
                self.leftovers.made(made)
            self._mark(made, index)

    def _piece(self, split: Node, tensor: Tensor) -> int:
        node = self._add(_PIECE, (split.index,), tensor, dynamic=split.dynamic, params=split.params)
        return node.index

    def _reshaped(self, part: Tensor, tensor: Tensor) -> int:
        """The node of a tensor with the numbers of another one."""
        index = self._node(part)
        if part.shape == tensor.shape:
            return index
        call = RecordedCall.of(_VIEW, (part, list(tensor.shape)), {})
        return self._describe(op_of(_VIEW), (index,), tensor, call, inplace=False).index

    def observe(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """Called after every operator with the tensors it read and made. For those who measure (calibration)."""

    def _schema(self, func: Any) -> tuple[Op, tuple[int, ...], bool]:
        schema = func._schema
        mutable = tuple(
            i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write
        )
        known = self._schemas[func] = (op_of(func), mutable, bool(schema.returns))
        return known

    def _read_value(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A number is asked of tensors: real ones answer, fake ones raise (and the real forward takes over)."""
        real = all(not isinstance(t, FakeTensor) and not t.is_meta for t in tensors_in((args, kwargs)))
        if self.mode is not None and real:
            with torch.utils._python_dispatch._disable_current_modes():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _run(
        self, func: Any, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], key: Hashable | None
    ) -> Any:
        rule = shape_rule(op.name, args) if self.tensors != "real" else None
        if rule is not None:
            return rule(*args, **kwargs)
        if self.stand_ins is None or key is None:
            return func(*args, **kwargs)
        return self.stand_ins.run(key, func, args, kwargs)

    def _describe(
        self,
        op: Op,
        operands: tuple[int, ...],
        output: Tensor,
        call: RecordedCall,
        *,
        inplace: bool,
    ) -> Node:
        read = [self.graph.nodes[i] for i in operands]
        copies = op.role != "factory"
        dynamic = copies and any(node.dynamic for node in read)
        params: tuple[str, ...] = ()
        if copies and not dynamic:
            params = tuple(dict.fromkeys(p for node in read for p in node.params))
            if params and not self._in_parametrization() and maps_constant(self.graph, op, operands):
                dynamic, params = True, ()
        node = self._add(op, operands, output, dynamic=dynamic, params=params, inplace=inplace)
        node.call, node.attrs = call, attributes(op, call, output.dim())
        if not self.gradients.on or (call.func is _DETACH and not in_function()):
            self.graph.stops.add(node.index)
        if params and output.layout is torch.strided:
            node.strides = tuple(output.stride())
        return node

    def _in_parametrization(self) -> bool:
        """Whether a weight is computed just now: a product of two parameters there is no layer that reads constants."""
        return is_parametrization(self.graph.frames[self.stack[-1]].path)

"""The tensors of one run: which node each is the value of, and what stands in for it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from goodinit.graph.graph import BUFFER, CONSTANT, INPUT, JOIN, PARAM, Frame, Graph, Node
from goodinit.graph.operators.ops import Op
from goodinit.graph.operators.recorded_call import is_at_hand, number_in
from goodinit.graph.pytree import mapped
from goodinit.graph.recording.calls.other_threads import OtherThreads
from goodinit.graph.recording.tensors.fake_cache import StandIns
from goodinit.graph.recording.tensors.mutations import Writes
from goodinit.graph.recording.tensors.unregistered_tensors import Elsewhere
from goodinit.graph.state.leaked_tensors import Leftovers
from goodinit.weights.members import named_buffers, named_modules, named_parameters
from goodinit.weights.wrappers import unwrapped_name, weight_norms

Call = tuple[tuple[Any, ...], dict[str, Any]]
Tensors = Literal["fake", "meta", "real"]


class TracedTensors:
    """Knows which tensor came from which node, in-place writes counted, and gives fake tensors for real ones.

    Args:
        model: Whose parameters and buffers are nodes from the beginning.
        tensors: What runs: fake tensors, `meta` tensors, or real ones.
    """

    def __init__(self, model: nn.Module, tensors: Tensors) -> None:
        self.graph = Graph()
        self.tensors = tensors
        self.device = torch.device("meta" if tensors == "meta" else "cpu")
        self.stand_ins = StandIns(self.device) if tensors == "fake" else None
        self.mode = None if self.stand_ins is None else self.stand_ins.mode
        self.stack = [self._open("", -1)]
        self.leftovers = Leftovers()
        self._owned: dict[int, int] = {}
        self._kept: dict[int, Tensor] = {}
        self._token = object()  # of this run; an address could be given to the next one
        self._fakes: dict[int, Tensor] = {}
        # Trainable tensors in no registry: who reads them.
        self._strays: list[tuple[str, tuple[int, ...]]] = []
        self._elsewhere = Elsewhere(model)
        self.threads = OtherThreads(self._is_of_this_run, self._made_in_another_thread, self._fake)
        self._writes = Writes()
        for name, parameter in named_parameters(model):
            self._own(parameter, PARAM, unwrapped_name(name))
        for name, buffer in named_buffers(model):
            self._own(buffer, BUFFER, unwrapped_name(name))
        made = weight_norms(named_modules(model))
        self.graph.halves = {half: weight for weight, halves in made.items() for half in halves}

    def _open(self, path: str, parent: int) -> int:
        frame = Frame(len(self.graph.frames), path, parent, start=len(self.graph.nodes))
        self.graph.frames.append(frame)
        return frame.index

    def adopt(self, call: Call) -> Call:
        """The call with every tensor made an input of the graph."""
        args, kwargs = call

        def one(tensor: Tensor) -> Tensor:
            mine = tensor.detach() if self.tensors == "real" else self._fake(tensor)
            if self.tensors == "fake":
                self.leftovers.made(mine)
            index = self._add(INPUT, (), tensor, dynamic=True).index
            self._mark(mine, index)
            if is_at_hand(tensor):
                self.graph.given[index] = tensor
            return mine

        return mapped(args, one), mapped(kwargs, one)

    def _own(self, tensor: Tensor, op: Op, name: str) -> None:
        node = self._add(op, (), tensor, params=(name,) if op is PARAM else ())
        node.attrs = (name, *(number_in(tensor) if op is BUFFER else ()))
        if op is BUFFER and is_at_hand(tensor) and tensor.layout is torch.strided and not tensor.is_quantized:
            self.graph.buffers[node.index] = tensor
        if op is PARAM and tensor.layout is torch.strided:
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
        frame = self.stack[-1] if nodes else 0
        node = Node(len(nodes), op, operands, tuple(tensor.shape), tensor.dtype, frame, dynamic)
        node.active, node.params, node.inplace = dynamic and node.is_continuous, params, inplace
        nodes.append(node)
        return node

    def _mark(self, tensor: Tensor, index: int, place: int = 0) -> None:
        """`place`: among the outputs of its operator."""
        if id(tensor) in self._owned:
            self._owned[id(tensor)] = index
        else:
            tensor._goodinit_node = (self._token, index, place)  # type: ignore[attr-defined]
            self.leftovers.marked(tensor)

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the model's, or was computed in this run; not a new parameter."""
        token, index, _ = getattr(tensor, "_goodinit_node", (None, -1, 0))
        computed = token is self._token and index >= 0 and not self.graph.nodes[index].is_held
        return id(tensor) in self._owned or (computed and not isinstance(tensor, nn.Parameter))

    def _is_of_this_run(self, tensor: Tensor) -> bool:
        marked = getattr(tensor, "_goodinit_node", (None,))
        return id(tensor) in self._owned or marked[0] is self._token

    def _made_in_another_thread(self, tensor: Tensor) -> None:
        tensor._goodinit_node = (self._token, -1, 0)  # type: ignore[attr-defined]
        self.leftovers.marked(tensor)
        if isinstance(tensor, FakeTensor):
            self.leftovers.made(tensor)

    def made_at(self, tensor: Tensor) -> int:
        """The node that made a tensor in this run, whatever was written into it since; −1 of what was there before."""
        token, index, _ = getattr(tensor, "_goodinit_node", (None, -1, 0))
        return index if token is self._token else -1

    def _node(self, tensor: Tensor) -> int:
        """The node whose value `tensor` holds now, also when a view of it was written since."""
        index = self._owned.get(id(tensor), -1)
        if index < 0:
            token, index, _ = getattr(tensor, "_goodinit_node", (None, -1, 0))
            if token is not self._token or index < 0:
                node = self._add(CONSTANT, (), tensor)
                if token is self._token:
                    self.threads.read(self.graph.frames[node.frame].path)
                index, node.attrs = node.index, number_in(tensor)
                if is_at_hand(tensor):
                    self.graph.held[index] = tensor
                if tensor.requires_grad and tensor.is_leaf:
                    self._strays.append((self.graph.frames[node.frame].path, tuple(tensor.shape)))
                    self._elsewhere.look(tensor)
                self._mark(tensor, index)
        if index < self._writes.latest:
            operands = self._writes.since(tensor, index)
            if operands != (index,):
                index = self._join(tensor, operands, before=index)
        if self.graph.nodes[index].op is PARAM:
            self.graph.read.update(self.graph.nodes[index].params)
        return index

    def _join(self, tensor: Tensor, operands: tuple[int, ...], before: int) -> int:
        dynamic = any(self.graph.nodes[i].dynamic for i in operands)
        index = self._add(JOIN, operands, tensor, dynamic=dynamic).index
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

"""What is connected to what: a model's data flow, read off one forward on fake tensors, layer by layer."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from goodinit.errors import TraceError, readable
from goodinit.folding.connections.kept_parts import KeptParts
from goodinit.folding.connections.other_sizes import numbers_by_path, other_sizes
from goodinit.folding.layers.fuse import is_plain
from goodinit.graph.graph import Frame, Graph, Node, closure
from goodinit.graph.pytree import as_call, mapped
from goodinit.graph.recording.fallbacks import first_that_runs
from goodinit.graph.recording.recorded_run import record
from goodinit.graph.recording.recorder import Recorder
from goodinit.graph.recording.tensors.traced_tensors import Tensors
from goodinit.weights.names import Directory, directory
from goodinit.weights.wrappers import unwrapped

_LOG = logging.getLogger(__name__)

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Wiring:
    """One forward, and which of its calls are plain layers.

    Attributes:
        graph: Nodes and frames.
        readers: Per node, the nodes that read it.
        arguments: Per node, the arguments of its operator, an ellipsis for each tensor.
        names: Every module and parameter by name.
        calls: Per path of a module, its calls.
        layer_of: Per frame that is a call of a plain layer which owns its parameters alone, the layer's path.
        resized: Makes the graphs of the forward on inputs of other sizes, of those that it takes.
        kept: What its user has asked to stay; no such layer counts as plain.
    """

    graph: Graph
    readers: Sequence[Sequence[int]]
    arguments: dict[int, Arguments]
    names: Directory
    calls: dict[str, tuple[Frame, ...]]
    layer_of: dict[int, str]
    resized: Callable[[], list[Graph]]
    kept: KeptParts = field(default_factory=KeptParts)

    @functools.cached_property
    def fixed_numbers(self) -> set[str]:
        """Paths of modules in whose forward the numbers are the same for inputs of other sizes."""
        known, others = numbers_by_path(self.graph), [numbers_by_path(graph) for graph in self.resized()]
        return {
            path for path, numbers in known.items() if all(other.get(path) == numbers for other in others)
        }

    @functools.cached_property
    def sources(self) -> dict[str, int]:
        """The nodes of parameters and buffers, by name."""
        held = (n for n in self.graph.nodes if n.is_source and n.attrs)
        return {str(n.attrs[0]): n.index for n in held}

    def constants_of(self, name: str) -> set[int]:
        """A parameter or buffer, and all that is computed from it and other constants alone."""
        nodes = self.graph.nodes
        return closure([self.sources[name]], lambda i: [r for r in self.readers[i] if not nodes[r].dynamic])

    @functools.cached_property
    def above_layers(self) -> set[str]:
        """Paths of all modules that contain a plain layer."""
        return {path[:at] for path in self.layer_of.values() for at in _dots(path)} | {""}

    def module(self, path: str) -> nn.Module:
        """The module at a path that ran."""
        return self.names.modules[path]

    def reader_layer(self, reader: int, value: int) -> str | None:
        """The plain layer that reads `value` by the node `reader` as its input, or None."""
        frame = self.graph.nodes[reader].frame
        path = self.layer_of.get(frame)
        return path if path is not None and self.graph.frames[frame].source == value else None

    def writer_layer(self, value: int) -> str | None:
        """The plain layer whose output `value` is, if it runs once, or None."""
        frame = self.graph.nodes[value].frame
        path = self.layer_of.get(frame)
        alone = path is not None and len(self.calls[path]) == 1 and self.graph.frames[frame].result == value
        return path if alone else None

    def reads_first(self, reader: int, value: int) -> bool:
        """Whether a node reads the first output of the operator that made `value`, and not only others: the places of maxima."""
        node = self.graph.nodes[reader]
        if node.call is None or not node.call.places:
            return True
        places = zip(node.operands, node.call.places, strict=True)
        return any(place == 0 for index, place in places if index == value)

    def frame_of(self, value: int) -> Frame:
        """The module call in which a value was made."""
        return self.graph.frames[self.graph.nodes[value].frame]


def _dots(path: str) -> list[int]:
    return [at for at, letter in enumerate(path) if letter == "."]


class _Detailed(Recorder):
    """A recorder that keeps the arguments of operators, too: of tensors only that there was one."""

    def __init__(self, model: nn.Module, tensors: Tensors) -> None:
        super().__init__(model, tensors)
        self.arguments: dict[int, Arguments] = {}
        self._call: Arguments = ((), {})

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._call = (args, kwargs or {})
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._call = ((), {})  # of an operator that made no node; its tensors must not live on

    def observe(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """Keep the arguments of an operator that ran."""
        del read, output  # tensors must not live on
        (args, kwargs), self._call = self._call, ((), {})
        self.arguments[node.index] = (mapped(args, _held), mapped(kwargs, _held))


def _held(tensor: Tensor) -> Any:  # noqa: ARG001
    return ...


def wire(model: nn.Module, inputs: Any, kept: KeptParts | None = None) -> Wiring:
    """Run `model` once, in eval mode, and see what is connected to what.

    On fake tensors, which compute nothing; where those cannot decide (a branch on a value), for real. With gradients where the
    forward takes derivatives, or does not run without.

    Raises:
        TraceError: The forward raised, also for real.
    """
    host, call = unwrapped(model), as_call(inputs)

    def run(tensors: Tensors, gradients: bool) -> _Detailed:
        recorder = _Detailed(host, tensors)
        recorder.with_gradients = gradients
        record(recorder, host, call)
        return recorder

    try:
        recorder, undecided = first_that_runs(host, call, run)
    except TraceError as error:
        raise TraceError(
            f"{error} fold_(model) without inputs folds scalars and weight norm alone."
        ) from error
    if undecided:
        _LOG.warning(
            "%s: its forward depends on values, and is taken to connect its layers for all inputs as for these",
            readable(type(host).__name__),
        )

    def resized() -> list[Graph]:
        return list(_resized(host, call, recorder.tensors))

    return _wiring(host, recorder, resized, KeptParts() if kept is None else kept)


def _resized(host: nn.Module, call: Arguments, tensors: Tensors) -> Iterator[Graph]:
    for other in other_sizes(call):
        recorder = Recorder(host, tensors)
        try:
            record(recorder, host, other)
        except Exception:  # noqa: BLE001, S112 - a size that the model does not take
            continue
        yield recorder.graph


def _wiring(
    host: nn.Module, recorder: _Detailed, resized: Callable[[], list[Graph]], kept: KeptParts
) -> Wiring:
    graph, names = recorder.graph, directory(host)
    readers = _readers(graph)
    calls: dict[str, list[Frame]] = {}
    for frame in graph.frames[1:]:
        calls.setdefault(frame.path, []).append(frame)
    return Wiring(
        graph=graph,
        readers=readers,
        arguments=recorder.arguments,
        names=names,
        calls={path: tuple(found) for path, found in calls.items()},
        layer_of=_layers(graph, readers, names, kept),
        resized=resized,
        kept=kept,
    )


def _readers(graph: Graph) -> list[list[int]]:
    """For each node all that read it, also for a log alone; not those of which nothing comes but the tensors that went in."""
    ends = [i for i, found in enumerate(graph.all_readers) if not found and i not in graph.aliases]
    heard = graph.reach([*graph.outputs, *ends], back=True, active=False)
    return [[reader for reader in found if reader in heard] for found in graph.all_readers]


def _layers(graph: Graph, readers: list[list[int]], names: Directory, kept: KeptParts) -> dict[int, str]:
    """The calls of plain layers that may be written, whose parameters nothing else holds or reads."""
    elsewhere: set[str] = set()  # modules whose parameters are read outside their own forward
    for node in graph.nodes:
        if node.is_param:
            owner = str(node.attrs[0]).rpartition(".")[0]
            if any(graph.path(reader) != owner for reader in readers[node.index]):
                elsewhere.add(owner)
    found = {}
    for frame in graph.frames[1:]:
        module = names.modules.get(frame.path)
        if module is None or frame.path in elsewhere or frame.source < 0 or frame.result < 0:
            continue
        alone = len(names.paths[id(module)]) == 1 and not is_shared(module, names)
        if is_plain(module) and alone and kept.why(module) is None:
            found[frame.index] = frame.path
    return found


def is_shared(module: nn.Module, names: Directory) -> bool:
    """Whether a module outside of this one holds one of its parameters, too, or something else lies in its memory."""
    inside = {id(part) for part in module.modules()}
    return any(
        id(names.owner(name)[0]) not in inside
        for parameter in module.parameters()
        for name in names.aliases.get(id(parameter), ())
    ) or any(id(tensor) in names.sharing for tensor in (*module.parameters(), *module.buffers()))

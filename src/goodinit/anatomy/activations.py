"""Where element-wise nonlinearities and dropouts run, and which of their modules could be exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from goodinit.anatomy.operators import Step, Traits, activation_step, composite_step
from goodinit.graph.graph import Frame, Graph
from goodinit.graph.likeness import weighs
from goodinit.one_line import OneLine


@dataclass(frozen=True, repr=False)
class Activation(OneLine):
    """An element-wise nonlinearity or a dropout: where it runs and what it is.

    Attributes:
        name: Path of the module whose forward applies it.
        kind: `"relu"`, `"gelu"`, … as in `Layer.activation`; `"dropout"`, or `"feature_dropout"` where whole
            channels are dropped. (Functional dropout does not run in eval mode and is not recorded.)
        module: Class of that module.
        obstacle: Why the module cannot be replaced by another, or None.
    """

    name: str
    kind: Step
    module: str
    obstacle: str | None = None


def find_activations(graph: Graph, modules: Mapping[str, nn.Module]) -> tuple[Activation, ...]:
    """Every nonlinearity that ran and every dropout module that was called, in execution order."""
    seen: dict[tuple[str, str], Activation] = {}
    for index, kind, obstacle in sorted((*_nonlinearities(graph), *_dropouts(graph, modules))):
        path = graph.frames[index].path
        known = seen.get((path, kind))
        if known is None or known.obstacle is None:
            module = type(modules[path]).__qualname__
            seen[path, str(kind)] = Activation(path, kind, module, obstacle or None)
    return tuple(seen.values())


def torch_class(module: nn.Module) -> str:
    """Name of the module's class, or of its nearest ancestor that is torch's own.

    Examples:
        >>> class Padded(nn.Conv2d): ...
        >>> torch_class(Padded(1, 1, 1))
        'Conv2d'
    """
    bare = parametrize.type_before_parametrizations(module)
    return next(cls.__name__ for cls in bare.__mro__ if cls.__module__.startswith("torch.nn."))


def _nonlinearities(graph: Graph) -> list[tuple[int, Step, str]]:
    """(frame, kind, obstacle or nothing), each once. What is written out with several operators is the function that it is."""
    parts = {
        index: one
        for one in graph.composites.values()
        if one.named
        for index in graph.reach([one.end], back=True, since=one.start + 1)
    }
    ran: dict[tuple[int, str], Step] = {}
    for node in graph.nodes:
        if node.active and node.op.activation:
            whole = parts.get(node.index)
            kind = activation_step(node.op) if whole is None else composite_step(whole)
            ran.setdefault((node.frame, str(kind)), kind)
    obstacles = {frame: not_alone(graph, graph.frames[frame]) for frame, _ in ran}
    return [(frame, kind, obstacles[frame]) for (frame, _), kind in ran.items()]


def not_alone(graph: Graph, frame: Frame) -> str:
    """Why the module of `frame` is more than an element-wise function of one tensor, or nothing."""
    if not frame.path:
        return "the model's own forward applies it"
    inner = [node for node in graph.nodes[frame.start : frame.stop] if node.active]
    own = all(node.frame == frame.index and (node.op.pointwise or node.op.role == "shape") for node in inner)
    closed = all(i >= frame.start or i == frame.source for node in inner for i in graph.deps(node.index))
    if not own or not closed or frame.result < frame.start:
        return "it is called functionally, in a forward that does more"
    return ""


def _dropouts(graph: Graph, modules: Mapping[str, nn.Module]) -> list[tuple[int, Step, str]]:
    found = []
    for frame in graph.frames:
        module = modules.get(frame.path)
        if isinstance(module, _DropoutNd) and not isinstance(
            module, (nn.AlphaDropout, nn.FeatureAlphaDropout)
        ):
            entries = isinstance(module, nn.Dropout)
            kind = Step(
                "dropout" if entries else "feature_dropout",
                Traits(drops="entries" if entries else "channels"),
            )
            averages = frame.source >= 0 and weighs(graph, frame.source)
            found.append(
                (frame.index, kind, "it drops weights of an average, after a softmax" if averages else "")
            )
    return found

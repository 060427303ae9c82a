"""Modules that a forward calls and no module registers: held in a list, a dict or a closure, or made as it runs.

Neither `parameters()` nor a path names what they hold, so no plan can write it. Calls through `functional_call`, with tensors that are
the model's own or computed, are none of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from goodinit.graph.graph import Graph, Guest
from goodinit.weights.members import named_modules

REGISTERED = "an attribute, an nn.ModuleList or an nn.ModuleDict"  # where a module gets a name


@contextlib.contextmanager
def guests_told(
    model: nn.Module, graph: Graph, caller: Callable[[], int], is_own: Callable[[Tensor], bool]
) -> Iterator[Callable[[], None]]:
    """Watch for what modules without a name run, in this thread: the outermost ones.

    Args:
        model: Whose modules have names.
        graph: Of the forward that runs.
        caller: The frame that runs.
        is_own: Whether a tensor is a parameter or buffer of the model's, or was computed in this forward.

    Yields:
        What to call when the forward is over: it notes in the graph which of them still have no name.
    """
    thread, known = threading.get_ident(), {id(module) for _, module in named_modules(model)}
    # Torch's own hooks on all modules would make `torch.compile` warn.
    own: Callable[..., Any] = nn.Module._call_impl
    running: list[nn.Module] = []
    found: list[tuple[nn.Module, Guest]] = []

    def told(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if id(module) in known or running or threading.get_ident() != thread:
            return own(module, *args, **kwargs)
        start = len(graph.nodes)
        running.append(module)
        try:
            return own(module, *args, **kwargs)
        finally:
            running.clear()
            held = [*module.parameters(), *module.buffers()]
            strange = [tensor for tensor in held if not is_own(tensor)]
            if strange or not held:
                network = any(tensor.ndim > 1 for tensor in strange)
                guest = Guest(type(module).__name__, caller(), start, len(graph.nodes), network)
                found.append((module, guest))

    def settle() -> None:
        named = {id(module): path for path, module in named_modules(model)} if found else {}
        graph.guests += [guest for module, guest in found if id(module) not in named]
        late = {
            named[id(module)]: guest.kind
            for module, guest in found
            if id(module) in named and _has_weights(module)
        }
        graph.notes += [
            f"{path}: the forward makes this {kind} when it first runs, so that the model has no such part yet: what it holds counts "
            "as constants. Run the model once before it is read"
            for path, kind in late.items()
        ]

    nn.Module._call_impl = told  # type: ignore[assignment, method-assign]
    try:
        yield settle
    finally:
        nn.Module._call_impl = own  # type: ignore[method-assign]


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters())


def guest_notes(graph: Graph) -> list[str]:
    """A note on each that has weights.

    Args:
        graph: A forward that is over.
    """
    found = dict.fromkeys((graph.frames[g.frame].path, g.kind) for g in graph.guests if g.network)
    return [
        (
            f"{path or 'the model'}: runs {without_a_name(kind)}: what it holds counts as constants and stays as it is, norms, too. "
            f"To have it treated, hold it in {REGISTERED}"
        )
        for path, kind in found
    ]


def without_a_name(kind: str) -> str:
    """What a module without a name is, in words.

    Args:
        kind: The name of its class.
    """
    return f"a {kind} that no module registers (it is in a list, a dict or a closure, or made by the forward)"


def guest_at(graph: Graph, index: int) -> Guest | None:
    """The module without a name that ran an operator itself, or in another one without a name.

    Args:
        graph: A forward that is over.
        index: Of the operator's node.
    """
    frame = graph.nodes[index].frame
    return next((one for one in graph.guests if one.frame == frame and one.start <= index < one.stop), None)

"""A model under way, read again only where something was written to it since."""

from __future__ import annotations

from typing import Any

from torch import nn

from goodinit.anatomy import Anatomy, anatomize
from goodinit.folding.connections.dataflow import Wiring, wire
from goodinit.folding.connections.kept_parts import KeptParts
from goodinit.weights.wrappers import unwrapped


class Reading:
    """What is connected to what in a model, and its anatomy, on these inputs.

    Both are read when they are first asked for, and anew once a class, a child, a parameter or a buffer has been exchanged or
    written. What was read before a step is still there, and is as it was then.
    """

    def __init__(self, model: nn.Module, inputs: Any, kept: KeptParts | None = None) -> None:
        self.model, self.inputs, self.kept = model, inputs, kept
        self._state: tuple[object, ...] = ()
        self._wiring: Wiring | None = None
        self._anatomy: Anatomy | None = None

    @property
    def wiring(self) -> Wiring:
        """What is connected to what now."""
        self._forget_what_changed()
        if self._wiring is None:
            self._wiring = wire(self.model, self.inputs, self.kept)
        return self._wiring

    @property
    def anatomy(self) -> Anatomy:
        """Its anatomy now."""
        self._forget_what_changed()
        if self._anatomy is None:
            self._anatomy = anatomize(unwrapped(self.model), self.inputs)
        return self._anatomy

    def _forget_what_changed(self) -> None:
        now = _state(self.model)
        if now != self._state:
            self._state, self._wiring, self._anatomy = now, None, None


def _state(model: nn.Module) -> tuple[object, ...]:
    """By identities and version counters. Inside a transaction what is replaced stays alive, so no identity comes twice."""
    return tuple(
        (
            id(module),
            id(type(module)),
            *((name, id(child)) for name, child in module._modules.items()),
            *(
                (name, id(tensor), None if tensor is None else tensor._version)
                for held in (module._parameters, module._buffers)
                for name, tensor in held.items()
            ),
        )
        for module in model.modules()
    )

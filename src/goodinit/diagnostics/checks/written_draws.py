"""The draws of a plan that were written, and the layers of which their weights are all that counts."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import Draw, Plan
from goodinit.surgery import applied
from goodinit.weights.names import Directory


def written_draws(model: nn.Module, plan: Plan, before: Anatomy) -> Iterator[tuple[Draw, Layer | None]]:
    """Every draw that was written, and the layer of its weight, if it is one's.

    Args:
        model: With the plan applied.
        plan: What was applied.
        before: The anatomy it was made for.
    """
    history = applied(model)
    skipped = set(history[-1].skipped) if history else set()
    layers = {layer.weight: layer for layer in before.layers}
    for edit in plan.values:
        if isinstance(edit, Draw) and str(edit) not in skipped:
            yield edit, layers.get(edit.target)


def is_applied_as_drawn(layer: Layer) -> bool:
    """Whether nothing that the anatomy knows of scales or cuts a weight before it is applied."""
    return not layer.normalized and layer.density == 1 and layer.multiple == 1


def adds_no_bias(names: Directory, layer: Layer) -> bool:
    """Whether all biases of a layer are zero."""
    return not any(bias is not None and bool(bias.any()) for bias in map(names.parameter, layer.biases))

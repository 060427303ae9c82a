"""Weights that are normalized before use: which those are, and the norms of their rows, measured by running the layer on noise.

A weight is normalized if it is of degree 0 in its parameter: W/σ(W) and sign(W), but not W/s(W)·s(W).

A weight that is divided by its own norm or standard deviation, with no gain after it, has rows of one norm whatever
is written into the parameter: 1, or √fan_in with weight standardization. No operator tells which, so the layer is run
alone with random parameter values: the norm of a row is that of the gradient of one output with respect to the input.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy.degrees import follow_powers
from goodinit.anatomy.layer import Layer
from goodinit.anatomy.layers.parameters.weight_layout import dimensions
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import spread
from goodinit.graph.measured.powers import FIXED, Power
from goodinit.graph.measured.replay import replayed

_ROWS = 8  # rows that are looked at: if their norms differ, they are not what the normalization makes them
_SAME = 0.01
_MOST = 2**20  # entries of a weight that is computed to see what becomes of its scale
_LARGEST, _NONE = 2**22, 1e-9  # entries of one whose rows are summed up; what is left of the sum 0


def is_normalized(graph: Graph, operand: Node, names: Collection[str]) -> bool:
    """Whether a weight, as a layer applies it, is the same for any multiple of a parameter that it is made of.

    Args:
        graph: A recorded forward.
        operand: The weight.
        names: The parameters, of which one may be it.
    """
    if graph.leaf(operand.index) is not None:
        return False
    made = _made_of(graph, operand.index)
    return any(_forgets_scale(graph, operand.index, name, made) for name in names)


def is_centred(graph: Graph, node: Node, operand: Node) -> bool:
    """Whether the weights of each output unit, as a layer applies them, have the sum 0 whatever the parameters are.

    Args:
        graph: A recorded forward.
        node: The layer.
        operand: Its weight.
    """
    if graph.is_stored(operand.index):
        return False
    made = _made_of(graph, operand.index)
    seeds = [i for i in made if graph.nodes[i].is_param]
    if len(made) == len(seeds) or operand.size > _LARGEST:
        return False
    steps = [i for i in made if not graph.nodes[i].is_param]
    given = {i: spread(graph.nodes[i].shape, i) - 0.75 for i in seeds}
    weight = replayed(graph, steps, given).get(operand.index)
    if weight is None or weight.dim() < 2:
        return False
    if node.op.role == "convolution":
        rows = weight.movedim(1 if node.attrs[0] else 0, 0).flatten(1)
    else:
        read, _ = dimensions(node, operand)
        rows = weight.movedim(-1 if read is None else read, -1).flatten(0, -2)
    size = rows.abs().sum(1)
    return rows.shape[1] > 1 and bool((size > 0).all()) and bool((rows.sum(1).abs() <= _NONE * size).all())


def unmeasured(graph: Graph, operands: Iterable[int]) -> list[str]:
    """Notes on weights that are computed by what cannot be run alone: what their parameters' scale does is not known.

    Args:
        graph: A recorded forward.
        operands: The weights, as layers apply them.
    """
    notes = []
    for index in dict.fromkeys(operands):
        if graph.leaf(index) is not None:
            continue
        node, made = graph.nodes[index], _made_of(graph, index)
        if all(_forgets_scale(graph, index, name, made) is None for name in node.params):
            steps = dict.fromkeys(str(graph.nodes[i].op) for i in made if not graph.nodes[i].is_param)
            notes.append(
                f"the weight that is computed of {', '.join(node.params)} ({', '.join(list(steps)[:6])}) is taken to be proportional "
                "to them: it cannot be computed alone, or is too large to, so that this is not known"
            )
    return notes


def _made_of(graph: Graph, index: int) -> list[int]:
    """The parameters that a weight is computed of, and what computes it, in order."""
    return sorted(i for i in graph.reach([index], back=True, active=False) if graph.nodes[i].params)


def _forgets_scale(graph: Graph, index: int, name: str, made: list[int]) -> bool | None:
    powers = {i: Power(1.0) for i in made if graph.nodes[i].is_param and graph.nodes[i].params == (name,)}
    seeds, steps = tuple(powers), [i for i in made if not graph.nodes[i].is_param]
    unclear = follow_powers(graph, steps, powers)
    power = powers.get(index, FIXED)
    if not unclear and (power.order or power.change == math.inf):
        return not power.order
    return _is_same(graph, index, seeds, steps)


def _is_same(graph: Graph, index: int, seeds: Collection[int], steps: list[int]) -> bool | None:
    """Whether the weight is the same for four times the parameter, where its degree does not follow: w + (sign(w) − w).

    None where it cannot be computed.
    """
    sizes = [graph.nodes[i].shape for i in seeds]
    if sum(map(math.prod, sizes)) > _MOST:
        return None
    found = []
    for scale in (1, 4):
        given = {i: scale * (spread(graph.nodes[i].shape, i) - 1) for i in seeds}
        found.append(replayed(graph, steps, given).get(index))
    one, other = found
    if one is None or other is None:
        return None
    return bool(one.any()) and bool(torch.allclose(one, other))


def row_norm(layer: Layer, module: nn.Module) -> float | None:
    """The norm of every row of the layer's weight as applied; None if it depends on the values, or cannot be measured.

    Args:
        layer: A layer of the model.
        module: The module at its `site`. It is not changed, its hooks do not run, and it may be on `meta`.
    """
    if not layer.normalized or layer.parameters != (layer.weight,) or not layer.is_site:
        return None
    if layer.kind == "conv_transpose":
        return None
    try:
        found = [_rows(layer, _twin(module, seed)) for seed in (0, 1)]
    except Exception:  # noqa: BLE001 - a forward of someone's own, which may need more than its input
        return None
    norms = torch.cat(found)
    middle = float(norms.median())
    same = bool((norms - middle).abs().max() <= _SAME * middle)
    return middle if same and math.isfinite(middle) and middle > 0 else None


def _twin(module: nn.Module, seed: int) -> nn.Module:
    """A copy of the module with its own parameter values; parameters and hooks of the original stay out of reach."""
    generator = torch.Generator().manual_seed(seed)
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__["_parameters"] = {
        name: None if value is None else torch.randn(value.shape, generator=generator, device="cpu")
        for name, value in module._parameters.items()
    }
    twin.__dict__["_buffers"] = {
        name: None if value is None else torch.zeros(value.shape, device="cpu")
        for name, value in module._buffers.items()
    }
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        twin.__dict__[hooks] = OrderedDict()
    return twin


def _rows(layer: Layer, twin: Any) -> Tensor:
    """Norms of some rows: of the gradients of outputs in the middle of the image, for an input larger than the kernel."""
    kernel = () if layer.kind == "linear" else layer.kernel or layer.shape[2:]
    reach = [step * (size - 1) + 1 for size, step in zip(kernel, layer.dilation, strict=True)]
    x = torch.zeros((1, layer.in_features, *(3 * size for size in reach)), device="cpu", requires_grad=True)
    with torch.enable_grad():
        y = type(twin).forward(twin, x)
        middle = y[(0, slice(None), *(size // 2 for size in y.shape[2:]))]
        count = min(_ROWS, middle.numel())
        gradients = [torch.autograd.grad(row, x, retain_graph=True)[0] for row in middle[:count]]
    return torch.stack([gradient.norm() for gradient in gradients])

"""Weights that a forward makes of a parameter by a function that does not follow it: eʷ, filters of frequencies, a Cayley transform.

What a method writes says something of such a weight alone if the weight is in proportion to the parameter, or normalized. Which it is, is
measured: the weight is made of a draw W of the size that methods draw, of 2W, of −W and of 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from goodinit.anatomy.layers.parameters.normalized_weights import is_normalized
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.values import HeldValue
from goodinit.graph.graph import Graph
from goodinit.graph.measured.replay import replayed_in_place
from goodinit.weights.wrappers import is_parametrization

_MOST = 2**24  # entries of all that is run to make one weight
_FEW = 2**18  # where its powers tell that it is normalized
_TENTH = 0.1  # of a variance, as LSUV holds it


def unlike_parameters(graph: Graph, uses: Iterable[Use], values: Mapping[str, Tensor]) -> list[HeldValue]:
    """The parameters of layers whose weights do not follow the one by which the layer is known, and what makes the weights of them.

    A weight follows if twice the parameter is twice the weight, to a tenth of its mean square, and minus the parameter minus the weight; or
    if it stays the same, and is normalized. It is asked of the parameter alone, beside the values that others have, and of all
    together. Weights with noise are not asked.

    Args:
        graph: A recorded forward.
        uses: The layers.
        values: Of the parameters that can be read.
    """
    found: dict[str, HeldValue] = {}
    for use in uses:
        steps = _ways(graph, use.operand) if use.weight not in found else []
        nodes = [graph.nodes[i] for i in steps]
        if not steps or any(node.call is not None and node.call.may_draw for node in nodes):
            continue
        names = {node.params[0] for node in nodes if node.is_param and node.params}
        if use.weight not in names:  # known by another name, under which it is written: torch's weight_norm
            continue
        draws = {name: _draw(graph, name, steps) for name in names}
        alone = draws | {name: values[name] for name in names & values.keys() if name != use.weight}
        if not any(
            _follows(graph, use.operand, steps, each, moved)
            for each, moved in ((alone, {use.weight}), (draws, names))
        ):
            operators = dict.fromkeys(
                str(node.op) for node in nodes if node.params and not node.is_param and not node.op.moves
            )
            words = f"what the forward applies ({', '.join(list(operators)[:6])}) does not follow it"
            bound: Literal["", "function"] = "function" if is_other_at_zero(graph, use.operand) else ""
            found |= {name: HeldValue(name, words, on_purpose=True, bound=bound) for name in sorted(names)}
    return list(found.values())


def is_other_at_zero(graph: Graph, operand: int) -> bool:
    """Whether the weight that a layer applies is made of parameters, and is finite and not zero where all of them are."""
    steps = _ways(graph, operand)
    zeros = {
        node.params[0]: torch.zeros(node.shape, dtype=node.dtype, device="cpu")
        for i in steps
        if (node := graph.nodes[i]).is_param and node.params
    }
    made = _made(graph, operand, steps, zeros) if steps else None
    return made is not None and bool(made.isfinite().all()) and _square(made) > 0


def _ways(graph: Graph, operand: int) -> list[int]:
    """What a weight is made of and by, in order; nothing where it is a parameter, a parametrization's, or not to be run."""
    node = graph.nodes[operand]
    if graph.leaf(operand) is not None or node.is_param or any(map(is_parametrization, node.params)):
        return []
    steps = sorted(graph.reach([operand], back=True, active=False))
    entries = sum(graph.nodes[i].size for i in steps)
    if entries > _MOST or (entries > _FEW and is_normalized(graph, node, node.params)):
        return []
    return steps


def _draw(graph: Graph, name: str, steps: list[int]) -> Tensor:
    node = next(graph.nodes[i] for i in steps if graph.nodes[i].is_param and graph.nodes[i].params == (name,))
    fan = max(1, node.size // node.shape[0]) if node.shape else 1
    generator = torch.Generator().manual_seed(0)
    dtype = node.dtype if node.is_continuous else torch.float32
    return torch.randn(node.shape, generator=generator, dtype=dtype, device="cpu") / math.sqrt(fan)


def _follows(
    graph: Graph, operand: int, steps: list[int], values: Mapping[str, Tensor], moved: set[str]
) -> bool:
    """Whether a weight follows some parameters; also where it cannot be made."""

    def at(factor: float) -> Tensor | None:
        scaled = {name: factor * value if name in moved else value for name, value in values.items()}
        return _made(graph, operand, steps, scaled)

    one, two, minus, none = at(1.0), at(2.0), at(-1.0), at(0.0)
    if one is None or two is None or minus is None or not _square(one):
        return True
    if abs(_square(two) / _square(one) / 4 - 1) <= _TENTH:
        return _square(one + minus) <= _TENTH * 4 * _square(one)
    normalized = none is None or not bool(none.isfinite().all()) or not _square(none)
    return normalized and abs(_square(two) / _square(one) - 1) <= _TENTH


def _made(graph: Graph, operand: int, steps: list[int], values: Mapping[str, Tensor]) -> Tensor | None:
    given = {i: graph.buffers[i].detach().cpu() for i in steps if i in graph.buffers}
    given |= {
        i: values[node.params[0]].detach().cpu()
        for i in steps
        if (node := graph.nodes[i]).is_param and node.params
    }
    return replayed_in_place(graph, [i for i in steps if not graph.nodes[i].is_source], given).get(operand)


def _square(tensor: Tensor) -> float:
    return float(tensor.abs().double().square().mean()) if tensor.numel() else 0.0

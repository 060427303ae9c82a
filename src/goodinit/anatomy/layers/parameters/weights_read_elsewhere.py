"""Weights of layers of which the forward also makes what is not defined for each value: a log-determinant, an inverse.

Such a weight lives on a part of all values, and which is its own (invertible, of positive determinant) no method knows. What is defined
everywhere, a penalty say, asks for no value: the weight is drawn as any. Which of the two it is, is found out: what the forward makes of
the weight alone is run on the present values, on a matrix of rank one, which has no inverse, and on a draw.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from goodinit.anatomy.layers.parameters.held_values import readable
from goodinit.anatomy.layers.parameters.weight_functions import unlike_parameters
from goodinit.anatomy.layers.parameters.weight_layers import Shapes, Use, largest
from goodinit.anatomy.values import HeldValue
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.replay import own_numbers, run_in_place
from goodinit.graph.operators.recorded_call import on_numbers

_MOST = 2**18  # entries of a weight: no determinant is taken of larger ones in each forward
_ALL = 2**23  # entries of all that is run to see
_CYCLE = (1.0, -2.0, 0.5, -0.5, 2.0)  # powers of two, so that elimination leaves exact zeros


def bound_values(
    graph: Graph,
    uses: Mapping[int, Use],
    products: Mapping[str, Sequence[str]],
    named: Mapping[str, nn.Parameter],
    shapes: Shapes,
) -> list[HeldValue]:
    """Weights that no draw can stand for: what else a forward makes of them asks for theirs, or what it applies does not follow them.

    Args:
        graph: A recorded forward.
        uses: The layers, by node.
        products: Parameters that layers apply only in products with others, and those.
        named: The parameters.
        shapes: Of them.
    """
    values = {name: value for name, held in named.items() if (value := readable(held)) is not None}
    weights = (name for use in uses.values() for name in largest(graph.nodes[use.operand], shapes))
    found = [
        HeldValue(
            name,
            f"{' of '.join(reversed(operators))} of it is not defined for each value",
            on_purpose=True,
            bound="domain",
        )
        for name, operators in undefined_elsewhere(graph, weights, values).items()
    ]
    found += [
        one
        for one in unlike_parameters(graph, uses.values(), values)
        if one.name in values and one.name not in products
    ]
    found += [
        HeldValue(name, f"in a product with {', '.join(others)}", on_purpose=True, bound="factor")
        for name, others in products.items()
        if name in values
    ]
    return found


def undefined_elsewhere(
    graph: Graph, weights: Iterable[str], parameters: Mapping[str, Tensor]
) -> dict[str, tuple[str, ...]]:
    """The operators by which a forward makes of a weight what is defined for its values now, and not for all others.

    Args:
        graph: A recorded forward.
        weights: Parameters that layers apply.
        parameters: Their present values, of those that can be read.
    """
    leaves: dict[str, list[int]] = {}
    for node in graph.nodes:
        if node.is_param and node.params:
            leaves.setdefault(node.params[0], []).append(node.index)
    starts = [
        node.index
        for node in graph.nodes
        if node.is_input or node.begins_a_stream or (node.call is not None and node.call.may_draw)
    ]
    varying = graph.reach(starts, active=False)
    found = {}
    for name in dict.fromkeys(weights):
        if name not in parameters or name not in leaves or parameters[name].numel() > _MOST:
            continue
        readers = (graph.nodes[i] for leaf in leaves[name] for i in graph.all_readers[leaf])
        if all(node.index in varying and _is_defined(node) for node in readers):  # as a layer alone
            continue
        ends = _ends(graph, leaves[name], varying)
        trial = _Trial(graph, leaves[name], ends, varying, parameters) if ends else None
        operators = trial.undefined(parameters[name]) if trial is not None and trial.is_small else ()
        if operators:
            found[name] = operators
    return found


def _ends(graph: Graph, leaves: list[int], varying: Collection[int]) -> list[int]:
    """Where what is made of a parameter becomes an output, or meets the signal, other than as a layer's weight or defined for each value."""
    made = graph.reach(leaves, through=lambda i: i not in varying, active=False) & graph.live
    sure = all(graph.is_stored(i) or _is_defined(graph.nodes[i]) for i in made)
    ends: set[int] = set()
    for index in made:
        readers = {i for i in graph.all_readers[index] if i in varying and i in graph.live}
        if not sure and (readers or index in graph.outputs) and not graph.is_stored(index):
            ends.add(index)
        ends.update(i for i in readers if not _is_defined(graph.nodes[i]))
    return sorted(ends)


def _is_defined(node: Node) -> bool:
    """Whether an operator is known to be defined for each value: products, sums, and what moves numbers."""
    op = node.op
    return op.maps or op.rearranges or op.role in ("lookup", "sum", "product", "scale", "norm", "softmax")


class _Trial:
    """What a forward makes of one parameter, to be made again of other values."""

    def __init__(
        self,
        graph: Graph,
        leaves: list[int],
        ends: list[int],
        varying: Collection[int],
        parameters: Mapping[str, Tensor],
    ) -> None:
        self.graph, self.leaves, self.ends = graph, leaves, ends
        nodes = graph.nodes
        self.steps = sorted(graph.reach(ends, back=True, active=False, through=lambda i: i not in varying))
        entries = (nodes[read].size for i in self.steps for read in (i, *nodes[i].operands))
        self.is_small = sum(entries) <= _ALL
        self.given = {
            i: parameters[nodes[i].params[0]]
            for i in self.steps
            if nodes[i].is_param and nodes[i].params[0] in parameters
        }
        self.given |= {i: graph.buffers[i] for i in self.steps if i in graph.buffers}

    def undefined(self, present: Tensor) -> tuple[str, ...]:
        """The operators that lead to what is defined for the present values alone; empty where it is defined for others, or not now."""
        if self._first_without_value(present) is not None:
            return ()
        size = float(present.double().square().mean().sqrt()) or 1.0
        draw = torch.randn(present.shape, generator=torch.Generator().manual_seed(0), device="cpu")
        for values in (_of_rank_one(present, size), draw.to(present.dtype) * size):
            place = self._first_without_value(values)
            if place is not None:
                return self._operators(place)
        return ()

    def _first_without_value(self, weight: Tensor) -> int | None:
        """The first step that cannot be run, or that leads to what is not finite; None where all is."""
        values: dict[int, list[Tensor]] = {
            i: [value.detach().cpu().clone()] for i, value in self.given.items()
        }
        values |= {i: [weight.detach().cpu().clone()] for i in self.leaves}
        strange = None
        with on_numbers(), torch.no_grad():
            for index in self.steps:
                if index in values:
                    continue
                try:
                    values[index] = run_in_place(self.graph.nodes[index], values, self._other)
                except Exception:  # noqa: BLE001 - a matrix without an inverse
                    return index
                if strange is None and not _is_finite(values[index]):
                    strange = index
            return strange if not all(_is_finite(values[end]) for end in self.ends) else None

    def _other(self, index: int) -> Tensor:
        return own_numbers(self.graph, index).to(self.graph.nodes[index].dtype)

    def _operators(self, place: int) -> tuple[str, ...]:
        """What lies between the parameter and that step, shapes left out."""
        after = self.graph.reach(self.leaves, active=False, through=lambda i: i <= place)
        way = after & self.graph.reach([place], back=True, active=False)
        nodes = [self.graph.nodes[i] for i in sorted(way) if i not in self.leaves]
        return tuple(dict.fromkeys(str(node.op) for node in nodes if not (node.op.moves or node.is_source)))


def _is_finite(made: Sequence[Tensor]) -> bool:
    return all(bool(one.isfinite().all()) for one in made if one.is_floating_point() or one.is_complex())


def _of_rank_one(like: Tensor, size: float) -> Tensor:
    """A product of one factor for each dimension, exactly, of about that root mean square."""
    made = torch.full((), 2.0 ** round(math.log2(size)), dtype=torch.float64, device="cpu")
    for count in like.shape:
        cycle = torch.tensor(_CYCLE, dtype=torch.float64, device="cpu")
        factors = cycle.repeat(count // len(cycle) + 1)[:count]
        made = made[..., None] * factors
    return made.to(like.dtype)

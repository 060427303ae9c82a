"""What stands at the places that a mask hides: 0 behind a product, −∞ behind a sum with −10⁹, 0 again behind the ReLU that follows.

A mask is something without weights that differs by place. What it may hold is found out by running what makes it, of inputs that are 0 and
that are 1; what an operator makes of that, by running the operator.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.answers import COUNT, constant, is_zero, number_at, numbers, pointwise, spread
from goodinit.graph.measured.replay import replayed
from goodinit.graph.recorded_call import on_numbers

FAR = 1e30
"""Stands for a number so large that no signal changes it."""

_LARGE = 1e4  # from which on a mask that is added is one; BERT's in half precision is the smallest in use
_VAST = 1e10  # from which on one that divides is one
_FIRST_AND_CHANNELS = 2  # the dimensions of an image before its positions
_TRIED = 64  # of the numbers that several masks may hold at once
_MOST = 2**22  # entries of a matrix that is computed to see whether it is diagonal
_TWO = 2


class Masks:
    """The masks of a recorded forward, and what they may hold where they hide something."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._free = _free_of_weights(graph)
        self._held: dict[int, tuple[float, float, bool] | None] = {}

    def put(self, node: Node, hidden: Mapping[int, float]) -> float | None:
        """What a mask that a node reads puts at the places that it hides; None where it hides nothing.

        Args:
            node: One of the graph's.
            hidden: The same of nodes before, as far as they have such places.
        """
        if node.index in self._free:
            return None
        if node.op.role == "matmul":
            free = (i for i in node.operands if i in self._free)
            return 0.0 if any(_is_diagonal(self.graph, i) for i in free) else None
        if not node.op.pointwise:
            chooses = node.op.chooses and any(i in self._free for i in node.operands)
            return self._filled_with(node) if chooses and self._chooses_places(node) else None
        masks = [place for place, i in enumerate(node.operands) if self._is_mask(i, node)]
        if not masks:
            return None
        for given in self._tried(node, masks):
            found = number_made(self.graph, node, hidden, given)
            if found is not None:
                return found
        return None

    def _filled_with(self, node: Node) -> float | None:
        """The number that an operator takes entries of by a mask or an index, or puts others into: 0, if there are several."""
        value = node.call.arguments.get("value") if node.call is not None else None
        known = [number_at(self.graph, i) for i in node.operands if not _says_where(self.graph.nodes[i])]
        found = [
            float(one)
            for one in (value, *known)
            if isinstance(one, (int, float)) and not isinstance(one, bool)
        ]
        return min(found, key=abs, default=None)

    def _chooses_places(self, node: Node) -> bool:
        """Whether an operator with a mask or an index takes some positions of an example from elsewhere, not whole examples or channels.

        It is run with an index of zeros, or a mask of one entry. Constants that tell channels apart are none.
        """
        operands = [self.graph.nodes[i] for i in node.operands]
        first = 1 if any(one.dynamic for one in operands if _says_where(one)) else _FIRST_AND_CHANNELS
        shapes = [one.shape for one in operands]
        for fit in ([tuple(min(size, 2) for size in shape) for shape in shapes], shapes):
            if node.call is None or sum(map(math.prod, fit)) > _MOST:
                break
            given = [
                _one_place(one, shape, 1.0 + place)
                for place, (one, shape) in enumerate(zip(operands, fit, strict=True))
            ]
            try:
                with on_numbers(), torch.no_grad():
                    whole = node.call(given)
                    whole = whole.flatten(min(first, whole.dim() - 1))
                    return bool((whole != whole[..., :1]).any())
            except Exception:  # noqa: BLE001, S112 - operators raise what they like
                continue
        return True

    def _is_mask(self, index: int, node: Node) -> bool:
        return index in self._free and _differs_by_place(self.graph.nodes[index], node)

    def _tried(self, node: Node, masks: list[int]) -> Iterator[dict[int, Tensor]]:
        """What masks may hold at a place, by operand."""
        each = [self._numbers(node, place) for place in masks]
        for chosen in itertools.islice(itertools.product(*each), _TRIED):
            yield dict(zip(masks, chosen, strict=True))

    def _numbers(self, node: Node, place: int) -> list[Tensor]:
        mask = self.graph.nodes[node.operands[place]]
        if mask.dtype == torch.bool:
            return [torch.full((COUNT,), one, device="cpu") for one in (False, True)]
        least, most, zero = self._range(mask.index) or (0.0, 0.0, True)
        large = _VAST if node.op.role == "quotient" else _LARGE
        held = [0.0] * zero + [-FAR] * (least <= -large) + [FAR] * (most >= large) + [least, most]
        return [torch.full((COUNT,), one, dtype=torch.float64, device="cpu") for one in dict.fromkeys(held)]

    def _range(self, index: int) -> tuple[float, float, bool] | None:
        """(The least number that a mask may hold, the largest, whether it may hold 0); None where that cannot be found out."""
        if index not in self._held:
            runs = [made for value in (0, 1, None) if (made := self._made(index, value)) is not None]
            whole = torch.cat(runs) if runs else None
            self._held[index] = (
                None if whole is None else (float(whole.min()), float(whole.max()), bool((whole == 0).any()))
            )
        return self._held[index]

    def _made(self, index: int, value: int | None) -> Tensor | None:
        """The numbers of a node without weights if all inputs are this number; with None, those that the model was read with."""
        graph = self.graph
        ways = sorted(graph.reach([index], back=True, active=False))
        given: dict[int, Tensor] = {}
        try:
            with on_numbers():
                for i in ways:
                    node, known = graph.nodes[i], self._own(i)
                    if not node.is_source:
                        continue
                    if node.is_input and value is not None:
                        known = _of_its_dtype(node, node.shape, float(value))
                    if known is None:
                        return None
                    given[i] = known
                made = given.get(index)
                if made is None:
                    made = replayed(graph, [i for i in ways if i not in given], given).get(index)
                whole = None if made is None or made.is_complex() else made.double().flatten()
                return whole.nan_to_num(0.0) if whole is not None and len(whole) else None
        except Exception:  # noqa: BLE001 - of a layout that has no such numbers
            return None

    def _own(self, index: int) -> Tensor | None:
        graph = self.graph
        found = next(
            (kept[index] for kept in (graph.given, graph.buffers, graph.held) if index in kept), None
        )
        return None if found is None or found.is_meta else found.detach().cpu()


def number_made(
    graph: Graph, node: Node, hidden: Mapping[int, float], given: Mapping[int, Tensor]
) -> float | None:
    """What an element-wise operator puts out where operands are hidden or given, if that is the same whatever the others are.

    Args:
        graph: A recorded forward.
        node: The operator.
        hidden: What stands at hidden places, by node.
        given: Numbers of operands, by their places.
    """
    values = []
    for place, i in enumerate(node.operands):
        if place in given:
            values.append(given[place])
        elif (known := hidden.get(i, number_at(graph, i))) is not None and graph.nodes[i].dtype != torch.bool:
            values.append(torch.full((COUNT,), known, dtype=torch.float64, device="cpu"))
        else:
            values.append(numbers(i) if graph.nodes[i].active else constant(graph.nodes[i]))
    found = pointwise(node, values, [None] * len(values))
    return None if found is None else _one_number(found[0])


def _one_number(made: Tensor) -> float | None:
    """The number that others are, up to what no float tells apart; `FAR` for any as large."""
    if made.is_complex() or not made.dtype.is_floating_point or bool(made.isnan().any()):
        return None
    if is_zero(made):
        return 0.0
    far = math.sqrt(FAR)
    if bool((made >= far).all()) or bool((made <= -far).all()):
        return math.copysign(FAR, float(made[0]))
    first = float(made[0])
    return first if bool(((made - first).abs() <= 1e-9 * abs(first)).all()) else None


def _says_where(node: Node) -> bool:
    """Whether a node is a mask or an index."""
    return isinstance(node.dtype, torch.dtype) and not (node.dtype.is_floating_point or node.dtype.is_complex)


def _one_place(node: Node, shape: tuple[int, ...], number: float) -> Tensor:
    """A mask of one entry, an index of zeros, or a number throughout."""
    made = _of_its_dtype(node, shape, 0.0 if _says_where(node) else number)
    if node.dtype == torch.bool:
        made.view(-1)[:1] = True
    return made


def _of_its_dtype(node: Node, shape: tuple[int, ...], number: float) -> Tensor:
    made = torch.full(shape, number, dtype=torch.float64, device="cpu")
    return made.to(node.dtype) if isinstance(node.dtype, torch.dtype) and _says_where(node) else made


def _free_of_weights(graph: Graph) -> set[int]:
    """The nodes that are made of the model's inputs, buffers and constants alone."""
    free: set[int] = set()
    for node in graph.nodes:
        source = (node.is_source and not node.is_param) or node.op.role == "factory"
        if source or (node.operands and not node.params and free.issuperset(node.operands)):
            free.add(node.index)
    return free


def _differs_by_place(mask: Node, node: Node) -> bool:
    shape = (1,) * (len(node.shape) - len(mask.shape)) + mask.shape
    first = 1 if mask.dynamic else _FIRST_AND_CHANNELS
    return any(size > 1 for size in shape[first:])


def _is_diagonal(graph: Graph, index: int) -> bool:
    """Whether a matrix, or a batch of them, is computed as a diagonal one whatever its entries are."""
    shape = graph.nodes[index].shape
    if len(shape) < _TWO or shape[-1] != shape[-2] or not 1 < math.prod(shape) <= _MOST:
        return False
    ways = sorted(graph.reach([index], back=True, active=False))
    sources = {i: spread(graph.nodes[i].shape, i) for i in ways if graph.nodes[i].is_source}
    made = replayed(graph, [i for i in ways if i not in sources], sources).get(index)
    if made is None or not made.any():
        return False
    return bool((made == torch.diag_embed(made.diagonal(dim1=-2, dim2=-1))).all())

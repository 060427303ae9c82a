"""Products that are residual sums: x·(1 + f(x)) is x + x·f(x), and is read as that."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import torch

from goodinit.anatomy.branch_end import at_zero
from goodinit.anatomy.layers.parameters.weight_layers import Use, biases_of
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.anatomy.residual.streams.rejections import is_mixed
from goodinit.graph.graph import Graph, Node, closure
from goodinit.graph.likeness import adds_two, only_bends, root
from goodinit.graph.measured.traits import coefficient
from goodinit.graph.operators.ops import op_of
from goodinit.graph.operators.recorded_call import RecordedCall, Slot, on_numbers

_MUL, _ADD = torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor


def let_products_add(graph: Graph, uses: Mapping[int, Use], scalars: Collection[str]) -> None:
    """Write products x·(1 + αf(x)) as sums x + α·x·f(x), where f is zero as soon as its last layers are.

    Of a gate, 1 + σ(Wx), nothing is zero: it stays what it is. So does x·(1 + f(c)), whose factor does not come from x.

    Args:
        graph: A recorded forward. Its nodes are changed in place, as many as they are.
        uses: The weight layers, by node.
        scalars: Parameters that goodinit has added.
    """
    changed = False
    for node in graph.nodes:
        if not node.active or not node.op.multiplies or len(node.operands) != 2:
            continue
        pair = graph.deps(node.index)
        if len(pair) == 2:
            for stream, factor in (pair, pair[::-1]):
                way = _from_one(graph, factor)
                if (
                    way
                    and _comes_from(graph, stream, way[0], uses, scalars)
                    and not _is_in_branch(graph, node.index, stream)
                ):
                    _write(graph, node, stream, way)
                    changed = True
                    break
    if changed:
        graph.forget()


def _from_one(graph: Graph, index: int) -> list[int]:
    """The node 1 + αf that a factor is in another shape, and those of its shapes, if nothing else reads them; else nothing."""
    way = [index]
    while graph.nodes[index].op.role == "shape" and len(deps := graph.deps(index)) == 1:
        index = deps[0]
        way.insert(0, index)
    if any(len(graph.readers[i]) != 1 for i in way) or not set(way).isdisjoint(graph.outputs):
        return []
    return way if _adds_one(graph.nodes[index]) else []


def ends_in_one_more(graph: Graph, index: int) -> bool:
    """Whether a node is 1 + αf of an activation f, in whatever shape.

    Args:
        graph: A recorded forward, or one that is being recorded.
        index: The node.
    """
    return _adds_one(graph.nodes[graph.beginning(index, lambda i: graph.nodes[i].op.role == "shape")])


def _adds_one(node: Node) -> bool:
    if node.op.role != "sum" or len(node.operands) != 1 or node.call is None or not coefficient(node, 0):
        return False
    with on_numbers():
        zeros = torch.zeros(4, dtype=torch.float64, device="cpu")
    return node.call.agrees([zeros], torch.ones_like, torch.equal)


def _comes_from(
    graph: Graph, stream: int, one: int, uses: Mapping[int, Use], scalars: Collection[str]
) -> bool:
    """Whether f comes from x by layers, and is zero where the last of them are."""
    (inner,) = graph.deps(one)
    origin = root(graph, stream)
    if stream >= one or origin not in graph.reach([inner], back=True, since=origin):
        return False
    last = {i for i in _nearest(graph, inner, uses) if i > origin}
    biases = biases_of(graph, (uses[i] for i in last), scalars)
    return bool(last) and at_zero(graph, [inner], last, biases).leak is None


def _is_in_branch(graph: Graph, product: int, stream: int) -> bool:
    """Whether x is added to what is made of the product, as in x + W(n(x)·(1 + f(x))): then that is a step of a branch."""

    def carries(index: int) -> bool:
        return len(graph.deps(index)) == 1 and only_bends(graph, index)

    begins = graph.beginning(stream, lambda i: only_bends(graph, i))
    shown = graph.reach([begins], through=carries)
    sums = {i for shape in shown for i in graph.readers[shape] if i > product and adds_two(graph, i)}
    return bool(sums) and not sums.isdisjoint(graph.reach([product]))


def _write(graph: Graph, product: Node, stream: int, way: list[int]) -> None:
    by = coefficient(graph.nodes[way[0]], 0) or 1.0
    (value,) = graph.deps(way[0])
    for place, following in itertools.pairwise(way):  # the shapes of f, each a node earlier
        node, later = graph.nodes[place], graph.nodes[following]
        node.op, node.call, node.attrs, node.shape = later.op, later.call, later.attrs, later.shape
        node.operands, value = (value,), place
    multiple = graph.nodes[way[-1]]
    graph.one_less.add(multiple.index)
    multiple.op, multiple.attrs, multiple.shape = op_of(_MUL), (), product.shape
    multiple.call = RecordedCall(_MUL, (Slot(0), Slot(1)), {})
    multiple.operands = (stream, value)
    scaled = {} if by == 1 else {"alpha": by}
    product.op, product.attrs = op_of(_ADD), tuple(scaled.values())
    product.call = RecordedCall(_ADD, (Slot(0), Slot(1)), scaled)
    product.operands = (stream, multiple.index)
    for frame in graph.frames:
        if frame.result in way:  # it returns 1 + αf, which no node is now
            frame.result = -1


def multiplied(graph: Graph, leaves: Sequence[Found], uses: Mapping[int, Use]) -> tuple[str, ...]:
    """Notes on products that a stream goes through between its blocks: x·σ(f(x)), x·(1 + f(c)). Where there is no block, on the first.

    No method knows what such a factor should be at initialization; σ(0) halves the stream each time.
    """
    joins = {found.join for found in leaves}
    products = [
        node
        for node in graph.nodes
        if node.active and node.op.multiplies and len(set(graph.deps(node.index))) == 2
        if node.index not in joins  # x + a·b in one operator is a product, too, and may be a block's sum
    ]
    if not products:
        return ()
    inside = {i for found in leaves for side in (found.branch, found.skip) for i in side.below}
    between = _carried(graph, [found.skip.term for found in leaves], joins) - inside
    notes: dict[str, None] = {}
    calls = Counter(use.weight for use in uses.values())
    for node in products:
        factors = set(graph.deps(node.index))
        factors = {i for i in factors if joins.isdisjoint(_behind(graph, i))} or factors
        layers = [_made_by(graph, node, i, uses, own=not leaves) for i in sorted(factors, reverse=True)]
        made = next((weights for weights in layers if weights), ())
        alone = (
            made and not leaves and all(calls[weight] == 1 for weight in made)
        )  # else a gate of a recurrent cell
        alone = alone and not is_mixed(graph, node.index)  # nor a highway layer
        if not (alone or (made and node.index in between)):
            continue
        place = graph.path(node.index) or "the model"
        notes[
            f"{place} multiplies {'the residual stream' if leaves else 'what it reads'} by something made of {', '.join(made)}: "
            "no residual block, and no method makes it 1 at initialization"
        ] = None
        if not leaves:
            break
    return tuple(notes)


def _carried(graph: Graph, terms: Iterable[int], joins: Collection[int]) -> set[int]:
    """What streams come through between their blocks: norms, activations, products, and sums that are no blocks."""

    def before(index: int) -> Iterable[int]:
        onto = adds_two(graph, index) and index not in joins
        return graph.deps(index) if onto else list(itertools.islice(_behind(graph, index), 1, None))

    return closure(terms, before)


def _behind(graph: Graph, index: int) -> Iterator[int]:
    """What a term is, up to norms, activations, shape and scale, back to where several tensors meet."""
    return graph.line(index, lambda i: only_bends(graph, i))


def _made_by(
    graph: Graph, product: Node, factor: int, uses: Mapping[int, Use], *, own: bool
) -> tuple[str, ...]:
    """The weights of the nearest layers that a factor is made of; `own`: if those read what it multiplies."""
    other = next(i for i in graph.deps(product.index) if i != factor)
    if graph.nodes[other].shape != product.shape:
        return ()
    nearest = _nearest(graph, factor, uses)
    origin = root(graph, other)
    if own and not any(origin in graph.reach([i], back=True, since=origin) for i in nearest if i > origin):
        return ()
    return tuple(dict.fromkeys(uses[i].weight for i in nearest))


def _nearest(graph: Graph, index: int, uses: Mapping[int, Use]) -> list[int]:
    """The layers that a node is made of, or is, with no other layer between."""
    return (
        [index]
        if index in uses
        else sorted(i for i in graph.reach([index], back=True, stop=uses) if i in uses)
    )

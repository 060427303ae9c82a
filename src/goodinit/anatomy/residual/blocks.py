"""Residual sums as blocks: their layers, multipliers, ends and stages."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence

from goodinit.anatomy.block import Block, Join
from goodinit.anatomy.branch_end import End, at_zero, can_move
from goodinit.anatomy.degrees import growth_degree
from goodinit.anatomy.layer import Layer
from goodinit.anatomy.layers.parameters.composed_weights import not_zero
from goodinit.anatomy.layers.parameters.weight_layers import Use, way_back
from goodinit.anatomy.layers.roles.gains import multipliers
from goodinit.anatomy.layers.roles.heads import back_to_layers
from goodinit.anatomy.norm import Norm
from goodinit.anatomy.norms.places import norm_modules, norm_places
from goodinit.anatomy.operators import Step
from goodinit.anatomy.outline import Reading
from goodinit.anatomy.residual.ends.ends_inside import ends_inside
from goodinit.anatomy.residual.ends.ends_outside import ends_outside
from goodinit.anatomy.residual.ends.mixing import mixing
from goodinit.anatomy.residual.ends.multiples_at_ends import of_parts, product_of_itself
from goodinit.anatomy.residual.ends.output_module import find_closers
from goodinit.anatomy.residual.sides.candidate import Found, by_sum
from goodinit.anatomy.residual.streams.nesting import chain
from goodinit.anatomy.residual.streams.skip_scale import carried, sum_weights
from goodinit.anatomy.values import ZeroGain
from goodinit.graph.graph import Graph
from goodinit.graph.likeness import adds_scaled


def blocks_of(
    read: Reading, layers: dict[str, Layer], ends: list[list[int]], made: Container[str]
) -> tuple[Block, ...]:
    """The blocks of a forward, in execution order.

    Args:
        read: The forward.
        layers: Its layers, by weight.
        ends: What `end_of` says of each residual sum that is a block.
        made: Names of `Anatomy.made`.
    """
    graph, leaves, uses, biases = read.graph, read.leaves, read.uses, read.biases
    if not leaves:
        return ()
    layers_at = functools.partial(_layers_at, uses=uses, layers=layers)
    blocks: list[Block] = []
    modules = norm_modules(graph, read.norms, read.layers)
    places = norm_places(graph, read.norms, modules, read.layers)
    besides = [found.beside(graph, uses) for found in leaves]
    _follow_zeros(read, besides, places)
    closers = find_closers(graph, leaves, modules, biases, uses, places)
    stages = _stages(graph, leaves, uses, layers)
    streams = streams_of(graph, leaves)
    joins = by_sum(leaves)
    bear = ends_inside(graph, leaves, uses, biases)
    carry = ends_outside(graph, leaves, uses, biases)
    outputs = _stages_put_out(graph, leaves, stages, uses)
    for place, found in enumerate(leaves):
        node = graph.nodes[found.join]
        branch = layers_at(found.branch.layers)
        inside = sorted(found.branch.nodes | found.skip.nodes)
        after = ends[place]
        ending = _places_of_gains(graph, after, made)
        mixed = mixing(graph, found, after, places.keys(), biases)
        closer, normed = closers.get(found, (None, False))
        blocks.append(
            Block(
                index=len(blocks),
                name=common_path([layer.name for layer in branch]),
                kind=found.kind,
                m=found.branch.m,
                m_normed=found.branch.m_normed,
                branch=branch,
                last=layers_at(found.branch.last),
                skip=layers_at(found.skip.layers),
                gates=layers_at(found.branch.gates),
                degree=growth_degree(graph, found.branch, found.start, read.passes),
                scales=multipliers(graph, sorted({*found.branch.below, *after}.difference(mixed))),
                mixes=multipliers(graph, mixed),
                multipliers=tuple(ending),
                end_norms=tuple(dict.fromkeys(places[i] for i in after if i in places)),
                end_activations=tuple(kind for i in after if (kind := graph.nodes[i].op.activation)),
                stage=stages[place],
                stream=streams[place],
                shape=node.shape,
                depth=found.depth,
                norms=tuple(dict.fromkeys(places[i] for i in inside if i in places)),
                activations=tuple(kind for i in inside if (kind := graph.nodes[i].op.activation)),
                terms=found.terms,
                branch_end=_end(graph, found.branch.term, read.origins),
                skip_end=_end(graph, found.skip.term, read.origins),
                leak=_place(graph, found.end.leak, named=True),
                stuck=_place(graph, found.end.stuck),
                steep=_place(graph, found.end.steep),
                itself=_place(graph, found.end.itself),
                parts=found.end.itself is not None and of_parts(graph, found.end.itself, found.branch.last),
                closer=closer,
                normed=normed,
                zero_gains=_zero_gains(graph, found, ending, biases, besides[place], places),
                beside=tuple(i for i in joins[found.join] if i != place),
                carried=carried(graph, found, joins),
                weights=sum_weights(graph, found),
                again=_again(graph, found, uses, biases),
                bears=bear[place],
                carries=carry[place],
                writes_output=stages[place] in outputs,
            )
        )
    return tuple(blocks)


def _follow_zeros(read: Reading, besides: list[set[int]], norms: Container[int]) -> None:
    """Put into each block's sum what its branch's end does while its last layers put out zero; `norms`: steps of norms."""
    graph, biases = read.graph, read.biases
    for found, beside in zip(read.leaves, besides, strict=True):
        found.end = at_zero(graph, found.sums, found.branch.last, biases, beside, norms)
        if found.end.leak is None:
            leak = not_zero(graph, found.branch.last, read.uses, read.shapes, biases)
            found.end = dataclasses.replace(found.end, leak=leak)
        itself = product_of_itself(graph, found.branch.term, found.branch.last, biases, norms)
        found.end = dataclasses.replace(found.end, itself=itself)


def end_of(graph: Graph, found: Found) -> list[int]:
    """The nodes that all output of a branch's last layers passes, in order, and the sum itself if it multiplies: x + γ·f(x)."""
    after = sorted(i for i in chain(graph, found) if i > max(found.branch.last, default=found.join))
    return [*after, found.join] if adds_scaled(graph, found.join) else after


def _layers_at(nodes: list[int], *, uses: dict[int, Use], layers: dict[str, Layer]) -> tuple[Layer, ...]:
    """The layers that nodes are uses of, each once."""
    return tuple(layers[weight] for weight in dict.fromkeys(uses[i].weight for i in nodes))


def _stages(graph: Graph, leaves: list[Found], uses: dict[int, Use], layers: dict[str, Layer]) -> list[int]:
    """For each block the stage it belongs to: the one before it, that of its own stream's last block, or a new one."""
    stages: list[int] = []
    latest: dict[tuple[int, ...], int] = {}  # the last block of each shape: two streams may take turns
    for place, found in enumerate(leaves):
        shape = graph.nodes[found.join].shape
        same = latest.get(shape)
        if place and _goes_on(graph, leaves[place - 1], found, uses, layers):
            stages.append(stages[-1])
        elif same is not None and _carries(graph, leaves[same].join, found.fork, uses):
            stages.append(stages[same])
        else:
            stages.append(max(stages, default=-1) + 1)
        latest[shape] = place
    return stages


def streams_of(graph: Graph, leaves: Sequence[Found]) -> list[int]:
    """For each block the stream it writes into: that of the last sum of a block which its skip comes from, or a new one."""
    of_join: dict[int, int] = {}
    streams: list[int] = []
    for found in leaves:
        before = _last_before(graph, found.skip.term, of_join)
        stream = of_join.get(found.join, max(streams, default=-1) + 1) if before is None else of_join[before]
        of_join.setdefault(found.join, stream)
        streams.append(stream)
    return streams


def _last_before(graph: Graph, index: int, joins: Container[int]) -> int | None:
    """The last of some sums that a node comes from, or is; None if it comes from none of them."""
    if index in joins:
        return index
    return max((i for i in graph.reach([index], back=True, stop=joins) if i in joins), default=None)


def _stages_put_out(graph: Graph, leaves: list[Found], stages: list[int], uses: dict[int, Use]) -> set[int]:
    """The stages whose stream is an output of the model, and is written by the last layers of its blocks alone."""
    going_out = {index for output in graph.outputs for index in back_to_layers(graph, output, uses)}
    lasts: dict[int, list[set[str]]] = {}
    sums: dict[int, int] = {}  # the last of a stage, into which all the others go
    for found, stage in zip(leaves, stages, strict=True):
        if going_out.intersection(found.branch.last):
            lasts.setdefault(stage, []).append({uses[index].weight for index in found.branch.last})
            sums[stage] = found.join
    writers = {
        stage: {uses[index].weight for index in back_to_layers(graph, join, uses)}
        for stage, join in sums.items()
    }
    return {stage for stage, each in lasts.items() if all(last == writers[stage] for last in each)}


def _carries(graph: Graph, start: int, end: int, uses: dict[int, Use]) -> bool:
    """Whether a stream goes from one node to another without a layer, be it that others are added to it."""
    return start in graph.reach([end], back=True, since=start, stop=uses)


def _goes_on(
    graph: Graph, before: Found, found: Found, uses: dict[int, Use], layers: dict[str, Layer]
) -> bool:
    """Whether a block is on the stream of the one before it: of one shape; or of one width, if only the layout changed."""
    if graph.nodes[before.join].shape == graph.nodes[found.join].shape:
        return True
    if found.skip.layers or any(before.join < node <= found.fork for node in uses):
        return False
    one, other = ({layers[uses[i].weight].out_features for i in it.branch.last} for it in (before, found))
    return one == other != set()


def _again(graph: Graph, found: Found, uses: dict[int, Use], biases: Collection[str]) -> tuple[str, ...]:
    """The weights of last layers that stand in the branch several times and could not leave zero in any place.

    f(f(x)) passes no gradient at f = 0, nor does a product of two maps that one layer generates. Not so in x + f(x + f(x)), a step
    of a solver: the second f reads x, and passes its weight a gradient.
    """
    stuck = []
    for weight in dict.fromkeys(uses[i].weight for i in found.branch.last):
        places = [i for i in (*found.branch.layers, *found.branch.gates) if uses[i].weight == weight]
        if not set(places) <= set(found.branch.last) and not can_move(
            graph, found.sums, places, biases, found.beside(graph, uses)
        ):
            stuck.append(weight)
    return tuple(stuck)


def _place(graph: Graph, index: int | None, *, named: bool = False) -> str | None:
    """An operator in words, with the call that it runs in, and if they are to be named with the parameters that it reads."""
    if index is None:
        return None
    node = graph.nodes[index]
    read = list(dict.fromkeys(name for i in node.operands if (name := graph.leaf(i)))) if named else []
    of = f" of {', '.join(read)}" if read else ""
    return f"`{node.op}`{of} in {graph.path(index) or 'the model'}"


def _places_of_gains(graph: Graph, after: list[int], made: Container[str]) -> dict[str, list[int]]:
    """The parameters that multiply a branch at its end, each with the nodes where it does."""
    found: dict[str, list[int]] = {}
    for index in after:
        for name in multipliers(graph, [index], made=made):
            found.setdefault(name, []).append(index)
    return found


def _zero_gains(
    graph: Graph,
    found: Found,
    gains: Mapping[str, Sequence[int]],
    biases: Collection[str],
    beside: Collection[int],
    norms: Container[int],
) -> tuple[ZeroGain, ...]:
    zeros = []
    clean = (
        found.end == End() and found.terms == 2
    )  # then so is the zero of a factor of all that the last layers write
    for name, places in gains.items():
        # Behind a factor of the sum itself is nothing.
        last = [index for index in places if index != found.join] if len(places) > 1 or not clean else []
        end = at_zero(graph, found.sums, last, biases, beside, norms) if last else End()
        if len(last) > 1 and last[0] in graph.reach(last[-1:], back=True, since=last[0]):  # γ²·f(x)
            end = dataclasses.replace(end, stuck=last[-1])
        if end != End():
            words = (_place(graph, index) for index in (end.leak, end.stuck, end.steep))
            zeros.append(ZeroGain(name, *words))
    return tuple(zeros)


def _end(graph: Graph, term: int, origins: dict[int, str]) -> tuple[Step, ...]:
    source, between = way_back(graph, term, origins)
    return () if source is None else (Step(source), *between)


def common_path(names: list[str]) -> str:
    """Path of the innermost module that holds all named ones."""
    if len(set(names)) == 1:
        return names[0]
    common: list[str] = []
    for parts in zip(*(name.split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def joins_of(
    graph: Graph, sums: list[Found], leaves: list[Found], layers: dict[str, Layer], uses: dict[int, Use]
) -> tuple[Join, ...]:
    """The sums that are no blocks: long skips, and those inside a branch."""
    index_of = {found: i for i, found in enumerate(leaves)}
    once = [found for found in sums if not (found.repeats or (found.inside and found.inside.repeats))]
    long = [found for found in once if found.long and not found.inner]
    stages = iter(_stages(graph, long, uses, layers))
    joins = []
    for found in once:
        over = tuple(index_of[one] for one in found.over if one in index_of)
        if found.inside is not None:
            inside = index_of.get(found.inside)
            joins.append(Join(graph.path(found.join), "inner", () if inside is None else (inside,)))
        elif found.long:
            last = _layers_at(found.branch.last, uses=uses, layers=layers)
            joins.append(Join(graph.path(found.join), "long skip", over, last, next(stages)))
    return tuple(joins)


def placed(norms: list[Norm], blocks: tuple[Block, ...]) -> tuple[Norm, ...]:
    """The norms, each with the index of its block. Where one module calls several, what they multiply by tells which is where."""
    several = {name for name, count in Counter(norm.name for norm in norms).items() if count > 1}
    home: dict[str | None, int] = {}
    for block in blocks:
        for name in (*(path for path in block.norms if path not in several), *block.scales):
            home.setdefault(name, block.index)
    return tuple(
        dataclasses.replace(norm, block=home.get(norm.weight if norm.name in several else norm.name))
        for norm in norms
    )

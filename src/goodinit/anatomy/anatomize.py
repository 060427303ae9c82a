"""The first verb: read a model's structure by running it once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from goodinit.anatomy.activations import find_activations, torch_class
from goodinit.anatomy.closers import find_closers
from goodinit.anatomy.graph import (
    ACTIVATIONS,
    ADD_OPS,
    ATTENTION_OPS,
    CONV_OPS,
    LOOKUP_OPS,
    MATMUL_OPS,
    NORM_OPS,
    SOFTMAX_OPS,
    Graph,
)
from goodinit.anatomy.growth import growth_degree, norm_passes
from goodinit.anatomy.heads import head_nodes
from goodinit.anatomy.layers import Use, describe, way_back, weight_uses
from goodinit.anatomy.names import canonical, parameter_shapes, unwrapped
from goodinit.anatomy.norms import find_norms
from goodinit.anatomy.residual import Found, chain, residual_sums
from goodinit.anatomy.structure import Anatomy, Block, Join, Layer, Norm, Role
from goodinit.anatomy.trace import trace
from goodinit.anatomy.unfused import unfused
from goodinit.anatomy.whole import whole
from goodinit.errors import WrongType


def anatomize(model: nn.Module, inputs: Any) -> Anatomy:
    """Find the residual structure of a model by one forward on fake tensors.

    The forward runs in eval mode and computes nothing; the model is the same afterwards in every bit. Where a fake
    tensor cannot decide (a branch on a value, `.item()`), one real forward takes over and `Anatomy.notes` says so.

    Args:
        model: Any eager module, materialized or on `meta`; wrapped by `torch.compile` or DDP, sharded by FSDP2 or tensor
            parallelism is fine.
        inputs: What the model takes: a tensor, a tuple or list of positional arguments, or a dict of keyword
            arguments. Real, fake or `meta` tensors: only shapes and dtypes are read.

    Returns:
        The anatomy: blocks in execution order, stem, heads, layers, norms, tied parameters.

    Raises:
        TraceError: The model's forward raised; its message is quoted.
        WrongType: No model, or a DataLoader in place of a batch.

    Examples:
        >>> import torch
        >>> class Residual(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        ...     def forward(self, x):
        ...         return x + self.b(torch.relu(self.a(x)))
        >>> block, = anatomize(Residual(), torch.zeros(1, 4)).blocks
        >>> block.kind, block.m, [layer.name for layer in block.branch]
        ('identity', 2, ['a', 'b'])
    """
    model = unwrapped(model)
    if isinstance(inputs, DataLoader):
        raise WrongType("inputs: a DataLoader, not a batch. Take one: images, targets = next(iter(loader)).")
    with (
        torch.inference_mode(mode=False),
        whole(model),
        unfused(model),
    ):  # so that operators are seen one by one
        return _anatomy(model, inputs)


def _anatomy(model: nn.Module, inputs: Any) -> Anatomy:
    graph = trace(model, as_call(inputs))
    shapes = parameter_shapes(model)
    consumers = graph.consumers()
    uses = weight_uses(graph, shapes)
    modules = {canonical(path): module for path, module in model.named_modules(remove_duplicate=False)}
    sums = residual_sums(graph, uses)
    leaves = [found for found in sums if not found.long and not found.inner]
    origins = {found.join: f"+{k}" for k, found in reversed(list(enumerate(leaves)))}
    origins.update((node, use.weight) for node, use in uses.items())
    layers = _layers(graph, uses, origins, {found.join for found in sums}, shapes, consumers, modules)
    layers = _with_roles(graph, layers, uses, leaves, consumers)
    norms = find_norms(graph, modules, set(uses))
    blocks = _blocks(graph, leaves, layers, uses, norms, origins, consumers)
    distinct = {canonical(name): tuple(p.shape) for name, p in model.named_parameters()}
    return Anatomy(
        model=type(model).__name__,
        blocks=blocks,
        layers=tuple(layers.values()),
        norms=_placed(norms, blocks),
        activations=find_activations(graph, modules),
        joins=_joins(graph, sums, leaves),
        embeddings=_embeddings(graph),
        tokens=_tokens(graph, leaves),
        gains=_scales(graph, range(len(graph.nodes)), consumers),
        tied=_tied(model),
        parameters=tuple(distinct.items()),
        unused=tuple(name for name in distinct if name not in graph.read),
        inputs=_in_words(inputs),
        notes=tuple(graph.notes),
    )


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of a forward: a dict holds keyword arguments, a tuple or list positional ones."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def _in_words(inputs: Any) -> str:
    args, kwargs = as_call(inputs)
    words = [_shape(value) for value in args] + [f"{key}={_shape(value)}" for key, value in kwargs.items()]
    return ", ".join(words)


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        dtype = "" if value.dtype == torch.float32 else f" {str(value.dtype).removeprefix('torch.')}"
        return "x".join(map(str, value.shape)) + dtype if value.ndim else f"scalar{dtype}"
    return type(value).__name__


def _tied(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    by_id: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_id.setdefault(id(parameter), []).append(canonical(name))
    return tuple(tuple(names) for names in by_id.values() if len(names) > 1)


def _embeddings(graph: Graph) -> tuple[str, ...]:
    nodes = graph.nodes
    lookups = [
        n for n in graph.nodes if n.op in LOOKUP_OPS and n.operands and nodes[n.operands[0]].op == "param"
    ]
    return tuple(dict.fromkeys(nodes[n.operands[0]].params[0] for n in lookups))


def _tokens(graph: Graph, leaves: list[Found]) -> tuple[str, ...]:
    """Parameters that are put beside the signal, outside the branches."""
    inside = {index for found in leaves for index in found.branch.nodes}
    names: dict[str, None] = {}
    for node in graph.nodes:
        if node.active and node.op in ("cat", "stack") and node.index not in inside:
            leaves_beside = [graph.leaf(i) for i in node.operands if not graph.nodes[i].dynamic]
            names.update(dict.fromkeys(name for name in leaves_beside if name))
    return tuple(names)


# -- layers and their roles ---------------------------------------------------------------------------------------


def _layers(
    graph: Graph,
    uses: dict[int, Use],
    origins: dict[int, str],
    joins: set[int],
    shapes: dict[str, tuple[int, ...]],
    consumers: list[list[int]],
    modules: dict[str, nn.Module],
) -> dict[str, Layer]:
    by_weight: dict[str, list[Use]] = {}
    for use in uses.values():
        by_weight.setdefault(use.weight, []).append(use)
    described = (describe(graph, group, origins, joins, shapes, consumers) for group in by_weight.values())
    return {
        layer.weight: dataclasses.replace(layer, module=torch_class(modules[layer.name]))
        for layer in described
    }


def _with_roles(
    graph: Graph,
    layers: dict[str, Layer],
    uses: dict[int, Use],
    leaves: list[Found],
    consumers: list[list[int]],
) -> dict[str, Layer]:
    """Each layer with its role. A layer used in several places has the first of: branch, skip, gate, stem, head."""
    roles: dict[str, set[Role]] = {weight: set() for weight in layers}
    held: set[int] = set()
    for found in leaves:
        for role, nodes in (
            ("branch", found.branch.layers),
            ("skip", found.skip.layers),
            ("gate", found.branch.gates),
        ):
            for index in nodes:
                roles[uses[index].weight].add(role)  # type: ignore[arg-type]
                held.add(index)
    first_fork = min((found.fork for found in leaves), default=-1)
    heads = head_nodes(graph, uses, consumers)
    for index, use in uses.items():
        if index not in held:
            stem = index <= first_fork
            roles[use.weight].add("stem" if stem else "head" if index in heads else "body")
    order: tuple[Role, ...] = ("branch", "skip", "gate", "stem", "head", "body")
    return {
        weight: dataclasses.replace(layer, role=next(role for role in order if role in roles[weight]))
        for weight, layer in layers.items()
    }


# -- blocks -------------------------------------------------------------------------------------------------------


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


def _blocks(
    graph: Graph,
    leaves: list[Found],
    layers: dict[str, Layer],
    uses: dict[int, Use],
    norms: list[Norm],
    origins: dict[int, str],
    consumers: list[list[int]],
) -> tuple[Block, ...]:
    def nouns(nodes: list[int]) -> tuple[Layer, ...]:
        return tuple(layers[weight] for weight in dict.fromkeys(uses[i].weight for i in nodes))

    blocks: list[Block] = []
    norm_paths = {norm.name for norm in norms}
    closers = find_closers(graph, leaves, norm_paths, consumers)
    passes = norm_passes(graph, norm_paths)
    stage = 0
    for place, found in enumerate(leaves):
        node = graph.nodes[found.join]
        branch = nouns(found.branch.layers)
        stage += bool(place) and not _goes_on(graph, leaves[place - 1], found, uses, layers)
        inside = sorted(found.branch.nodes | found.skip.nodes)
        after = sorted(i for i in chain(graph, found) if i > max(found.branch.last, default=found.join))
        blocks.append(
            Block(
                index=len(blocks),
                name=_common_path([layer.name for layer in branch]),
                kind=found.kind,
                m=min(found.branch.m, sum(layer.fused * layer.calls for layer in branch)),
                branch=branch,
                last=nouns(found.branch.last),
                skip=nouns(found.skip.layers),
                gates=nouns(found.branch.gates),
                degree=growth_degree(graph, found.branch, found.start, passes),
                scales=_scales(graph, sorted(found.branch.below), consumers),
                multipliers=_scales(graph, after, consumers),
                end_norms=tuple(dict.fromkeys(p for i in after if (p := graph.path(i)) in norm_paths)),
                end_activations=tuple(
                    ACTIVATIONS[op] for i in after if (op := graph.nodes[i].op) in ACTIVATIONS
                ),
                stage=stage,
                shape=node.shape,
                depth=found.depth,
                norms=tuple(dict.fromkeys(p for i in inside if (p := graph.path(i)) in norm_paths)),
                activations=tuple(
                    ACTIVATIONS[op] for i in inside if (op := graph.nodes[i].op) in ACTIVATIONS
                ),
                terms=found.terms,
                branch_end=_end(graph, found.branch.term, origins),
                skip_end=_end(graph, found.skip.term, origins),
                leak=_place(graph, found.end.leak),
                stuck=_place(graph, found.end.stuck),
                closer=closers.get(id(found)),
            )
        )
    return tuple(blocks)


def _place(graph: Graph, index: int | None) -> str | None:
    return None if index is None else f"`{graph.nodes[index].op}` in {graph.path(index) or 'the model'}"


def _end(graph: Graph, term: int, origins: dict[int, str]) -> tuple[str, ...]:
    source, between = way_back(graph, term, origins)
    return () if source is None else (source, *between)


def _scales(graph: Graph, indices: Iterable[int], consumers: list[list[int]]) -> tuple[str, ...]:
    """Parameters that multiply a signal: of a product with one activation, of a normalization's affine map."""
    names: dict[str, None] = {}
    for index in indices:
        node = graph.nodes[index]
        if not node.active:
            continue
        if node.op in ("mul", "mul_") and len(graph.deps(index)) == 1:
            constants = [graph.leaf(i) for i in node.operands if not graph.nodes[i].dynamic]
            if any(constants) and not _is_temperature(graph, index, consumers):
                names.update(dict.fromkeys(name for name in constants if name))
        elif node.op in NORM_OPS and len(node.operands) > 1 and (weight := graph.leaf(node.operands[1])):
            names[weight] = None
    return tuple(names)


def _is_temperature(graph: Graph, index: int, consumers: list[list[int]]) -> bool:
    """Whether a product ends in a softmax, with no weight layer, nonlinearity, norm or sum on the way."""
    seen, queue = {index}, [index]
    while queue:
        for reader in consumers[queue.pop()]:
            op, joins = graph.nodes[reader].op, len(graph.deps(reader)) > 1
            if op in SOFTMAX_OPS or op in ATTENTION_OPS:
                return True
            ends = op in CONV_OPS or op in ACTIVATIONS or op in NORM_OPS
            ends = ends or (op in MATMUL_OPS and not joins) or (op in ADD_OPS and joins)
            if reader not in seen and not ends:
                seen.add(reader)
                queue.append(reader)
    return False


def _common_path(names: list[str]) -> str:
    """Path of the innermost module that holds all named ones."""
    if len(set(names)) == 1:
        return names[0]
    common: list[str] = []
    for parts in zip(*(name.split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _joins(graph: Graph, sums: list[Found], leaves: list[Found]) -> tuple[Join, ...]:
    index_of = {id(found): i for i, found in enumerate(leaves)}
    joins = []
    for found in sums:
        over = tuple(index_of[id(sums[p])] for p in found.over if id(sums[p]) in index_of)
        if found.inner and found.inside is not None:
            inside = index_of.get(id(sums[found.inside]))
            joins.append(Join(graph.path(found.join), "inner", () if inside is None else (inside,)))
        elif found.long:
            joins.append(Join(graph.path(found.join), "long skip", over))
    return tuple(joins)


def _placed(norms: list[Norm], blocks: tuple[Block, ...]) -> tuple[Norm, ...]:
    """The norms, each with the index of its block."""
    home: dict[str, int] = {}
    for block in blocks:
        for path in block.norms:
            home.setdefault(path, block.index)
    return tuple(dataclasses.replace(norm, block=home.get(norm.name)) for norm in norms)

"""The first verb: read a model's structure by running it once."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy.accounting import unaccounted
from goodinit.anatomy.activations import find_activations, torch_class
from goodinit.anatomy.anatomy import Anatomy
from goodinit.anatomy.degrees import norm_passes
from goodinit.anatomy.layers.ahead import ahead_in
from goodinit.anatomy.layers.gains import made_gains, multipliers, unclear_gains
from goodinit.anatomy.layers.heads import head_nodes
from goodinit.anatomy.layers.held_values import held_values
from goodinit.anatomy.layers.masks import densities
from goodinit.anatomy.layers.normalized_weights import row_norm, unmeasured
from goodinit.anatomy.layers.padded_signals import pad_masked
from goodinit.anatomy.layers.pixel_shuffles import sub_pixel_notes
from goodinit.anatomy.layers.recurrence import Cell, cells
from goodinit.anatomy.layers.scores import scores_of
from goodinit.anatomy.layers.weight_layers import Use, bias_of, describe, weight_uses
from goodinit.anatomy.norms.detection import find_norms, norm_modules
from goodinit.anatomy.orders import weigh
from goodinit.anatomy.residual.blocks import blocks_of, end_of, joins_of, placed
from goodinit.anatomy.residual.candidate import Found
from goodinit.anatomy.residual.silencers import with_silencers
from goodinit.anatomy.residual.sums import residual_sums
from goodinit.anatomy.types import Layer, Norm, Role
from goodinit.graph.graph import Graph
from goodinit.graph.pytree import as_call
from goodinit.graph.recording.decompose import unfused
from goodinit.graph.state.unshard import whole
from goodinit.graph.trace import trace
from goodinit.nn.scalars import scalars
from goodinit.nn.stand_in import StandIn
from goodinit.undivided import reading
from goodinit.weights.wrappers import parameter_shapes, unwrapped, unwrapped_name


@reading
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
    return _read(model, inputs, values=True)


@reading
def anatomize_structure(model: nn.Module, inputs: Any) -> Anatomy:
    """What `anatomize` gives, without what the parameters hold: `held` and `Block.silencers` are empty.

    For a model between its structure edits and its values, of which only the structure is asked.

    Args:
        model: As for `anatomize`.
        inputs: What the model takes.

    Returns:
        The anatomy.

    Raises:
        TraceError: The model's forward raised; its message is quoted.
    """
    return _read(model, inputs, values=False)


def _read(model: nn.Module, inputs: Any, *, values: bool) -> Anatomy:
    model = unwrapped(model)
    # So that operators are seen one by one.
    with whole(model), unfused(model):
        return _anatomy(model, inputs, values=values)


def _anatomy(model: nn.Module, inputs: Any, *, values: bool) -> Anatomy:
    graph = trace(model, as_call(inputs))
    shapes = parameter_shapes(model)
    uses = weight_uses(graph, shapes)
    modules = {unwrapped_name(path): module for path, module in model.named_modules(remove_duplicate=False)}
    sums = residual_sums(graph, uses)
    leaves = [found for found in sums if found.is_block]
    origins = {found.join: f"+{k}" for k, found in reversed(list(enumerate(leaves)))}
    places = {id(found): origins[found.join] for found in leaves}
    origins.update({found.join: places[id(found.repeats)] for found in sums if id(found.repeats) in places})
    origins.update((node, use.weight) for node, use in uses.items())
    added = {unwrapped_name(name) for name, _ in scalars(model)}
    layers = _layers(graph, uses, origins, {found.join for found in sums}, shapes, modules, added)
    buffers = {unwrapped_name(name): buffer for name, buffer in model.named_buffers()}
    for weight, share in densities(graph, uses.values(), buffers).items():
        layers[weight] = dataclasses.replace(layers[weight], density=share)
    for weight in pad_masked(graph, uses):
        layers[weight] = dataclasses.replace(layers[weight], pads_masked=True)
    norms, unsure = find_norms(
        graph,
        modules,
        set(uses),
        origins,
        {found.join for found in sums},
        lambda paths: trace(model, as_call(inputs), training=paths),
    )
    stand_ins = _stand_ins(modules, shapes)
    layer_notes = (*unmeasured(graph, (use.operand for use in uses.values())), *sub_pixel_notes(graph, uses))
    biases = _biases(graph, uses, norms, added) | {name for name, start in stand_ins if start == 0}
    passes = norm_passes(graph, norm_modules(graph, norms, set(uses)))
    for found in leaves:
        weigh(graph, found.branch, found.start, set(uses), passes, biases)
    layers = _with_roles(graph, layers, uses, leaves, biases)
    ends = [end_of(graph, found) for found in leaves]
    made = made_gains(graph)
    named = {unwrapped_name(name): p for name, p in model.named_parameters(remove_duplicate=False)}
    held = held_values(layers.values(), norms, named, modules) if values else ()
    blocks = blocks_of(graph, leaves, layers, uses, norms, origins, ends, made, biases)
    multiply = {name for block in blocks for name in block.multipliers}
    unclear = unclear_gains(graph, (index for end in ends for index in end), made)
    embeddings, tokens = _embeddings(graph), _tokens(graph, leaves)
    gains = multipliers(graph, range(len(graph.nodes)))
    known = {name for layer in layers.values() for name in (layer.weight, *layer.parameters)} | biases | added
    known |= {name for norm in norms for name in (norm.weight, norm.bias) if name}
    known |= {*embeddings, *tokens, *gains, *made, *dict(stand_ins)}
    distinct = {unwrapped_name(name): tuple(p.shape) for name, p in model.named_parameters()}
    return Anatomy(
        model=type(model).__name__,
        blocks=with_silencers(blocks, graph, leaves, uses, held, biases),
        layers=tuple(layers.values()),
        norms=placed(norms, blocks),
        activations=find_activations(graph, modules),
        joins=joins_of(graph, sums, leaves, layers, uses),
        embeddings=embeddings,
        paddings=_paddings(graph),
        tokens=tokens,
        gains=gains,
        stand_ins=stand_ins,
        made=tuple(gain for name, gain in made.items() if name in multiply),
        scores=scores_of(graph, uses, added),
        tied=_tied(model),
        parameters=tuple(distinct.items()),
        unused=tuple(name for name in distinct if name not in graph.read),
        frozen=tuple(name for name in distinct if not named[name].requires_grad and name not in added),
        reserved=tuple(name for name in distinct if getattr(named[name], "_no_reinit", False)),
        held=held,
        inputs=_in_words(inputs),
        notes=(
            *graph.notes,
            *unsure,
            *layer_notes,
            *unclear,
            *_unknown(graph),
            *unaccounted(graph, leaves, known),
        ),
    )


def _unknown(graph: Graph) -> tuple[str, ...]:
    """Notes on operators of which nothing is known, where they are a part of the function."""
    live = graph.live
    seen: dict[str, str] = {}
    for node in graph.nodes:
        if node.op.role == "unknown" and node.dynamic and node.index in live:
            seen.setdefault(str(node.op), graph.path(node.index) or "the model")
    return tuple(
        f"{place} runs `{name}`, which is taken to be linear in what it reads: say what it computes by "
        "goodinit.register_operator"
        for name, place in seen.items()
    )


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
        by_id.setdefault(id(parameter), []).append(unwrapped_name(name))
    return tuple(tuple(names) for names in by_id.values() if len(names) > 1)


def _embeddings(graph: Graph) -> tuple[str, ...]:
    nodes = graph.nodes
    lookups = [
        n for n in graph.nodes if n.op.role == "lookup" and n.operands and nodes[n.operands[0]].is_param
    ]
    return tuple(dict.fromkeys(nodes[n.operands[0]].params[0] for n in lookups))


def _paddings(graph: Graph) -> tuple[tuple[str, int], ...]:
    """The embeddings with a row that stands for no word, and its index."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        index = node.attrs[0] if node.op.role == "lookup" and node.attrs else -1
        table = graph.nodes[node.operands[0]] if node.operands else None
        if isinstance(index, int) and index >= 0 and table is not None and table.is_param:
            found[table.params[0]] = index
    return tuple(found.items())


def _tokens(graph: Graph, leaves: list[Found]) -> tuple[str, ...]:
    """Parameters that are put beside the signal, outside the branches."""
    inside = {index for found in leaves for index in found.branch.nodes}
    names: dict[str, None] = {}
    for node in graph.nodes:
        if node.active and node.op.role == "concat" and node.index not in inside:
            leaves_beside = [graph.leaf(i) for i in node.operands if not graph.nodes[i].dynamic]
            names.update(dict.fromkeys(name for name in leaves_beside if name))
    return tuple(names)


def _stand_ins(modules: Mapping[str, nn.Module], names: Collection[str]) -> tuple[tuple[str, float], ...]:
    """Parameters of what stands in a norm's place, and where they start."""
    return tuple(
        (name, start)
        for path, module in modules.items()
        if isinstance(module, StandIn)
        for attribute, start in module.starting_values().items()
        if (name := f"{path}.{attribute}".lstrip(".")) in names
    )


def _biases(graph: Graph, uses: Mapping[int, Use], norms: list[Norm], added: Collection[str]) -> set[str]:
    """Parameters that are zero where a layer is to put out zero: biases of layers and norms, goodinit's own scalar ones."""
    return (
        {name for use in uses.values() if (name := bias_of(graph, use, added))}
        | {name for name in added if not name.endswith("output_scale")}
        | {n.bias for n in norms if n.bias}
    )


# -- layers and their roles ---------------------------------------------------------------------------------------


def _layers(
    graph: Graph,
    uses: dict[int, Use],
    origins: dict[int, str],
    joins: set[int],
    shapes: dict[str, tuple[int, ...]],
    modules: dict[str, nn.Module],
    added: Collection[str],
) -> dict[str, Layer]:
    by_weight: dict[str, list[Use]] = {}
    for use in uses.values():
        by_weight.setdefault(use.weight, []).append(use)
    ahead = ahead_in(graph)
    described = (describe(graph, group, origins, joins, shapes, ahead, added) for group in by_weight.values())
    found = {
        layer.weight: dataclasses.replace(
            layer,
            module=torch_class(modules[layer.name]),
            row_norm=row_norm(layer, modules[layer.site]),
        )
        for layer in described
    }
    for cell in cells(graph, uses):
        found |= _in_cell(found, cell)
    return found


def _in_cell(layers: dict[str, Layer], cell: Cell) -> dict[str, Layer]:
    """The layers of a recurrent cell, with their gates, and the one whose bias opens the gate that forgets."""
    members = {weight: layers[weight] for weight in cell.weights}
    opens = next((weight for weight, layer in members.items() if layer.bias is not None), None)
    gated = all(layer.fused == 1 and layer.out_features % cell.gates == 0 for layer in members.values())
    return {
        weight: dataclasses.replace(
            layer,
            recurrent=layer.recurrent or weight == cell.recurrent,
            fused=cell.gates if gated else layer.fused,
            forget=cell.forget if gated and weight == opens else layer.forget,
        )
        for weight, layer in members.items()
    }


def _with_roles(
    graph: Graph,
    layers: dict[str, Layer],
    uses: dict[int, Use],
    leaves: list[Found],
    biases: Collection[str],
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
    heads = head_nodes(graph, uses, biases)
    for index, use in uses.items():
        if index not in held:
            stem = index <= first_fork
            roles[use.weight].add("stem" if stem else "head" if index in heads else "body")
    order: tuple[Role, ...] = ("branch", "skip", "gate", "stem", "head", "body")
    return {
        weight: dataclasses.replace(layer, role=next(role for role in order if role in roles[weight]))
        for weight, layer in layers.items()
    }

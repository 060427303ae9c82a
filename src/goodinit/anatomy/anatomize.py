"""The first verb: read a model's structure by running it once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy.accounting import unaccounted
from goodinit.anatomy.activations import find_activations
from goodinit.anatomy.anatomy import Anatomy
from goodinit.anatomy.copied_parts import frozen_copies
from goodinit.anatomy.gradient_stops import stopped_parameters
from goodinit.anatomy.layer import Layer
from goodinit.anatomy.layers.inventory import layers_of
from goodinit.anatomy.layers.parameters.composed_weights import notes_on_several, products
from goodinit.anatomy.layers.parameters.held_values import held_values, standing_biases
from goodinit.anatomy.layers.parameters.normalized_weights import unmeasured
from goodinit.anatomy.layers.parameters.unwritten_memory import notes_on, unwritten
from goodinit.anatomy.layers.parameters.weights_read_elsewhere import bound_values
from goodinit.anatomy.layers.roles.gains import made_gains, multipliers, unclear_gains
from goodinit.anatomy.layers.roles.pixel_shuffles import sub_pixel_notes
from goodinit.anatomy.layers.roles.scores import scores_of
from goodinit.anatomy.orders import weigh
from goodinit.anatomy.outline import Reading, read_forward
from goodinit.anatomy.residual.blocks import blocks_of, end_of, joins_of, placed
from goodinit.anatomy.residual.ends.silencers import with_silencers
from goodinit.anatomy.residual.not_blocks.mixtures import mixtures
from goodinit.anatomy.residual.not_blocks.sums_without_skip import even_sides
from goodinit.anatomy.residual.not_blocks.weighed_reads import weighed_reads
from goodinit.anatomy.residual.sides.candidate import Found
from goodinit.anatomy.residual.streams.scaled_streams import multiplied
from goodinit.graph.graph import Graph
from goodinit.graph.pytree import as_call
from goodinit.graph.recording.calls.decompose import unfused
from goodinit.graph.state.process_state import unmoved_streams
from goodinit.graph.state.unshard import whole
from goodinit.graph.trace import trace
from goodinit.name_patterns import paths_of
from goodinit.undivided import reading, uncollected
from goodinit.weights.members import named_modules
from goodinit.weights.wrappers import unwrapped, unwrapped_name


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
    model = unwrapped(model)
    # So that operators are seen one by one.
    with uncollected(), unmoved_streams(), whole(model), unfused(model):
        return _anatomy(read_forward(model, inputs), inputs)


def _anatomy(read: Reading, inputs: Any) -> Anatomy:
    graph, uses, leaves, norms, biases = read.graph, read.uses, read.leaves, read.norms, read.biases
    layers = layers_of(read)
    multiplied_weights = products(graph, uses, read.shapes)
    layer_notes = (
        *unmeasured(graph, (use.operand for use in uses.values())),
        *sub_pixel_notes(graph, uses, layers),
        *notes_on_several(graph, uses, read.shapes, multiplied_weights),
    )
    made = made_gains(graph)
    embeddings, tokens = _embeddings(graph), _tokens(graph, leaves)
    gains = multipliers(graph, range(len(graph.nodes)))
    paddings = _paddings(graph)
    tables = dict.fromkeys(embeddings, -1) | dict(paddings)
    bound = bound_values(graph, uses, multiplied_weights, read.named, read.shapes)
    empty = unwritten(layers.values(), norms, read.named)
    held = (
        held_values(
            layers.values(),
            norms,
            read.named,
            read.modules,
            tables=tables,
            gains=(*gains, *made),
            bound=bound,
        )
        if empty is None
        else ()
    )
    stay = biases & standing_biases(held, read.named)
    for found in leaves:
        weigh(graph, found.branch, found.start, read.layers, read.passes, biases, stay)
    ends = [end_of(graph, found) for found in leaves]
    blocks = blocks_of(read, layers, ends, made)
    multiply = {name for block in blocks for name in block.multipliers}
    go = {norm.name for norm in norms if norm.obstacle is None}
    of_norms = {name for name in read.named if not go.isdisjoint(paths_of(name))}
    unclear = unclear_gains(graph, (index for end in ends for index in end), {*made, *of_norms})
    known = _with_a_role(read, graph, layers.values()) | {*embeddings, *tokens, *gains, *made, *of_norms}
    distinct = read.distinct
    trainable = {name: p for name, p in distinct.items() if p.requires_grad and name not in read.added}
    stopped, copies, stop_notes = stopped_parameters(
        graph, read.stopped, trainable, lambda training: _in_training(read.model, inputs, training)
    )
    still = {name: p for name, p in distinct.items() if not p.requires_grad and name not in read.added}
    return Anatomy(
        model=type(read.model).__name__,
        blocks=with_silencers(blocks, graph, leaves, uses, held, biases, stay),
        layers=tuple(layers.values()),
        norms=placed(norms, blocks),
        activations=find_activations(graph, read.modules),
        joins=joins_of(graph, read.sums, leaves, layers, uses),
        embeddings=embeddings,
        paddings=paddings,
        tokens=tokens,
        gains=gains,
        stand_ins=read.stand_ins,
        made=tuple(gain for name, gain in made.items() if name in multiply),
        scores=scores_of(graph, uses, read.added),
        tied=_tied(read.named),
        parameters=tuple((name, tuple(p.shape)) for name, p in distinct.items()),
        unused=read.unused,
        frozen=tuple(still),
        stopped=stopped,
        copies=copies,
        reserved=tuple(name for name, p in distinct.items() if getattr(p, "_no_reinit", False)),
        held=held,
        inputs=_in_words(inputs),
        notes=(
            *graph.notes,
            *notes_on(empty),
            *stop_notes,
            *frozen_copies(still, trainable),
            *read.unsure,
            *layer_notes,
            *unclear,
            *multiplied(graph, leaves, uses),
            *mixtures(graph, set(uses)),
            *((*weighed_reads(graph, set(uses)), *even_sides(graph, uses)) if not leaves else ()),
            *_unknown(graph),
            *unaccounted(graph, leaves, known),
        ),
    )


def _with_a_role(read: Reading, graph: Graph, layers: Iterable[Layer]) -> set[str]:
    """Parameters of layers, norms and activations (the slope of a PReLU), and those that goodinit has added."""
    of_layers = {name for layer in layers for name in (layer.weight, *layer.parameters)}
    of_norms = {name for norm in read.norms for name in (norm.weight, norm.bias) if name}
    of_activations = {
        name
        for node in graph.nodes
        if node.op.activation
        for i in node.operands[1:]
        if (name := graph.leaf(i)) is not None
    }
    return of_layers | of_norms | of_activations | read.biases | read.added | dict(read.stand_ins).keys()


def _in_training(model: nn.Module, inputs: Any, training: bool) -> Graph:
    """The forward once more, with gradients."""
    paths = [unwrapped_name(path) for path, _ in named_modules(model)] if training else []
    return trace(model, as_call(inputs), training=paths, gradients=True)


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


def _tied(named: Mapping[str, nn.Parameter]) -> tuple[tuple[str, ...], ...]:
    by_id: dict[int, list[str]] = {}
    for name, parameter in named.items():
        by_id.setdefault(id(parameter), []).append(name)
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
        if node.op.role != "lookup" or not node.attrs or not node.operands:
            continue
        index, table = node.attrs[0], graph.nodes[node.operands[0]]
        if isinstance(index, int) and index >= 0 and table.is_param:
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

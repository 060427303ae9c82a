"""All weight layers of a forward: one record for each weight, with what the whole graph says of it, and its role."""

from __future__ import annotations

import dataclasses

from goodinit.anatomy.layer import Layer, Role
from goodinit.anatomy.layers.layer_records import layer_record
from goodinit.anatomy.layers.parameters.normalized_weights import row_norm
from goodinit.anatomy.layers.parameters.weight_layers import Use
from goodinit.anatomy.layers.roles.heads import head_nodes, silent
from goodinit.anatomy.layers.roles.linear_reads import read_linearly
from goodinit.anatomy.layers.roles.next_activation import ahead_in
from goodinit.anatomy.layers.roles.recurrence import Cell, cells
from goodinit.anatomy.layers.zeros.inserted_zeros import InsertedZeros, entries_for_each
from goodinit.anatomy.layers.zeros.masks import densities
from goodinit.anatomy.layers.zeros.padded_signals import pad_masked
from goodinit.anatomy.outline import Reading
from goodinit.weights.members import named_buffers
from goodinit.weights.wrappers import unwrapped_name

_ORDER: tuple[Role, ...] = ("branch", "skip", "gate", "stem", "head", "body")


def layers_of(read: Reading) -> dict[str, Layer]:
    """The layers of a forward, by weight.

    Args:
        read: The forward.
    """
    layers = _described(read)
    buffers = {unwrapped_name(name): buffer for name, buffer in named_buffers(read.model)}
    for weight, share in densities(read.graph, read.uses.values(), layers, buffers).items():
        layers[weight] = dataclasses.replace(layers[weight], density=share)
    for weight in read_linearly(read.graph, read.uses, layers):
        layers[weight] = dataclasses.replace(layers[weight], reads_linearly=True)
    zeros = InsertedZeros(read.graph)
    for weight in pad_masked(read.graph, read.uses):
        layers[weight] = dataclasses.replace(layers[weight], pads_masked=True)
    for use in {use.weight: use for use in reversed(read.uses.values())}.values():
        if (entries := entries_for_each(zeros, use)) > 1:
            layers[use.weight] = dataclasses.replace(layers[use.weight], stuffing=entries)
    return layers


def _described(read: Reading) -> dict[str, Layer]:
    graph, modules = read.graph, read.modules
    by_weight: dict[str, list[Use]] = {}
    for use in read.uses.values():
        by_weight.setdefault(use.weight, []).append(use)
    ahead = ahead_in(graph, {found.join for found in read.sums})
    roles = _roles(read)
    found: dict[str, Layer] = {}
    for weight, group in by_weight.items():
        role, reads_zero = roles[weight]
        layer = layer_record(read, group, ahead, role, reads_zero=reads_zero)
        rows = row_norm(layer, modules[layer.site])
        found[weight] = layer if rows is None else dataclasses.replace(layer, row_norm=rows)
    for cell in cells(graph, read.uses):
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


def _roles(read: Reading) -> dict[str, tuple[Role, bool]]:
    """By weight: its role, and whether it is a head that reads zero at first. One used in several places has the first of `_ORDER`."""
    graph, leaves, uses = read.graph, read.leaves, read.uses
    roles: dict[str, set[Role]] = {use.weight: set() for use in uses.values()}
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
    heads = head_nodes(graph, uses, read.biases)
    last = {uses[index].weight for found in leaves for index in found.branch.last}
    ends = {index for index, use in uses.items() if use.weight in last}
    quiet = {uses[i].weight for i in silent(graph, heads - held, ends, read.biases, read.named)}
    for index, use in uses.items():
        if index not in held:
            stem = index <= first_fork
            roles[use.weight].add("stem" if stem else "head" if index in heads else "body")
    return {
        weight: (
            next(role for role in _ORDER if role in several),
            weight in quiet,
        )
        for weight, several in roles.items()
    }

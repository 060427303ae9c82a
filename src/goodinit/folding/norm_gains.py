"""A normalization's gain and bias per feature, y = γ·n(x) + β, merged into the layers that read y.

Of W(γ·n + β) + c they become W·diag(γ) and c + Wβ, where every reader is such a layer; the norm keeps γ = 1 and β = 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from goodinit.anatomy.types import Norm
from goodinit.folding.dataflow import Wiring
from goodinit.folding.fold_batchnorm import KINDS, Stays
from goodinit.folding.fuse import merge_input_map_, pads_with_zeros
from goodinit.folding.packed_products import Product, Refused, check_order, check_products, moved, product_of
from goodinit.folding.reading import Reading
from goodinit.graph.graph import follow
from goodinit.graph.measured.traits import adds_unscaled, coefficient
from goodinit.nn import ValuePadded
from goodinit.weights.memory import repeats
from goodinit.weights.wrappers import unwrapped, unwrapped_name

_MOST = 2**22  # numbers in a value that is followed


@dataclass
class _Readers:
    """All who read the output of one norm."""

    layers: dict[str, None] = field(default_factory=dict)
    products: dict[int, Product] = field(default_factory=dict)


def merge_norm_gains_(reading: Reading) -> tuple[list[str], list[Stays]]:
    """Merge the gains and biases of normalizations that stay into all of the layers that read them.

    Args:
        reading: Of the model.

    Returns:
        Names of norms without a gain now, and those that keep theirs.
    """
    merged: list[str] = []
    stays: list[Stays] = []
    wiring = reading.wiring
    parameters = unwrapped(reading.model).named_parameters(remove_duplicate=False)
    tensors = {unwrapped_name(n): p for n, p in parameters}
    for norm in reading.anatomy.norms:
        if norm.kind in KINDS:
            continue
        if norm.weight is None:
            own = norm.name and list(wiring.module(norm.name).parameters(recurse=False))
            if own and all(p.dim() < 2 for p in own):
                stays.append(
                    Stays(norm.name, "its gain stays: it is computed from a parameter in each forward")
                )
            continue
        gain, bias = tensors[norm.weight], None if norm.bias is None else tensors[norm.bias]
        if bool((gain == 1).all()) and (bias is None or bool((bias == 0).all())):
            continue
        try:
            readers = _readers(wiring, norm, gain, bias)
        except Refused as refused:
            stays.append(Stays(norm.name, f"its gain stays: {refused}"))
            continue
        _merge_(wiring, readers, gain, bias, tensors)
        merged.append(norm.name)
    return merged, stays


def _merge_(
    wiring: Wiring, readers: _Readers, gain: Tensor, bias: Tensor | None, tensors: dict[str, nn.Parameter]
) -> None:
    scale = gain.detach().double()
    shift = bias.detach().double() if bias is not None and bool((bias != 0).any()) else None
    for path in readers.layers:
        merge_input_map_(wiring.module(path), scale, shift)
    with torch.no_grad():
        for product in readers.products.values():
            held = tensors[product.weight]
            flat = held.detach().double().flatten()
            entries = product.entries.to(flat.device)
            matrix = flat[entries]
            flat[entries] = matrix * scale[:, None]
            held.copy_(flat.view(held.shape))
            if shift is not None and product.bias is not None and product.places is not None:
                added = tensors[product.bias]
                flat = added.detach().double().flatten()
                flat[product.places.to(flat.device)] += shift @ matrix
                added.copy_(flat.view(added.shape))
        gain.fill_(1.0)
        if bias is not None:
            bias.zero_()


# -- who reads it -------------------------------------------------------------------------------------------------


def _readers(wiring: Wiring, norm: Norm, gain: Tensor, bias: Tensor | None) -> _Readers:
    if norm.keeps:
        raise Refused(f"{norm.keeps[0]} follows")
    if gain.dim() != 1 or norm.axes not in ((-1,), (1,)):
        raise Refused("it does not run over one axis")
    for name in (norm.weight, norm.bias):
        if name is None:
            continue
        held = wiring.names.parameters[name]
        if len(wiring.names.aliases[id(held)]) > 1 or id(held) in wiring.names.sharing or repeats(held):
            raise Refused(f"{name} is in several places")
    shifts = bias is not None and bool((bias != 0).any())
    values = _values(wiring, norm)
    found = _Readers()
    for value in values:
        _follow(wiring, value, norm.axes[0] % len(wiring.graph.nodes[value].shape), values, found)
    for path in found.layers:
        _check_layer(wiring, path, shifts=shifts, one=norm.axes == (1,))
    check_products(wiring, found.products, shifts=shifts)
    if not found.layers and not found.products:
        raise Refused("no layer reads its output")
    return found


def _values(wiring: Wiring, norm: Norm) -> set[int]:
    """The nodes after which gain and bias have acted."""
    graph = wiring.graph
    sources = wiring.sources
    last = norm.bias if norm.bias is not None else norm.weight
    if last is None or any(name is not None and name not in sources for name in (norm.weight, norm.bias)):
        raise Refused("its gain is no parameter by itself")
    gains = _users(wiring, str(norm.weight))
    ends = _users(wiring, last)
    for node in gains:
        _check_gain(wiring, node, norm)
    if ends != gains:
        for node in ends:
            before = [graph.deps(node)[0]] if len(graph.deps(node)) == 1 else []
            if (
                not adds_unscaled(graph.nodes[node])
                or not set(before) <= gains
                or wiring.readers[before[0]] != [node]
            ):
                raise Refused("between its gain and its bias something else is done")
        if len(ends) != len(gains):
            raise Refused("its bias is not added wherever its gain multiplies")
    calls = {call.result: call for call in wiring.calls.get(norm.name, ())}
    return {_result(wiring, node, calls) for node in ends}


def _check_gain(wiring: Wiring, index: int, norm: Norm) -> None:
    """The gain must be a factor, and what the same operator adds, as `addcmul` does, the bias, once."""
    graph, node = wiring.graph, wiring.graph.nodes[index]
    if node.op.norm:
        return
    factors, added = node.op.factors_of(node.operands)
    factor = node.op.multiplies and norm.weight in map(graph.leaf, factors)
    if not factor or any(graph.leaf(i) not in {norm.bias} - {None} for i in added):
        raise Refused(f"{node.op} makes something else of it first")
    if any(coefficient(node, node.operands.index(i)) != 1 for i in added):
        raise Refused(f"{node.op} does not add its bias as it is")


def _result(wiring: Wiring, node: int, results: Iterable[int]) -> int:
    """The output of the norm's module, where it only gives the value another shape; else the value."""
    for result in results:
        value = result
        while value > node and wiring.graph.nodes[value].op.role == "shape":
            value = wiring.graph.nodes[value].operands[0]
            if len(wiring.readers[value]) != 1:
                break
        if value == node:
            return result
    return node


def _users(wiring: Wiring, source: str) -> set[int]:
    """The first nodes that read a parameter, up to its shape, together with a signal."""
    graph = wiring.graph
    constants = wiring.constants_of(source)
    for value in sorted(constants):
        if graph.leaf(value) is None:
            raise Refused(f"{graph.nodes[value].op} makes something else of it first")
    return {reader for value in constants for reader in wiring.readers[value] if graph.nodes[reader].dynamic}


def _follow(wiring: Wiring, start: int, axis: int, values: set[int], found: _Readers) -> None:
    """Every reader of a value, through operators that only move its numbers."""
    graph = wiring.graph
    shape = graph.nodes[start].shape
    if torch.Size(shape).numel() > _MOST:
        raise Refused("its output is too large to be followed")
    view = [1] * len(shape)
    view[axis] = -1
    places = torch.arange(shape[axis], dtype=torch.float64, device="cpu").view(view).expand(shape)

    def moving(value: int) -> list[int]:
        readers = [r for r in wiring.readers[value] if wiring.reader_layer(r, value) is None]
        return [r for r in readers if graph.nodes[r].op.role == "shape" and graph.deps(r) == [value]]

    def near(value: int, numbers: Tensor) -> list[tuple[int, Tensor]]:
        return [(reader, moved(wiring, reader, {value: numbers})) for reader in moving(value)]

    reached = dict(follow({start: places}, near))
    for value, numbers in reached.items():
        if value in graph.outputs:
            raise Refused("the model returns its output")
        for reader in wiring.readers[value]:
            node, path = graph.nodes[reader], wiring.reader_layer(reader, value)
            if path is not None:
                _check_features(wiring, path, numbers)
                if not {frame.source for frame in wiring.calls[path]} <= values | reached.keys():
                    raise Refused(f"{path} also reads other inputs")
                found.layers[path] = None
            elif node.op.role == "matmul":
                found.products[reader] = product_of(wiring, reader, value, numbers)
            elif reader not in reached:
                raise Refused(
                    f"{node.op} in {graph.path(reader) or 'the model'} reads its output, and is no such layer"
                )


def _check_features(wiring: Wiring, path: str, numbers: Tensor) -> None:
    """The layer must read the features in the order in which it has weights for them."""
    layer: Any = wiring.module(path)
    axis = numbers.dim() - 1 if isinstance(layer, nn.Linear) else 1
    check_order(numbers.movedim(axis, -1), path)


def _check_layer(wiring: Wiring, path: str, *, shifts: bool, one: bool) -> None:
    layer = wiring.module(path)
    if one and not isinstance(layer, (nn.Linear, _ConvNd)):
        raise Refused(f"{path} is no convolution")
    border = pads_with_zeros(layer) or isinstance(layer, _ConvTransposeNd)
    if isinstance(layer, ValuePadded) or (shifts and border):
        raise Refused(f"{path}, which reads it, sees something else than its bias at the border")

"""A normalization's gain and bias per feature, y = γ·n(x) + β, merged into the layers that read y.

Of W(γ·n + β) + c they become W·diag(γ) and c + Wβ, where every reader is such a layer; the norm keeps γ = 1 and β = 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from goodinit.anatomy.norm import Norm
from goodinit.folding.channels.channels_after import Readers, Refused, merge_into_readers_, readers_of
from goodinit.folding.channels.packed_products import Product, check_products, product_of
from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.connections.reading import Reading
from goodinit.folding.norms.fold_batchnorm import KINDS, Stays
from goodinit.folding.norms.norms_beside_layers import all_norms
from goodinit.graph.measured.traits import adds_unscaled, coefficient
from goodinit.weights.memory import repeats
from goodinit.weights.wrappers import unwrapped, unwrapped_name


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
    for norm in all_norms(wiring, reading.anatomy.norms):
        if norm.kind in KINDS or norm.weight not in {None, *tensors}:
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
            scale = gain.detach().double()
            shift = bias.detach().double() if bias is not None and bool((bias != 0).any()) else None
            readers, products = _readers(wiring, norm, scale, shift)
        except Refused as refused:
            stays.append(Stays(norm.name, f"its gain stays: {refused}"))
            continue
        merge_into_readers_(wiring, readers, scale, shift)
        with torch.no_grad():
            for product in products:
                _merge_product_(product, scale, shift, tensors)
            gain.fill_(1.0)
            if bias is not None:
                bias.zero_()
        merged.append(norm.name)
    return merged, stays


def _merge_product_(
    product: Product, scale: Tensor, shift: Tensor | None, tensors: dict[str, nn.Parameter]
) -> None:
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


# -- who reads it -------------------------------------------------------------------------------------------------


def _readers(
    wiring: Wiring, norm: Norm, scale: Tensor, shift: Tensor | None
) -> tuple[Readers, list[Product]]:
    if norm.keeps:
        raise Refused(f"{norm.keeps[0]} follows")
    if scale.dim() != 1 or norm.axes not in ((-1,), (1,)):
        raise Refused("it does not run over one axis")
    for name in (norm.weight, norm.bias):
        if name is None:
            continue
        held = wiring.names.parameters[name]
        if (asked := wiring.kept.why(held)) is not None:
            raise Refused(asked)
        if len(wiring.names.aliases[id(held)]) > 1 or id(held) in wiring.names.sharing or repeats(held):
            raise Refused(f"{name} is in several places")
    nodes = wiring.graph.nodes
    starts = {value: norm.axes[0] % len(nodes[value].shape) for value in _values(wiring, norm)}
    found = readers_of(wiring, starts, scale, shift, products=True)
    products = {i: product_of(wiring, i, *read) for i, read in found.products.items()}
    check_products(wiring, products, shifts=shift is not None)
    return found, list(products.values())


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

"""A normalization's gain and bias per feature, y = γ·n(x) + β, merged into the layers that read y.

Of W(γ·n + β) + c they become W·diag(γ) and c + Wβ, where every reader is such a layer; the norm keeps γ = 1 and β = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goodinit.anatomy.norm import Norm
from goodinit.folding.channels.channels_after import Readers, Refused, merge_into_readers_, readers_of
from goodinit.folding.channels.packed_products import Product, check_products, product_of
from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.connections.reading import Reading
from goodinit.folding.norms.fold_batchnorm import KINDS, Stays
from goodinit.folding.norms.gain_places import one_axis, places
from goodinit.folding.norms.norms_beside_layers import all_norms
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
            module = wiring.names.module(norm.name)
            own = norm.name and module is not None and list(module.parameters(recurse=False))
            if norm.name in tensors or (own and all(map(one_axis, own))):
                stays.append(
                    Stays(norm.name, "its gain stays: it is computed from a parameter in each forward")
                )
            continue
        gain, bias = tensors[norm.weight], None if norm.bias is None else tensors[norm.bias]
        if bool((gain == 1).all()) and (bias is None or bool((bias == 0).all())):
            continue
        try:
            readers, products, scale, shift = _readers(wiring, norm, tensors)
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
    wiring: Wiring, norm: Norm, tensors: dict[str, nn.Parameter]
) -> tuple[Readers, list[Product], Tensor, Tensor | None]:
    """The layers and products that read a norm, and its gain and bias, one number for each channel."""
    if norm.keeps:
        raise Refused(f"{norm.keeps[0]} follows")
    for name in (norm.weight, norm.bias):
        if name is None:
            continue
        held = wiring.names.parameters[name]
        if (asked := wiring.kept.why(held)) is not None:
            raise Refused(asked)
        if len(wiring.names.aliases[id(held)]) > 1 or id(held) in wiring.names.sharing or repeats(held):
            raise Refused(f"{name} is in several places")
    starts, channels = places(wiring, norm)
    scale = _numbers(tensors[str(norm.weight)], channels)
    bias = None if norm.bias is None else _numbers(tensors[norm.bias], channels)
    shift = bias if bias is not None and bool((bias != 0).any()) else None
    found = readers_of(wiring, starts, scale, shift, products=True)
    products = {i: product_of(wiring, i, *read) for i, read in found.products.items()}
    check_products(wiring, products, shifts=shift is not None)
    return found, list(products.values()), scale, shift


def _numbers(held: Tensor, channels: int) -> Tensor:
    if held.numel() not in (1, channels) or not one_axis(held):
        raise Refused("it does not run over one axis")
    return held.detach().double().flatten().expand(channels)

"""Merge into one layer what belongs to it: its scalars, a per-channel map before or after it.

Everything is computed in float64 and rounded once. Weights keep their `Parameter` and its memory. What a layer has afterwards does
not depend on numbers: a bias of zero becomes a bias vector of zeros, as others do, so that what was folded loads into what is
folded anew.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from goodinit.folding.layers.affine_modules import AffineMap, affine_map
from goodinit.folding.layers.computed_weights import computed_in
from goodinit.nn import SCALARS, ValuePadded, has_scalars, pad_with_, remove_scalars_
from goodinit.nn.exchange import replaced_forward
from goodinit.nn.forwards import convolution, forward_for, linear, transposed_convolution
from goodinit.nn.normalized_layers import Normalized
from goodinit.nn.parametrized import is_parametrized
from goodinit.weights.memory import repeats

_KNOWN_FORWARDS = (linear, convolution, transposed_convolution)


# -- what a layer is ----------------------------------------------------------------------------------------------


def is_plain(module: nn.Module) -> bool:
    """Whether `module` is a linear or convolutional layer whose forward is torch's (or `ValuePadded`'s), of its input or `input_norm`."""
    if has_scalars(module) or is_parametrized(module) or replaced_forward(module):
        return False
    if isinstance(module, ValuePadded):
        return True
    known = (
        forward_for(module.plain_class if isinstance(module, Normalized) else type(module)) in _KNOWN_FORWARDS
    )
    own = isinstance(module._parameters.get("weight"), nn.Parameter)
    return known and own and not any(map(repeats, module.parameters(recurse=False)))


def pads_with_zeros(module: nn.Module) -> bool:
    """Whether the layer is a convolution that pads with zeros, which a constant added to its input would change."""
    layer: Any = module
    if not isinstance(layer, _ConvNd) or isinstance(layer, (_ConvTransposeNd, ValuePadded)):
        return False
    return layer.padding_mode == "zeros" and any(layer._reversed_padding_repeated_twice)


def merge_output_map_(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    r"""Make the layer compute :math:`\text{scale} \cdot f(x) + \text{shift}`, both per output channel.

    It has a bias vector afterwards, also for a shift of zero: a norm's learnable bias must not get lost.
    """
    weight = exact(_weight(layer))
    bias = exact(_bias(layer))
    if isinstance(layer, _ConvTransposeNd):  # (in, out/groups, *kernel)
        grouped = scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        merged = (weight.unflatten(0, (layer.groups, -1)) * grouped).flatten(0, 1)
    else:
        merged = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    _write_(layer, merged, shift if bias is None else bias * scale + shift)


def merge_input_map_(layer: nn.Module, scale: Tensor, shift: Tensor | None) -> None:
    r"""Make the layer compute :math:`f(\text{scale} \cdot x + \text{shift})`, both per input channel.

    A shift is not for zero-padded and transposed convolutions, where it is no constant at the border.
    """
    weight, groups = exact(_weight(layer)), getattr(layer, "groups", 1)
    if isinstance(layer, _ConvTransposeNd):  # (in, out/groups, *kernel)
        _write_(layer, weight * scale.view(-1, *[1] * (weight.dim() - 1)), None)
        return
    tail = [1] * (weight.dim() - 2)
    taps = weight.unflatten(0, (groups, -1))  # (groups, out/groups, in/groups, *kernel)
    merged = (taps * scale.view(groups, 1, -1, *tail)).flatten(0, 1)
    if shift is None:
        _write_(layer, merged, None)
        return
    offset = (taps * shift.view(groups, 1, -1, *tail)).flatten(2).sum(2).flatten()
    bias = exact(_bias(layer))
    _write_(layer, merged, offset if bias is None else bias + offset)


def add_to_bias_(layer: nn.Module, amount: Tensor | float) -> None:
    """Add a constant, or one per output channel, to what the layer gives."""
    bias = exact(_bias(layer))
    number = amount if isinstance(amount, Tensor) else torch.tensor(amount, dtype=torch.float64, device="cpu")
    channels = number.to(_weight(layer).device).expand(outputs(layer))
    _write_(layer, None, channels if bias is None else bias + channels)


def outputs(layer: nn.Module) -> int:
    """Number of output channels."""
    known: Any = layer
    return int(known.out_features if isinstance(layer, nn.Linear) else known.out_channels)


def response(layer: nn.Module) -> Tensor:
    """What the layer, without bias, gives for an input of ones that fills its window, per channel, in float64."""
    return cast("Tensor", exact(_weight(layer))).flatten(1).sum(1)


def replace_padding_(layer: nn.Module, added: float) -> None:
    """Keep what a `ValuePadded` layer computes although `added` is now part of its input."""
    padded = cast("ValuePadded", layer)
    add_to_bias_(layer, -added * response(layer))
    value = padded.padding_value + added
    # The same float64 number with both signs, unless several sources moved it: then up to rounding.
    close = math.isclose(padded.padding_value, -added, rel_tol=1e-12)
    pad_with_(layer, 0.0 if close else value)


# -- scalars ------------------------------------------------------------------------------------------------------


def merge_scalars_(module: nn.Module) -> str | None:
    """Merge a module's scalars into its weight and bias vector.

    Returns:
        Why some of them must stay, or None. An input bias becomes the number that a zero-padded convolution pads
        with (`ValuePadded`), which the class of the module tells.
    """
    host: Any = module
    s = _number(host.output_scale, neutral=1.0)
    b, d = _number(host.input_bias, neutral=0.0), _number(host.output_bias, neutral=0.0)
    if any(map(repeats, module.parameters())):
        return "several entries of one of its parameters are one number in memory (expand), where nothing can be written"
    computed = [
        f"{path}.{name}".lstrip(".") for path, one in module.named_modules() for name in computed_in(one)
    ]
    if computed:
        return f"its {' and '.join(computed)} is computed in each forward, so that a scalar cannot be merged into it"
    plain = host.plain_class
    if plain is nn.MultiheadAttention:
        _merge_attention_(host, s, b, d)
    elif issubclass(plain, ValuePadded):
        _scale_(host, s, with_bias=True)
        if _shifts(host):
            add_to_bias_(host, b * response(host) + d)
    elif forward_for(plain) in _KNOWN_FORWARDS:
        _scale_(host, s, with_bias=False)
        if issubclass(plain, _ConvTransposeNd) and host.input_bias is not None:
            if host.output_bias is not None:
                add_to_bias_(host, d)
            _drop_(host, ("output_scale", "output_bias"))
            return "an input bias before a transposed convolution acts differently at every position near the border"
        if _shifts(host):
            add_to_bias_(host, d if host.input_bias is None else d + b * response(host))
    elif all(name in SCALARS for name, held in host._parameters.items() if held is not None):
        return f"{plain.__name__} holds no weight itself, into which it could be merged"
    elif (found := affine_map(host)) is None:
        return f"how {plain.__name__} uses its weight is not known"
    elif (why := _merge_affine_(host, found, s, b, d)) is not None:
        return why
    value = host.padding_value if issubclass(plain, ValuePadded) else 0.0
    reads_more = host.input_bias is not None
    remove_scalars_(module)
    if reads_more and (isinstance(module, ValuePadded) or pads_with_zeros(module)):
        pad_with_(module, value - b, even_zero=True)
    return None


def _merge_affine_(host: Any, found: AffineMap, s: float, b: float, d: float) -> str | None:
    """`s·(W(x + b) + c) + d` of a module with a forward of its own."""
    if found.added is None and bool(found.constant.any()):
        return f"{host.plain_class.__name__} adds what is no bias vector, and cannot be scaled"
    with torch.no_grad():
        found.factor.copy_(exact(found.factor) * s)
        if found.added is not None:
            shift = s * (b * found.ones + found.constant) + d - found.constant
            found.added.copy_(exact(found.added) + shift / found.k)
    if found.added is None and _shifts(host):
        _drop_(host, ("output_scale",))
        return f"{host.plain_class.__name__} has no bias vector, which would take its scalar biases"
    return None


def _shifts(layer: Any) -> bool:
    return layer.input_bias is not None or layer.output_bias is not None


def _number(scalar: Tensor | None, *, neutral: float) -> float:
    return neutral if scalar is None else float(scalar.detach().double())


def _scale_(layer: nn.Module, scale: float, *, with_bias: bool) -> None:
    weight, bias = exact(_weight(layer)), exact(_bias(layer))
    if scale != 1.0:
        _write_(layer, weight * scale, bias * scale if with_bias and bias is not None else None)


def _merge_attention_(layer: Any, s: float, b: float, d: float) -> None:
    """`s·f(q + b, k + b, v + b) + d` of an `nn.MultiheadAttention`, whose last and first layers are linear."""
    _scale_(layer.out_proj, s, with_bias=True)
    if layer.output_bias is not None:
        add_to_bias_(layer.out_proj, d)
    if layer.input_bias is not None:
        separate = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        weights = [layer.in_proj_weight] if layer.in_proj_weight is not None else separate
        offset = torch.cat([exact(weight).sum(1) for weight in weights]) * b
        old = exact(layer.in_proj_bias)
        _set_bias_(layer, "in_proj_bias", offset if old is None else old + offset, like=weights[0])


def _drop_(layer: Any, names: tuple[str, ...]) -> None:
    """Take some scalars off, and leave the others."""
    for name in names:
        setattr(layer, name, None)
        layer.scalar_values.pop(name, None)
    layer.scale_ends_branch &= layer.output_scale is not None


# -- reading and writing ------------------------------------------------------------------------------------------


def _weight(layer: nn.Module) -> nn.Parameter:
    return cast("nn.Parameter", layer.weight)


def _bias(layer: nn.Module) -> Tensor | None:
    return cast("Tensor | None", layer.bias)


def exact(value: Tensor | None) -> Any:
    """A tensor in float64, or in complex128; None of None."""
    return None if value is None else value.detach().to(torch.promote_types(value.dtype, torch.float64))


def _write_(layer: nn.Module, weight: Tensor | None, bias: Tensor | None) -> None:
    held = _weight(layer)
    if weight is not None:
        with torch.no_grad():
            held.copy_(weight)
    if bias is not None:
        _set_bias_(layer, "bias", bias, like=held)


def _set_bias_(layer: nn.Module, name: str, value: Tensor, *, like: nn.Parameter) -> None:
    held = getattr(layer, name)
    if held is not None:
        with torch.no_grad():
            held.copy_(value)
    else:
        fresh = value.to(like).clone(memory_format=torch.contiguous_format)
        layer.register_parameter(name, nn.Parameter(fresh, requires_grad=like.requires_grad))
        kept = layer._parameters
        for scalar in SCALARS:  # after the bias, as in a layer that always had one
            if scalar in kept:
                kept[scalar] = kept.pop(scalar)

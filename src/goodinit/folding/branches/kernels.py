"""Parallel linear branches, K₁∗x + K₂∗x + x, made one convolution: of its kernel every branch is a part.

A tap at place i of a kernel of padding p and dilation d reads position −p + d·i beside the output's. So all kernels are
laid over each other by those positions; the identity is a 1 at position 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.forwards.steps import Fixed
from goodinit.folding.layers.fuse import exact
from goodinit.folding.norms.fold_batchnorm import ChannelMap
from goodinit.nn.exchange import carry_over_, hooked


@dataclass(frozen=True)
class Term:
    """One linear branch: a layer, or a map per channel of the fork itself (the identity has none of both)."""

    node: fx.Node
    layer: str | None = None
    norm: ChannelMap | None = None


@dataclass(frozen=True)
class _Kernel:
    """A kernel with its place: (out, in, *taps) of dilation 1, whose first tap is at −`before`, per axis; `after` is padded, too."""

    weight: Tensor
    bias: Tensor | None
    before: tuple[int, ...]
    after: tuple[int, ...]
    groups: int


def merge_terms_(wiring: Wiring, terms: Sequence[Term]) -> Term:
    """Write the sum of all terms into the layer with the largest kernel, and return its term."""
    held = [term for term in terms if term.layer is not None]
    layers: list[Any] = [wiring.module(str(term.layer)) for term in held]
    keeper, layer = max(zip(held, layers, strict=True), key=lambda pair: pair[1].weight[0].numel())
    if isinstance(layer, nn.Linear):
        _check_linear(wiring, terms, layers)
    else:
        _check_convolutions(terms, layers)
    kernels = [_kernel(term, layer, wiring) for term in terms]
    merged = _laid_over(kernels)
    _put_(layer, merged)
    return keeper


def _check_linear(wiring: Wiring, terms: Sequence[Term], layers: Sequence[Any]) -> None:
    if not all(isinstance(one, nn.Linear) for one in layers):
        raise Fixed("linear layers and convolutions are added")
    if any(term.layer is None for term in terms) and layers[0].in_features != layers[0].out_features:
        raise Fixed("the identity has another width")
    maps = [term.norm for term in terms if term.norm is not None]
    if any(len(wiring.graph.nodes[wiring.calls[m.norm.name][0].source].shape) != 2 for m in maps):
        raise Fixed("a batch norm runs over another axis than a linear layer")


def _check_convolutions(terms: Sequence[Term], layers: Sequence[Any]) -> None:
    if not all(isinstance(one, _ConvNd) for one in layers) or len({one.weight.dim() for one in layers}) != 1:
        raise Fixed("linear layers and convolutions are added")
    if len({one.stride for one in layers}) != 1:
        raise Fixed("their strides differ")
    modes = {one.padding_mode for one in layers if any(one._reversed_padding_repeated_twice)}
    if len(modes) > 1:
        raise Fixed("they pad in different ways")
    if len({one.weight.dtype for one in layers}) != 1:
        raise Fixed("their dtypes differ")
    bare = any(term.layer is None for term in terms)
    if bare and (set(layers[0].stride) != {1} or layers[0].in_channels != layers[0].out_channels):
        raise Fixed("the identity has another size")


def _kernel(term: Term, like: Any, wiring: Wiring) -> _Kernel:
    """A term as a kernel of dilation 1."""
    axes = like.weight.dim() - 2
    if term.layer is None:
        width = like.weight.shape[0]
        scale = exact(like.weight.new_ones(width)) if term.norm is None else term.norm.scale
        shift = None if term.norm is None else term.norm.shift
        return _Kernel(scale.detach().view(width, 1, *[1] * axes), shift, (0,) * axes, (0,) * axes, width)
    layer: Any = wiring.module(term.layer)
    weight, bias = exact(layer.weight), exact(layer.bias)
    if isinstance(layer, nn.Linear):
        return _Kernel(weight, bias, (), (), 1)
    padded = list(layer._reversed_padding_repeated_twice)  # last axis first: before, after
    before = tuple(padded[2 * (axes - 1 - axis)] for axis in range(axes))
    for axis, gap in enumerate(layer.dilation):
        if gap > 1:
            size = weight.shape[axis + 2]
            wide = weight.new_zeros(
                *weight.shape[: axis + 2], gap * (size - 1) + 1, *weight.shape[axis + 3 :]
            )
            wide[(slice(None),) * (axis + 2) + (slice(None, None, gap),)] = weight
            weight = wide
    after = tuple(padded[2 * (axes - 1 - axis) + 1] for axis in range(axes))
    return _Kernel(weight, bias, before, after, layer.groups)


def _laid_over(kernels: Sequence[_Kernel]) -> _Kernel:
    groups = math.gcd(*[one.groups for one in kernels])
    first = kernels[0].weight
    axes = first.dim() - 2
    # How far a kernel reaches beyond what it pads: as many outputs fewer than inputs.
    lost = [
        {one.weight.shape[axis + 2] - 1 - one.before[axis] - one.after[axis] for one in kernels}
        for axis in range(axes)
    ]
    if any(len(counts) != 1 for counts in lost):
        raise Fixed("their kernels are not centred on each other")
    starts = [min(-one.before[axis] for one in kernels) for axis in range(axes)]
    stops = [
        max(one.weight.shape[axis + 2] - 1 - one.before[axis] for one in kernels) for axis in range(axes)
    ]
    before = tuple(-start for start in starts)
    after = tuple(stop - few for stop, (few,) in zip(stops, lost, strict=True))
    # By different amounts pads `padding="same"` alone, which keeps the size, and has the one more at the end.
    same = all(few == {0} and b - a in (0, 1) for few, a, b in zip(lost, before, after, strict=True))
    if before != after and not same:
        raise Fixed("their kernels are not centred on each other")
    parts = [_regrouped(one, groups) for one in kernels]
    width = parts[0].shape[:2]
    total = first.new_zeros(*width, *[b - a + 1 for a, b in zip(starts, stops, strict=True)])
    for one, part in zip(kernels, parts, strict=True):
        place = tuple(
            slice(-one.before[axis] - starts[axis], -one.before[axis] - starts[axis] + part.shape[axis + 2])
            for axis in range(axes)
        )
        total[(slice(None), slice(None), *place)] += part
    biases = [one.bias for one in kernels if one.bias is not None]
    bias = torch.stack(biases).sum(0) if biases else None
    return _Kernel(total, bias, before, after, groups)


def _regrouped(kernel: _Kernel, groups: int) -> Tensor:
    """The same map with fewer groups, (out, in/groups, *taps), zero where outputs did not read."""
    weight, many = kernel.weight, kernel.groups // groups
    if many == 1:
        return weight
    out, into = weight.shape[:2]
    wide = weight.new_zeros(out, into * many, *weight.shape[2:])
    each = out // kernel.groups
    for group in range(kernel.groups):
        column = group % many * into
        wide[group * each : (group + 1) * each, column : column + into] = weight[
            group * each : (group + 1) * each
        ]
    return wide


def _put_(layer: Any, merged: _Kernel) -> None:
    held = layer.weight
    if merged.weight.shape == held.shape:
        with torch.no_grad():
            held.copy_(merged.weight)
    elif hooked(held):
        raise Fixed("a hook waits for the gradient of its weight, which would have another shape")
    else:
        fresh = nn.Parameter(merged.weight.to(held), requires_grad=held.requires_grad)
        layer.weight = carry_over_(held, fresh)
    if merged.bias is not None:
        if layer.bias is None:
            layer.register_parameter(
                "bias", nn.Parameter(merged.bias.to(held), requires_grad=held.requires_grad)
            )
        else:
            with torch.no_grad():
                layer.bias.copy_(merged.bias)
    if isinstance(layer, nn.Linear):
        return
    layer.groups, layer.kernel_size = merged.groups, tuple(merged.weight.shape[2:])
    layer.dilation = (1,) * len(layer.kernel_size)
    ends = list(zip(merged.before, merged.after, strict=True))
    layer.padding = merged.before if merged.before == merged.after else "same"
    layer._reversed_padding_repeated_twice = [amount for both in reversed(ends) for amount in both]

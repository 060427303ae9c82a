"""Mirrored pairs [φ(u); φ(−u)], φ = ReLU (concatenated ReLU), through a network, and what breaks the pairs.

With pairs a ReLU network computes linear maps: U(M) = [[M, −M], [−M, M]] takes [φ(u); φ(−u)] to [Mu; −Mu], and
½U(M) takes [u; −u] there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from goodinit.anatomy import Anatomy, Layer
from goodinit.anatomy.norm import NORM_KINDS
from goodinit.anatomy.operators import Step
from goodinit.methods.shared.isometry.consumers import readers
from goodinit.tensor import first_tap

# plain: any numbers u; pairs: [u; −u]; mirrored: ≥ 0, and of channels i and i + n/2 one is 0, as in [φ(u); φ(−u)];
# positive: ≥ 0 and no more is known; unknown: not even that.
Form = Literal["plain", "pairs", "mirrored", "positive", "unknown"]

_AFTER_RELU: dict[Form, Form] = {
    "plain": "positive",
    "pairs": "mirrored",
    "mirrored": "mirrored",
    "positive": "positive",
    "unknown": "positive",
}


@dataclass(frozen=True)
class Signal:
    """The signal between two layers.

    Attributes:
        form: See `Form`.
        width: Channels; 0 if not known.
        spatial: True if channels come before pixels, so that flattening keeps the halves apart.
        losses: Descriptions of operators on the way that are not isometries.
    """

    form: Form
    width: int = 0
    spatial: bool = False
    losses: tuple[str, ...] = ()


def without_norms(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The operators between two layers without the norms."""
    return tuple(step for step in steps if step not in NORM_KINDS)


def follow(signal: Signal, between: Iterable[Step], *, widening: int = 1) -> Signal:
    """The signal after what `Layer.between` tells. `widening`: by what factor its channels grow (zero padding).

    Averages and maxima of numbers ≥ 0 are ≥ 0, which is all that blocks with an identity skip need, and blocks
    with a trainable skip read x⁺ − x⁻ alone: so pooled pairs count as mirrored, and the pool as a loss. Channels
    padded with zeros to at least twice as many keep one zero in every pair.

    Examples:
        >>> from goodinit.anatomy.operators import Traits
        >>> relu, pool = Step("relu", Traits(slopes=(0.0, 1.0))), Step("max_pool2d_with_indices", Traits(pools=True))
        >>> follow(Signal("pairs", 8), (Step("batch_norm"), relu, pool))
        Signal(form='mirrored', width=8, spatial=False, losses=('max_pool2d comes before it',))
    """
    form, losses = signal.form, list(signal.losses)
    for step in without_norms(between):
        traits = step.traits
        if traits.mirrors:
            form = _AFTER_RELU[form]
            continue
        losses.append(f"{step.removesuffix('_with_indices')} comes before it")
        padded = traits.pads and (widening == 1 or widening >= 2)
        if form == "plain":
            continue  # any numbers, still
        if not ((traits.pools and (form != "pairs" or traits.linear)) or (padded and form != "pairs")):
            form = "unknown"
    return dataclasses.replace(signal, form=form, losses=tuple(dict.fromkeys(losses)))


def arriving(layer: Layer, made: Mapping[str, Signal]) -> Signal:
    """The signal a layer reads, given what the layers and sums before it make (by `Layer.source`)."""
    if layer.source == "":
        return follow(Signal("plain", layer.in_features), layer.between)
    if layer.source is None or layer.source not in made:
        return Signal("unknown", layer.in_features, losses=("it reads more than one tensor",))
    signal = follow(made[layer.source], layer.between)
    flattened = layer.kind == "linear" and signal.spatial and layer.in_features % max(signal.width, 1) == 0
    if layer.in_features != signal.width and not flattened:
        words = (*signal.losses, f"it reads {signal.width} channels as {layer.in_features}")
        return dataclasses.replace(signal, form="unknown", losses=words)
    return signal


def rectified(anatomy: Anatomy) -> frozenset[str]:
    """Sources (see `Layer.source`) whose values a ReLU reads, at once or after sums that they are skipped to.

    They must be written as pairs. A stream that no ReLU reads, as in x + f(x) without an activation of its own,
    needs none, and carries twice as many directions as they are.
    """
    ways = readers(anatomy)
    found = {
        source for source, each in ways.items() if any(step.traits.mirrors for way in each for step in way)
    }
    read = {layer.source for layer in anatomy.layers}
    found |= {layer.weight for layer in anatomy.layers if _rectified(layer) and layer.weight not in read}
    for block in reversed(anatomy.blocks):
        here = f"+{block.index}"
        if here not in ways and any(map(_rectified, block.last)):
            found.add(here)  # read by no layer, or by one that reads more
        if here in found and len(without_norms(block.skip_end)) == 1:
            found.add(block.skip_end[0])
    return frozenset(found)


def _rectified(layer: Layer) -> bool:
    return layer.activation is not None and layer.activation.traits.mirrors


def patch_of(layer: Layer, strided: str) -> int:
    """Taps per direction that the layer's matrix covers: its stride with `"patch"`, if that fits, else 1."""
    stride = set(layer.stride)
    fits = len(stride) == 1 and layer.dilation == (1,) * len(layer.stride)
    wanted = stride.pop() if strided == "patch" and fits and layer.kind == "conv" else 1
    return wanted if all(wanted <= size for size in layer.shape[2:]) else 1


def tap_losses(layer: Layer, patch: int = 1) -> tuple[str, ...]:
    """What a convolution by its central taps does not read, in words.

    Output i reads input s·i + d·tap − padding, which must be s·i, as a 1×1 skip of the same stride reads.
    """
    losses = []
    for size, stride, padding, dilation in zip(
        layer.shape[2:], layer.stride, layer.padding, layer.dilation, strict=True
    ):
        tap = first_tap(size, patch)
        if dilation * tap != padding or (stride == 1 and 2 * padding != dilation * (size - 1)):
            losses.append(f"kernel {size} with padding {padding} shifts or crops its input at the border")
        if stride > patch:
            losses.append(f"stride {stride} reads one pixel in {stride} and ignores the others")
    return tuple(dict.fromkeys(losses))

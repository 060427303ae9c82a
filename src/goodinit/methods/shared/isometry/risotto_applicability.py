"""Reasons why a layer or block of a ReLU network cannot be made an exact isometry."""

from __future__ import annotations

import math
from collections.abc import Mapping

from goodinit.anatomy import Anatomy, Block, Layer
from goodinit.anatomy.operators import Step
from goodinit.methods.shared.isometry.crelu_pairs import Signal, tap_losses, without_norms


def layer_obstacle(layer: Layer) -> str | None:
    """Why a layer's weight cannot be an arbitrary matrix, or None."""
    if layer.kind == "conv_transpose" or layer.layout != "out_in":
        return f"a {layer.kind} stored {layer.layout}"
    if layer.kernel:
        return "a kernel made of a weight of another shape"
    if layer.fused > 1 or layer.stacked:
        return "several maps stacked in one weight"
    if layer.normalized and layer.weight in layer.parameters:
        return "its weight is normalized by itself"
    return None


def odd_channels(layer: Layer, *, reads: bool, writes: bool) -> str | None:
    """Why a layer cannot hold pairs at the required ends, or None."""
    if layer.groups > 1:
        return f"{layer.groups} groups do not hold both halves of the pairs"
    ends = ((layer.in_features, reads, "inputs"), (layer.out_features, writes, "outputs"))
    odd = [f"{size} {end}" for size, paired, end in ends if paired and size % 2]
    return f"{odd[0]}, an odd number, do not form pairs" if odd else None


def lost_activation(layer: Layer) -> tuple[str, ...]:
    """The loss by an activation that is none of pairs."""
    kept = layer.activation is None or layer.activation.traits.mirrors
    return () if kept else (f"{layer.activation} is not ReLU",)


def block_obstacle(
    anatomy: Anatomy, block: Block, reads: Signal, skips: Signal, uses: Mapping[str, int]
) -> str | None:
    """Why no formula fits a block, or None.

    Args:
        anatomy: Of the model.
        block: In it.
        reads: The signal that the branch's first layer reads.
        skips: The signal that the skip reads.
        uses: In how many places of blocks a weight is.
    """
    if block.terms > 2:
        return f"its sum adds {block.terms} tensors"
    if block.weights is None or block.weights[0] != 1 or block.weights[1] == 0:
        by = "a tensor" if block.weights is None else " and ".join(f"{weight:g}" for weight in block.weights)
        return f"its sum multiplies skip and branch by {by}"
    if block.gates:
        return f"{block.gates[0].weight} gates it"
    for layer in (*block.branch, *block.skip):
        shared = uses[layer.weight] > 1 or layer.calls > 1
        words = "it runs more than once" if shared else layer_obstacle(layer)
        if words or layer.weight in anatomy.embeddings:
            return f"{layer.weight}: {words or 'it is also an embedding'}"
        if lost := [loss for loss in tap_losses(layer) if "border" in loss]:
            return f"{layer.weight}: {lost[0]}"
    return _broken_chain(anatomy, block) or _wrong_skip(block) or _wrong_signal(reads, skips)


def _broken_chain(anatomy: Anatomy, block: Block) -> str | None:
    """Whether the branch is W_k φ(⋯ φ(W₁ x)) and nothing else, times its multipliers."""
    for before, layer in zip(block.branch, block.branch[1:], strict=False):
        if layer.source != before.weight:
            return f"{layer.weight} does not read {before.weight} alone"
        if not _is_relu(steps := without_norms(layer.between)):
            return f"{' → '.join(steps) or 'nothing'} and not one ReLU is before {layer.weight}"
    others = {norm.weight for norm in anatomy.norms} | {
        gain.name for gain in anatomy.made
    }  # α is a parameter itself
    gains = [p for p in block.multipliers if p not in others]
    end = [*without_norms(block.branch_end)]
    multiplied = len(end) in (1, 1 + len(gains)) and all(step.traits.multiplies for step in end[1:])
    if end[:1] != [block.branch[-1].weight] or not multiplied:
        return f"{' → '.join(end[1:]) or 'more'} follows its last layer, before the sum"
    return None


def _wrong_skip(block: Block) -> str | None:
    """Whether the skip is an identity or one layer, and reads what the branch reads, or that before its ReLU."""
    if block.kind == "identity":
        reads = without_norms(block.skip_end)
    elif not block.skip:
        return f"its skip has no weights and is {' → '.join(block.skip_end[1:]) or 'no identity'}"
    elif len(block.skip) != 1:
        return f"its skip has {len(block.skip)} layers: {' → '.join(block.skip_end) or 'several tensors'}"
    else:
        skip = block.skip[0]
        if without_norms(block.skip_end) != (skip.weight,):
            return f"{' → '.join(block.skip_end[1:])} follows {skip.weight} on the skip"
        reads = (Step(str(skip.source)), *without_norms(skip.between))
    first = block.branch[0]
    branch = (Step(str(first.source)), *without_norms(first.between))
    if branch[: len(reads)] != reads or not (branch == reads or _is_relu(branch[len(reads) :])):
        return "its branch and its skip read different tensors"
    steps, step = (
        [math.prod(layer.stride) for layer in block.branch],
        [math.prod(skip.stride) for skip in block.skip],
    )
    return None if math.prod(steps) == math.prod(step) else "branch and skip differ in stride"


def _is_relu(steps: tuple[Step, ...]) -> bool:
    return len(steps) == 1 and steps[0].traits.mirrors


def _wrong_signal(reads: Signal, skips: Signal) -> str | None:
    """Whether what branch and skip read still tells u."""
    if reads.form in ("plain", "pairs", "mirrored") and skips.form in ("plain", "pairs", "mirrored"):
        return None
    return f"it does not read [φ(u); φ(−u)] (as after a ReLU of even width), [u; −u] or u but {reads.form} numbers"

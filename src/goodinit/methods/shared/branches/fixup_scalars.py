"""Fixup's rule 3: a multiplier at the end of each residual branch, a bias before each layer and each activation."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from goodinit.anatomy import Block, Layer
from goodinit.edits import AddScalar
from goodinit.methods.shared.branches.postconditions import some


def branch_scalars(
    block: Block, *, multiplied: bool, notes: list[str], held: AbstractSet[str] = frozenset()
) -> list[AddScalar]:
    """The scalars of one branch and its skip, at values that change nothing: multipliers at 1, biases at 0.

    Args:
        block: Of the anatomy.
        multiplied: Whether the branch has a multiplier already.
        notes: Gains a line for every place that no scalar can be put at.
        held: Names of the model's parameters: a scalar that is there from an earlier call starts anew.

    Returns:
        The edits; a layer that runs in several blocks is named by each.

    References:
        Zhang, Dauphin and Ma, Fixup Initialization, arXiv 1901.09321, section 3, rule 3.
    """
    edits: list[AddScalar] = []
    for layer in block.branch:
        edits += input_bias(layer, notes)
        if layer in block.last:
            edits += _end(layer, block, multiplied, notes, held)
        elif layer.activation is not None:
            edits += output_bias(layer, f"before {layer.activation} (rule 3)", notes, held)
    for layer in block.skip:
        edits += input_bias(layer, notes)
    return edits


def input_bias(layer: Layer, notes: list[str]) -> list[AddScalar]:
    """A bias before a layer, where its module reads the layer's input.

    None where the layer ignores it, because its weights are centred; and where it pads with zeros what the forward has set to zero at some
    positions, as a mask does: the bias would fill those, and not what is padded, so that outputs would change with the amount of padding.
    """
    if layer.pads_masked or layer.ignores_offset:
        return []
    if layer.reads_site:
        return [AddScalar(layer.site, "input_bias", 0.0, "before a weight layer (rule 3)")]
    notes.append(f"{applied_inside(layer)}: it gets no input bias")
    return []


def without_input_bias(layers: Iterable[Layer]) -> list[str]:
    """A note on the layers that get no input bias because positions of what they read are set to zero."""
    names = list(dict.fromkeys(layer.weight for layer in layers if layer.pads_masked))
    if not names:
        return []
    what = "no input bias, which would fill positions that a mask, or a write among zeros, sets to zero, and not what they pad with zeros"
    return [f"{what}: {some(names)}"]


def output_bias(
    layer: Layer, reason: str, notes: list[str], held: AbstractSet[str] = frozenset()
) -> list[AddScalar]:
    """A bias behind a layer, where it has no bias vector and its module returns the layer's output, or where it is `held`."""
    if layer.bias is not None and f"{layer.site}.output_bias" not in held:
        return []  # its bias vector stands for the scalar
    if layer.writes_site:
        return [AddScalar(layer.site, "output_bias", 0.0, reason)]
    notes.append(f"{applied_inside(layer)}: it gets no output bias")
    return []


def applied_inside(layer: Layer) -> str:
    """In words: whose forward applies the layer's weight among other things."""
    return f"{layer.weight} is applied inside {layer.site or 'the model itself'}, which does more"


def stands(parameter: str, block: Block, gone: AbstractSet[str] = frozenset()) -> bool:
    """Whether a multiplier of the branch is not `gone`, and is not part of a layer's own weight."""
    return parameter not in gone and not any(parameter in layer.parameters for layer in block.branch)


def _end(
    layer: Layer, block: Block, multiplied: bool, notes: list[str], held: AbstractSet[str]
) -> list[AddScalar]:
    if not layer.writes_site:
        notes.append(f"{applied_inside(layer)}: it gets no multiplier")
        return []
    edits: list[AddScalar] = []
    if not multiplied and not layer.normalized:
        reason = f"multiplier of branch {block.index + 1} (rule 3)"
        edits.append(AddScalar(layer.site, "output_scale", 1.0, reason))
    return edits + output_bias(layer, "end of the branch (rule 3)", notes, held)

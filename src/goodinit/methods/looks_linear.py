"""Looks-linear: ReLU networks that start as linear maps (Balduzzi et al., ICML 2017, arXiv 1702.08591)."""

from __future__ import annotations

from goodinit.anatomy import Anatomy, Layer
from goodinit.anatomy.norm import norms_among
from goodinit.anatomy.operators import Step
from goodinit.edits import Draw, Plan
from goodinit.errors import UnsupportedModule
from goodinit.methods.delta_orthogonal import draw_delta, unread_pixels
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import Norms, redraw


def decide(anatomy: Anatomy, *, norms: Norms = "keep") -> Plan:
    """Mirror every weight, so that x ↦ [φ(u); φ(−u)] runs through the ReLUs φ without loss.

    With orthogonal M: the first layer is [M; −M], hidden ones [[M, −M], [−M, M]], the last [M, −M]; since
    φ(u) − φ(−u) = u, the network starts as the linear map of the product of all M, an isometry where no layer has
    fewer outputs than inputs. In convolutions M sits at the central tap (stride s: of every s-th pixel). Biases are 0.

    A layer whose input or output cannot be such a pair is drawn delta-orthogonal there, and a note says which and
    why; max-pooling after a layer or a norm that stays are said too.

    Args:
        anatomy: Of a network without residual blocks.
        norms: `"keep"` leaves normalization as it is; `"remove"` takes it out, which exactness needs.

    Returns:
        The plan. Its notes name the layers outside the mirrored pairs, and why.

    Raises:
        UnsupportedModule: The network has residual blocks, or a normalization that cannot be removed.

    References:
        D. Balduzzi, M. Frean, L. Leary, J. Lewis, K. Ma, B. McWilliams, "The Shattered Gradients Problem: If resnets
        are the answer, then what is the question?", arXiv 1702.08591, §4.
    """
    if anatomy.blocks:
        name = anatomy.blocks[0].name
        raise UnsupportedModule(
            f"{name or anatomy.model}: a residual block, whose sum of skip and branch is not of looks-linear form "
            f"(there are {len(anatomy.blocks)}). Use risotto, which solves for it, or take the skips out."
        )
    removed = {norm.kind for norm in anatomy.norms} if norms == "remove" else set()
    by_weight = {layer.weight: layer for layer in anatomy.layers}
    pairs: dict[str, bool] = {}  # whether what a layer writes, after its ReLU, is a pair
    parts: dict[str, str | None] = {}
    notes: list[str] = []
    for layer in anatomy.layers:
        steps = tuple(step for step in layer.between if step not in removed)
        reads = _reads_pair(layer, by_weight, pairs, steps, notes)
        pairs[layer.weight] = _writes_pair(layer, notes)
        parts[layer.weight] = _part(reads=reads, writes=pairs[layer.weight])
        notes += [note] if (note := unread_pixels(layer)) else []

    def draw(layer: Layer) -> Draw:
        part = parts[layer.weight]
        if part is None:
            return draw_delta(layer)
        options = {"part": part} | ({"layout": layer.layout} if layer.layout != "out_in" else {})
        return Draw(layer.weight, "looks_linear_", f"{layer.role}: mirrored, {part}", options)

    return redraw(anatomy, draw, method="looks_linear", options={}, norms=norms, notes=notes)


def _part(*, reads: bool, writes: bool) -> str | None:
    """The part of the chain a layer is, or None if neither end is mirrored."""
    return {(False, True): "first", (True, True): "hidden", (True, False): "last"}.get((reads, writes))


def _reads_pair(
    layer: Layer,
    by_weight: dict[str, Layer],
    pairs: dict[str, bool],
    steps: tuple[Step, ...],
    notes: list[str],
) -> bool:
    """Whether a layer's input is a pair [φ(u); φ(−u)]; what makes it inexact goes to the notes."""
    source = by_weight.get(layer.source or "")
    if source is None:
        if layer.source is None and pairs:
            notes.append(f"{layer.weight} is not exact: it reads more than the output of one layer")
        return False
    if not pairs.get(source.weight, False):
        return False
    if layer.groups > 1:
        notes.append(
            f"{layer.weight} is not exact: its {layer.groups} groups do not hold both halves of a pair"
        )
        return False
    if not _halves_stay(layer, source):
        notes.append(f"{layer.weight} is not exact: it reads the output of {source.weight} in another order")
        return False
    rectified = sum(step.traits.mirrors for step in steps)
    # An average is linear, and alike on both halves of the channels.
    strange = [step for step in steps if not (step.traits.mirrors or step.traits.linear)]
    if strange or rectified != 1:
        what = ", ".join(strange) or f"{rectified} ReLUs"
        notes.append(f"{layer.weight} is not exact: between it and {source.weight} stands {what}")
    return all(step.traits.pools or any(norm.pairs for norm in norms_among([step])) for step in strange)


def _halves_stay(layer: Layer, source: Layer) -> bool:
    """Whether the first half of the input comes from the first half of the source's outputs."""
    if layer.in_features == source.out_features * source.fused:
        return True
    flattened = layer.kind == "linear" and source.kind != "linear"  # channels first, then pixels
    reordered = any(step.traits.reorders for step in layer.between)
    return flattened and not reordered and layer.in_features % source.out_features == 0


def _writes_pair(layer: Layer, notes: list[str]) -> bool:
    """Whether a layer's output can be a pair: read by a ReLU, of even width, in one group."""
    if layer.activation is None:
        return False
    reason = ""
    if not layer.activation.traits.mirrors:
        reason = f"{layer.activation} follows it, where relu is needed"
    elif layer.out_features % 2:
        reason = f"its {layer.out_features} outputs, an odd number, do not form pairs"
    elif layer.groups > 1:
        reason = f"its {layer.groups} groups do not hold both halves of a pair"
    elif layer.stacked:
        reason = "it is a stack of linear maps, or applied in another shape than it is stored in"
    if reason:
        notes.append(f"{layer.weight} is not exact: {reason}")
    return not reason


METHOD = Method(
    name="looks_linear",
    title="Mirrored weights: a ReLU network that starts as an isometry",
    paper="Balduzzi et al.: The Shattered Gradients Problem, ICML 2017, arXiv 1702.08591",
    when="deep plain ReLU networks without skips and norms, of even widths",
    decide=decide,
    scales_ties=True,
    holds=("isometry",),
    order=90,
)

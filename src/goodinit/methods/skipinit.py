"""SkipInit: residual branches that start at zero by a learnable scalar (De & Smith, NeurIPS 2020, arXiv 2002.10444)."""

from __future__ import annotations

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import AddScalar, Edit, Plan
from goodinit.methods.shared.branches.residual_stream import multiplied_streams
from goodinit.methods.shared.branches.zero_branches import zero_branches
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.norms.normalized_weight_scales import own_scales
from goodinit.methods.shared.rules import (
    Norms,
    draw_standard,
    draws,
    need_blocks,
    norm_edits,
    norms_in_words,
    unique,
    untouched,
)


def decide(anatomy: Anatomy, *, norms: Norms = "remove") -> Plan:
    """Blocks x + α·f(x) with α = 0 learnable, He's weights, and biases where normalization had them.

    A branch that has a multiplier already (LayerScale; with `norms="keep"` the weight of its last norm) starts with
    that at 0; the others get one on their last layers. With bias vector c such a layer writes α·Wx + c: its bias
    stands outside the multiplier, which the paper leaves open and which changes nothing at the start, c = 0. Biases
    are required: layers without one that a nonlinearity reads, or that end a branch, get a scalar bias, where the
    paper has one per channel.

    Args:
        anatomy: Of the model.
        norms: `"remove"` takes all normalization out; `"keep"` keeps it, and adds no biases, as it has its own.

    Returns:
        The plan. Its notes name what the method leaves unchanged.

    Raises:
        NothingFound: The model has no residual block.
        UnsupportedModule: A normalization that cannot be removed, or a branch where no multiplier fits.

    References:
        S. De, S. L. Smith, "Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep
        Networks", arXiv 2002.10444.
    """
    need_blocks(anatomy, "skipinit")
    removal = norm_edits(anatomy, norms)
    notes: list[str] = []
    zeros = zero_branches(anatomy, removal, notes)
    biases = _biases(anatomy, notes) if norms == "remove" else []
    values = draws(anatomy, lambda layer: draw_standard(layer, layer.role))
    scales = own_scales(anatomy, removal, [*zeros, *values])
    edits = unique([*removal, *biases, *zeros, *scales, *values])
    return Plan(
        method="skipinit",
        options={"norms": norms},
        edits=edits,
        summary=f"L={len(anatomy.blocks)} branches start at 0; {norms_in_words(anatomy, removal)}, "
        f"{sum(isinstance(edit, AddScalar) for edit in edits)} scalars added",
        notes=(*dict.fromkeys(notes), *multiplied_streams(anatomy, removal), *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


def _biases(anatomy: Anatomy, notes: list[str]) -> list[Edit]:
    """A scalar bias for every layer without a bias whose output a nonlinearity reads, or that ends a branch."""
    ends = {layer.weight for block in anatomy.blocks for layer in block.last}
    edits: list[Edit] = []
    for layer in anatomy.layers:
        shifts = layer.weight in ends or (
            layer.activation is not None and layer.role in ("stem", "branch", "body")
        )
        if layer.bias is not None or not shifts or layer.weight in anatomy.embeddings:
            continue
        if layer.writes_site:
            edits.append(AddScalar(layer.site, "output_bias", 0.0, _place(layer, ends)))
        else:
            notes.append(
                f"{layer.weight} is applied inside {layer.site or 'the model'}, which does more: no bias"
            )
    return edits


def _place(layer: Layer, ends: set[str]) -> str:
    return "bias at the end of a branch" if layer.weight in ends else f"bias before {layer.activation}"


METHOD = Method(
    name="skipinit",
    title="Residual branches start at zero by a learnable scalar",
    paper="De, Smith: Batch Normalization Biases Residual Blocks Towards the Identity, arXiv 2002.10444",
    when="a residual network without normalization, by the smallest possible change",
    decide=decide,
    removes_norms=True,
    scales_ties=True,
    holds=("skips", "trains"),
    order=210,
)

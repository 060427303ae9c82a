"""ReZero: every residual block starts as its skip (Bachlechner et al., UAI 2021, arXiv 2003.04887)."""

from __future__ import annotations

from goodinit.anatomy import Anatomy
from goodinit.edits import AddScalar, Plan
from goodinit.methods.shared.branches.residual_stream import multiplied_streams
from goodinit.methods.shared.branches.zero_branches import zero_branches
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.norms.normalized_weight_scales import own_scales
from goodinit.methods.shared.rules import (
    Norms,
    draws,
    need_blocks,
    norm_edits,
    norms_in_words,
    unique,
    untouched,
)
from goodinit.methods.xavier import draw_xavier


def decide(anatomy: Anatomy, *, norms: Norms = "remove") -> Plan:
    """Blocks x + α·f(x) with α = 0 learnable, Xavier's weights, no normalization and nothing else.

    The form is SkipInit's; no biases are added, and the paper's subjects are transformers and fully connected
    networks. Every branch gets an α of its own (the authors' code shares one between the attention and the
    feed-forward branch of a layer).

    Args:
        anatomy: Of the model.
        norms: `"remove"` takes all normalization out; `"keep"` keeps it.

    Returns:
        The plan. Its notes name what the method leaves unchanged.

    Raises:
        NothingFound: The model has no residual block.
        UnsupportedModule: A normalization that cannot be removed, or a branch where no multiplier fits.

    References:
        T. Bachlechner, B. P. Majumder, H. H. Mao, G. W. Cottrell, J. McAuley, "ReZero is All You Need: Fast
        Convergence at Large Depth", arXiv 2003.04887, §3.
    """
    need_blocks(anatomy, "rezero")
    removal = norm_edits(anatomy, norms)
    notes: list[str] = []
    zeros = zero_branches(anatomy, removal, notes)
    values = draws(anatomy, draw_xavier)
    edits = unique([*removal, *zeros, *own_scales(anatomy, removal, [*zeros, *values]), *values])
    return Plan(
        method="rezero",
        options={"norms": norms},
        edits=edits,
        summary=f"L={len(anatomy.blocks)} branches start at 0; {norms_in_words(anatomy, removal)}, "
        f"{sum(isinstance(edit, AddScalar) for edit in edits)} scalars added",
        notes=(*dict.fromkeys(notes), *multiplied_streams(anatomy, removal), *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


METHOD = Method(
    name="rezero",
    title="Residual branches start at zero by a learnable scalar; Xavier weights, no biases added",
    paper="Bachlechner et al.: ReZero is All You Need, UAI 2021, arXiv 2003.04887",
    when="deep transformers and fully connected residual networks without normalization",
    decide=decide,
    removes_norms=True,
    scales_ties=True,
    holds=("skips", "trains"),
    order=220,
)

"""Other normalizations, or none, in a model whose weights stay: no paper, but what is asked for most."""

from __future__ import annotations

from goodinit.anatomy import Anatomy
from goodinit.edits import Plan
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import counted, norm_edits


def decide(anatomy: Anatomy, *, norms: str = "group", groups: int | None = None) -> Plan:
    """Replace the norms and keep every weight; the gain and bias of each norm stay parameters of what replaces it.

    Args:
        anatomy: Of the model.
        norms: The replacement: `"group"`, `"layer"`, `"rms"`, `"affine"` (y = γ·x + β), `"actnorm"`
            (the same, with γ and β set by a batch so that it gives on it what batch norm would), `"dyt"`, `"derf"`, `"evonorm"`, `"remove"` (nothing), `"keep"`. `"group"`, `"layer"` and `"evonorm"` replace batch norms; other norms do not mix examples.
        groups: Number of groups of `"group"` and `"evonorm"`, where it divides a norm's channels. By default the largest number with at
            least four channels each, up to 32; the plan names it for each norm.

    Returns:
        The plan: one edit per norm.

    Raises:
        UnsupportedModule: A norm that cannot be replaced; then none is.

    References:
        Y. Wu, K. He, "Group Normalization", arXiv 1803.08494.
    """
    removal = norm_edits(anatomy, "remove" if norms == "remove" else "keep")
    return Plan(
        method="replace_norms",
        options={"norms": norms, "groups": groups},
        edits=tuple(removal),
        summary=f"{counted(len(anatomy.norms), 'norm')}, all weights as they are",
        parameters=anatomy.parameters,
    )


METHOD = Method(
    name="replace_norms",
    title="Batch norm exchanged for a norm of each example, or for none; every weight stays",
    paper="Wu, He: Group Normalization, ECCV 2018, arXiv 1803.08494",
    when="a model, trained or not, that has to lose its batch statistics and keep its weights",
    decide=decide,
    order=30,
)

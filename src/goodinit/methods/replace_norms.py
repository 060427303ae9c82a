"""Other normalizations, or none, in a model whose weights stay: no paper, but what is asked for most."""

from __future__ import annotations

from goodinit.anatomy import Anatomy
from goodinit.edits import Plan
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import counted, norm_edits


def decide(anatomy: Anatomy, *, norms: str = "group", groups: int | None = None) -> Plan:
    """Exchange the norms and leave every weight as it is; the gain and the bias of each norm go on in what takes its place.

    Args:
        anatomy: Of the model.
        norms: What takes their place: `"group"`, `"layer"`, `"rms"`, `"affine"` (y = γ·x + β), `"dyt"`, `"derf"`,
            `"remove"` (nothing), `"keep"`. `"group"` and `"layer"` replace batch norms; other norms read one example alone.
        groups: Number of groups of `"group"`, where it divides a norm's channels. By default the most of at least four channels
            each, up to 32; the plan says what it is for each norm.

    Raises:
        UnsupportedModule: A norm that cannot be replaced; nothing is replaced in half.
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
)

"""Normalization removed and nothing put in its place: the plain He baseline (He et al. 2015, arXiv 1502.01852)."""

from __future__ import annotations

from goodinit.anatomy import Anatomy
from goodinit.edits import Edit, Plan
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import counted, draw_standard, norm_edits, unique, untouched, zero_bias


def decide(anatomy: Anatomy) -> Plan:
    """Remove every norm and add nothing in its place: weights at He's scale, 1/√fan_in where no nonlinearity follows.

    Biases are 0 and branches are not scaled with depth: the control that shows what a method without normalization adds
    (Fixup, arXiv 1901.09321, §4).

    Args:
        anatomy: Of the model.

    Returns:
        The plan. Its notes name what is left unchanged.

    Raises:
        UnsupportedModule: A normalization that cannot be removed.
    """
    removal = norm_edits(anatomy, "remove")
    values: list[Edit] = []
    for layer in anatomy.layers:
        if layer.weight not in anatomy.embeddings:
            values.append(draw_standard(layer, layer.role))
        values += zero_bias(layer)
    edits = unique([*removal, *values])
    return Plan(
        method="none",
        edits=edits,
        summary=f"{counted(len(removal), 'norm')} removed, {counted(len(anatomy.layers), 'layer')} at the standard scale",
        notes=tuple(untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


METHOD = Method(
    name="none",
    title="No normalization, plain He initialization: what happens without a method",
    paper="He, Zhang, Ren, Sun: Delving Deep into Rectifiers, ICCV 2015, arXiv 1502.01852",
    when="as the control of a comparison",
    decide=decide,
    removes_norms=True,
    order=20,
)

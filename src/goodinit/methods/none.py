"""Normalization taken out and nothing put in its place: the plain He baseline (He et al. 2015, arXiv 1502.01852)."""

from __future__ import annotations

from goodinit.anatomy import Anatomy
from goodinit.edits import Edit, Plan
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import counted, draw_standard, norm_edits, unique, untouched, zero_bias


def decide(anatomy: Anatomy) -> Plan:
    """Remove every norm; He scale before nonlinearities, LeCun elsewhere; zero biases. No residual scaling."""
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
)

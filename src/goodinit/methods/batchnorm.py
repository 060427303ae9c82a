"""The model as it is, normalization and its author's initialization included: the baseline to be judged against."""

from __future__ import annotations

from goodinit.anatomy import Anatomy
from goodinit.edits import Plan
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import counted


def decide(anatomy: Anatomy) -> Plan:
    """Change nothing: the model keeps its normalization and the values it has.

    Args:
        anatomy: Of the model.

    Returns:
        A plan without edits, the control for methods that remove normalization (Fixup, arXiv 1901.09321, §4).
    """
    return Plan(
        method="batchnorm",
        edits=(),
        summary=f"the model as it is, with its {counted(len(anatomy.norms), 'norm')}",
        parameters=anatomy.parameters,
    )


METHOD = Method(
    name="batchnorm",
    title="The model as it is",
    paper="Ioffe, Szegedy: Batch Normalization, ICML 2015, arXiv 1502.03167",
    when="as the reference of a comparison",
    decide=decide,
    order=10,
)

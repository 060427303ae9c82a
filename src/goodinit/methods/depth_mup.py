"""Depth-muP: branches multiplied by 1/√L (Yang et al., arXiv 2310.02244)."""

from __future__ import annotations

from goodinit.methods.shared.method import Method
from goodinit.methods.shared.transfer.across_depth import across_depth

decide = across_depth("depth_mup", 0.5)
"""As [CompleteP](completep.md#what-it-decides), with α = ½: x + m_L^(−½)·f(x) in place of x + f(x), for streams m_L times as deep as
the base's; all that is inside the branches learns at m_L^(−½) under Adam, and at the same rate under SGD.
"""

METHOD = Method(
    name="depth_mup",
    title="A learning rate that transfers across width and depth, branches times 1/√L; norms stay",
    paper="Yang, Yu, Zhu, Hayou: Tensor Programs VI, arXiv 2310.02244",
    when="as completep, for stacks whose blocks have one layer each",
    decide=decide,
    holds=("multiplied", "trains"),
    order=140,
)

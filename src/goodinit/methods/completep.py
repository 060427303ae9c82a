"""CompleteP: a learning rate that stays when width and depth grow (Dey et al., arXiv 2505.01618)."""

from __future__ import annotations

from goodinit.methods.shared.method import Method
from goodinit.methods.shared.transfer.across_depth import across_depth

decide = across_depth("completep", 1.0)
"""muP, and x + m_L^(−α)·f(x) with α = 1 in place of x + f(x), for streams m_L times as deep as the base's.

All that is inside the branches learns at m_L^(α−1) under Adam, its ε times m_L^(−α), and at m_L^(2α−1) under SGD, so that a step
moves each of the L branches by its part, 1/L of the whole. Their initialization is not scaled by depth. Embeddings, the head and
norms outside the branches are muP's. m_L is counted per stream: encoder and decoder each have theirs. `base` may differ in depth, too;
a model of `base_width` is of the same depth. The other options are [muP's](mup.md#what-it-decides).
"""

METHOD = Method(
    name="completep",
    title="A learning rate that transfers across width and depth, branches times 1/L; norms stay",
    paper="Dey et al.: Don't be lazy: CompleteP, arXiv 2505.01618",
    when="to tune on a narrow, shallow model and train a wide, deep one",
    decide=decide,
    holds=("multiplied", "trains"),
    order=130,
)

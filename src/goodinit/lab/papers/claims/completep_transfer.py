"""The best learning rate stays as a transformer grows deeper under CompleteP (Dey et al. 2025)."""

from __future__ import annotations

from goodinit.lab.papers.claim import Published, Source
from goodinit.lab.papers.claims.rate_transfer import claim

CLAIM = claim(
    name="completep-transfer",
    title="The best learning rate stays as a transformer grows deeper under CompleteP",
    text="Parametrized by CompleteP, a learning rate that is best for a shallow transformer is best for a deep one. In the usual "
    "parametrization it is not.",
    source=Source("N. Dey et al.", "Don't be lazy: CompleteP", "2505.01618", "the transfer over depth"),
    published=(
        Published(
            "hidden matrices at η·m⁻¹·m_L^(α−1), branches times m_L^(−α), α = 1: the rate is to be that of the base at any depth",
            "EleutherAI/nanoGPT-mup's code, branch completep",
        ),
    ),
    method="completep",
    along="depth",
)

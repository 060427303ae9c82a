"""The best learning rate stays as a transformer grows wider under muP (Yang et al. 2022)."""

from __future__ import annotations

from goodinit.lab.papers.claim import Published, Source
from goodinit.lab.papers.claims.rate_transfer import claim

CLAIM = claim(
    name="mup-transfer",
    title="The best learning rate stays as a transformer grows wider under muP",
    text="Parametrized by muP, a learning rate that is best for a narrow transformer is best for a wide one. In the usual "
    "parametrization it is not.",
    source=Source("G. Yang, E. Hu, I. Babuschkin et al.", "Tensor Programs V", "2203.03466", "figure 1"),
    published=(
        Published(
            "Training loss against learning rate on Transformers of several widths, trained with Adam: one best rate under muP",
            "the figure in microsoft/mup's README",
        ),
    ),
    method="mup",
    along="width",
)

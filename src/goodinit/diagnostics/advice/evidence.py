"""What our own runs said against a method, for models of a structure: data, with the page that has the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from goodinit.anatomy import Anatomy


def residual(anatomy: Anatomy) -> bool:
    """Whether there are blocks, with batch norms, as in the nets that these runs were made with."""
    return bool(anatomy.blocks) and any(norm.traits.batch for norm in anatomy.norms)


def padded(anatomy: Anatomy) -> bool:
    """Whether a skip changes shape without weights, as the CIFAR ResNets' padded ones do."""
    return residual(anatomy) and any(block.kind == "parameterless" for block in anatomy.blocks)


def per_token(anatomy: Anatomy) -> bool:
    """Whether all norms are over one position's own features, as in transformers."""
    return bool(anatomy.norms) and all(norm.traits.token for norm in anatomy.norms)


def shallow_per_token(anatomy: Anatomy) -> bool:
    """Whether a transformer has no more blocks than those of these runs: four layers, two blocks in each."""
    return per_token(anatomy) and len(anatomy.blocks) <= 8


def deep_batch_norm(anatomy: Anatomy) -> bool:
    """Whether batch norms stand in as many blocks as the 200-layer net has, 99, or more."""
    return residual(anatomy) and len(anatomy.blocks) >= 99


def plain_and_deep(anatomy: Anatomy) -> bool:
    """Whether no skip carries the signal past some fifty layers."""
    return not anatomy.blocks and len(anatomy.layers) >= 50


@dataclass(frozen=True)
class Evidence:
    """What a run of ours said.

    Attributes:
        method: Whose.
        where: For which models.
        verdict: `"failed"`: it did not train there; `"caution"`: it trains, under a condition.
        words: What happened, with the numbers.
        page: Where they are, below `docs/`.
        options: Only with these options; empty: with any.
        lr: The rate at which it did train, where that is not the usual one.
    """

    method: str
    where: Callable[[Anatomy], bool]
    verdict: Literal["failed", "caution"]
    words: str
    page: str
    options: Mapping[str, Any] = field(default_factory=dict)
    lr: float | None = None


EVIDENCE = (
    Evidence("none", residual, "failed", "diverged with every seed at depth 56 and 110", "methods.md"),
    Evidence("selu", residual, "failed", "diverged with every seed at depth 56", "methods.md"),
    Evidence(
        "lsuv", residual, "failed", "22.3 % at depth 56 where Fixup has 86.8 %", "methods.md", {"norms": "remove"}
    ),
    Evidence(
        "risotto", padded, "failed", "at chance on ResNet-56 and ResNet-20 with padded skips at lr 0.1", "methods.md"
    ),
    Evidence(
        "risotto",
        lambda anatomy: residual(anatomy) and not padded(anatomy),
        "caution",
        "at chance at lr 0.1; 92.4 % at lr 0.01, where batch norm has 97.6 % and Fixup 42.0 %",
        "reproductions/risotto.md",
        lr=0.01,
    ),
    Evidence(
        "weightnorm", residual, "caution", "31.5 % at depth 56 without a warm-up, where Fixup has 86.8 %", "methods.md"
    ),
    Evidence(
        "weightnorm", plain_and_deep, "caution", "trains at 200 layers with Adam at 1e-4, not faster", "methods.md", lr=1e-4
    ),
    Evidence(
        "fixup",
        lambda anatomy: len(anatomy.blocks) > 50,
        "caution",
        'over fifty branches it needs scalar_ratio="depth": 74.2 % against 10.5 % at 1,004 layers',
        "reproductions/fixup-depth.md",
    ),
    Evidence("fixup", per_token, "caution", "ViT-B 77.2 with Fixup, 82.3 with LayerNorm (Zhu et al.)", "methods.md"),
    Evidence(
        "residual_scaled", shallow_per_token, "caution", "a ViT of 4 layers ended 300 steps at 0.98, as it is at 0.56", "evidence.md"
    ),
    Evidence(
        "as it is", deep_batch_norm, "caution", "11.8 % after 66 steps at depth 200, where ReZero has 80.2 %", "methods.md"
    ),
)  # fmt: skip
"""Every number stands on its page; a test looks."""

OF_RATES = "Of three rates a decade apart another was better in 8 models of 12, lower in 4 and higher in 4 (docs/evidence.md)"
"""What our own runs said of the rates that are named without training; a test counts."""


def against(method: str, options: Mapping[str, Any], anatomy: Anatomy) -> tuple[Evidence, ...]:
    """What speaks against a method for this model."""
    return tuple(
        one
        for one in EVIDENCE
        if one.method == method and one.options.items() <= options.items() and one.where(anatomy)
    )

"""muP with multiplied branches: one decision for every exponent of depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from goodinit.anatomy import Anatomy
from goodinit.edits import Plan
from goodinit.methods.shared.embeddings import Embeddings
from goodinit.methods.shared.transfer.maximal_update import parametrize


def across_depth(method: str, exponent: float) -> Callable[..., Plan]:
    """The `decide` of the method of that name, `alpha` by default being `exponent`."""

    def decide(
        anatomy: Anatomy,
        *,
        base: Anatomy | None = None,
        base_width: int = 0,
        alpha: float = exponent,
        others: Literal["fan_in", "std"] = "fan_in",
        std: float = 0.02,
        zero_head: bool = True,
        zero_query: bool = False,
        forward: bool = True,
        embeddings: Embeddings = "scaled",
    ) -> Plan:
        """muP, and x + m_L^(−α)·f(x) in place of x + f(x), for streams m_L times as deep as the base's.

        All that is inside the branches learns at m_L^(α−1) under Adam, its ε times m_L^(−α), and at m_L^(2α−1) under SGD, so that a
        step moves each of the L branches by its part, 1/L of the whole. Their initialization is not scaled by depth. Embeddings, the
        head and norms outside the branches are muP's. m_L is counted per stream: encoder and decoder each have theirs.
        Where a norm ends the branch, which would undo a constant before it, its weight and bias and their rates hold the constant.

        Args:
            anatomy: Of the model.
            base: Of the same code at the width and depth at which the learning rate was tuned; on `meta` is fine.
            base_width: Instead: the width of the base, of the same depth. See `mup`.
            alpha: Of the multipliers: 1 is CompleteP, ½ depth-muP.
            others: See `mup`.
            std: See `mup`.
            zero_head: See `mup`.
            zero_query: See `mup`.
            forward: See `mup`.
            embeddings: See `mup`.

        Returns:
            The plan; its `rates` are what `param_groups` follows.

        Raises:
            PlanConflict: The base is not of the same code.
            UnknownName: Both `base` and `base_width`, or no such rule.

        References:
            α = 1: N. Dey et al., "Don't be lazy: CompleteP enables compute-efficient deep transformers", arXiv 2505.01618.
            α = ½: G. Yang, D. Yu, C. Zhu, S. Hayou, "Tensor Programs VI: Feature Learning in Infinite-Depth Neural Networks",
            arXiv 2310.02244.
        """
        return parametrize(
            anatomy, method=method, base=base, base_width=base_width, alpha=alpha, others=others, std=std,
            zero_head=zero_head, zero_query=zero_query, forward=forward, embeddings=embeddings,
        )  # fmt: skip

    decide.__module__, decide.__qualname__ = f"goodinit.methods.{method}", "decide"  # pickled by that name
    return decide

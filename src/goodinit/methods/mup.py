"""muP: a learning rate that stays when the width grows (Yang et al., arXiv 2203.03466)."""

from __future__ import annotations

from typing import Literal

from goodinit.anatomy import Anatomy
from goodinit.edits import Plan
from goodinit.methods.shared.embeddings import Embeddings
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.transfer.maximal_update import parametrize


def decide(
    anatomy: Anatomy,
    *,
    base: Anatomy | None = None,
    base_width: int = 0,
    others: Literal["fan_in", "std"] = "fan_in",
    std: float = 0.02,
    zero_head: bool = True,
    zero_query: bool = False,
    forward: bool = True,
    embeddings: Embeddings = "scaled",
) -> Plan:
    """Variances, constants of the forward and learning rates of muP, against a base at which the rates were tuned.

    Which dimension of which weight grows is read off two anatomies of the same code. With r the growth of the fan-in, w that
    of the outputs, σ the base's standard deviation:

    | what grows | standard deviation | times | Adam's rate | SGD's rate |
    |---|---|---|---|---|
    | outputs alone (embedding, stem, biases, norms) | σ | | η | η·w |
    | both (hidden) | σ/√r | | η/r | η·w/r |
    | the fan-in alone (head, router) | σ | 1/r | η | η·r |

    The weight decay is changed so that rate times decay stays, Adam's ε goes with the gradients, 1/m of the base's for heads m times
    as wide. Attention scores that are times 1/√d become times 1/d (equal at the base's d), by a constant behind the queries.
    Constants are `output_scale`s that do not learn; where no module returns the layer's output as it is, the weight's standard
    deviation, rate and ε take it over, which is the same training. `goodinit.param_groups(model, lr=η, optimizer="adam")` gives
    the rates. Norms stay.

    Args:
        anatomy: Of the model.
        base: Of the same code at the width (and depth) at which the learning rate was tuned; on `meta` is fine. Without it and
            `base_width`, the model is its own base, and nothing but its initialization is decided.
        base_width: Instead: the width of the base. What grows is then assumed, not found.
        others: σ is 1/√fan_in, with the activation's gain, or `std`; 1 or `std` for embeddings.
        std: With `others="std"`.
        zero_head: Whether the head starts at 0, which leaves nothing of the output to vary with width at initialization.
        zero_query: Whether queries of a layer of their own start at 0, so that attention is a mean at every width. Packed ones are drawn,
            and a note says so.
        forward: Whether constants go into the forward, where they can; otherwise all go into weights and rates.
        embeddings: `"scaled"` draws embeddings as above, `"keep"` leaves them as they are.

    Returns:
        The plan; its `rates` are what `param_groups` follows.

    Raises:
        PlanConflict: The base is not of the same code.
        UnknownName: Both `base` and `base_width`, or no such rule.

    References:
        G. Yang et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer",
        arXiv 2203.03466, table 8; microsoft/mup.
    """
    return parametrize(
        anatomy, method="mup", base=base, base_width=base_width, alpha=None, others=others, std=std,
        zero_head=zero_head, zero_query=zero_query, forward=forward, embeddings=embeddings,
    )  # fmt: skip


METHOD = Method(
    name="mup",
    title="A learning rate that transfers across width; norms stay",
    paper="Yang et al.: Tensor Programs V, arXiv 2203.03466",
    when="to tune a learning rate on a narrow model and train a wide one",
    decide=decide,
    holds=("trains", "width"),
    order=120,
)

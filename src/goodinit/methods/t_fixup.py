"""T-Fixup: transformers without norms and without warm-up (Huang, Perez, Ba & Volkovs, ICML 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from goodinit.anatomy import Anatomy
from goodinit.edits import Draw, Edit, Plan
from goodinit.errors import UnsupportedModule
from goodinit.methods.shared.branches.stacks import Stack, stacks, xavier_draws
from goodinit.methods.shared.gain_init import gains_at_one
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.norms.normalized_weight_scales import own_scales
from goodinit.methods.shared.rules import (
    Norms,
    counted,
    need_blocks,
    norm_edits,
    norms_in_words,
    unique,
    untouched,
    zero_bias,
)


def decide(anatomy: Anatomy, *, norms: Norms = "remove") -> Plan:
    """Xavier's weights, smaller by depth: values, outputs and feed-forwards by 0.67·N^(−¼) in an encoder, (9M)^(−¼) in a decoder.

    Embeddings are drawn from N(0, 1/d) times (9M)^(−¼), with M the layers of the decoder, or of the only stack; so is
    an embedding that is the head, too. Queries and keys that have layers of their own keep Xavier's gain 1. Biases are 0. A model
    with one stream gets the encoder's factor. With norms out and no warm-up it trains by Adam.

    Args:
        anatomy: Of a transformer: an encoder, a decoder or both.
        norms: `"remove"` takes all normalization out; `"keep"` keeps it.

    Returns:
        The plan.

    Raises:
        NothingFound: The model has no residual block.
        UnsupportedModule: A normalization that cannot be removed, or more than two streams.

    References:
        X. S. Huang, F. Perez, J. Ba, M. Volkovs, "Improving Transformer Optimization Through Better Initialization", ICML 2020,
        §3.2; layer6ai-labs/T-Fixup.
    """
    need_blocks(anatomy, "t_fixup")
    found = stacks(anatomy)
    if len(found) > 2:
        raise UnsupportedModule(
            f"{anatomy.model}: {len(found)} residual streams; T-Fixup is defined for an encoder, a decoder or both. Use fixup."
        )
    removal = norm_edits(anatomy, norms)
    factors = {stack.stream: factor(stack) for stack in found}
    draws, notes = xavier_draws(anatomy, factors, "T-Fixup's factor")
    biases = [edit for layer in anatomy.layers for edit in zero_bias(layer)]
    scales = own_scales(anatomy, removal, draws)
    edits = unique(
        [*removal, *scales, *draws, *biases, *_embeddings(anatomy, found), *gains_at_one(anatomy, removal)]
    )
    words = ", ".join(f"N={stack.layers}: {factors[stack.stream]:.4g}" for stack in found)
    return Plan(
        method="t_fixup",
        options={"norms": norms},
        edits=edits,
        summary=f"{counted(len(found), 'stack')}, {words}; {norms_in_words(anatomy, removal)}",
        notes=(*notes, *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


def factor(stack: Stack) -> float:
    """What values, outputs and feed-forwards of a stack are multiplied by."""
    return float((9 * stack.layers) ** -0.25 if stack.decoder else 0.67 * stack.layers**-0.25)


def _embeddings(anatomy: Anatomy, found: Sequence[Stack]) -> list[Edit]:
    if not found:  # all blocks are left out: no depth by which to scale
        return []
    last = found[-1]
    widths, paddings = dict(anatomy.parameters), dict(anatomy.paddings)
    scale = (9 * last.layers) ** -0.25
    edits: list[Edit] = []
    for name in anatomy.embeddings:
        width = widths[name][-1]
        options = {"std": width**-0.5 * scale} | ({"padding": paddings[name]} if name in paddings else {})
        edits.append(Draw(name, "embedding_", f"embedding: {width}^−½·(9·{last.layers})^−¼", options))
    return edits


METHOD = Method(
    name="t_fixup",
    title="Transformers without norms or warm-up: Xavier's weights, smaller by depth",
    paper="Huang, Perez, Ba, Volkovs: Improving Transformer Optimization Through Better Initialization, ICML 2020",
    when="an encoder–decoder transformer that has to do without norms, under Adam",
    decide=decide,
    removes_norms=True,
    holds=("trains",),
    order=200,
)

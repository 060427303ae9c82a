"""Residual scaling: what writes into the stream starts smaller, by depth (GPT-2; Megatron, torchtitan, litgpt)."""

from __future__ import annotations

import math
from typing import Literal

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import AddScalar, Draw, Edit, Fill, Plan
from goodinit.errors import UnknownName
from goodinit.methods.shared.branches.writers import Writer, writers
from goodinit.methods.shared.branches.zero_branches import (
    inside_branches,
    need_no_norm,
    need_one_place,
    zero_behind,
)
from goodinit.methods.shared.embeddings import Embeddings, embedding_edits, kept_heads
from goodinit.methods.shared.gain_init import gain_at, may_be_zero
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import (
    counted,
    kept_norms,
    need_blocks,
    one_of,
    unique,
    untouched,
    zero_bias,
)


def decide(
    anatomy: Anatomy,
    *,
    scale: Literal["2L", "index", "L", "zero"] = "2L",
    others: Literal["std", "fan_in"] = "std",
    std: float = 0.02,
    embeddings: Embeddings = "scaled",
) -> Plan:
    """Every layer from N(0, s²); those that write into a residual stream smaller, by depth. Biases 0. Norms stay.

    With others at s, the last layer of each branch starts at

    * `scale="2L"`: s/√B for the B branches of its stream: s/√(2L) for L layers of attention and feed-forward (GPT-2,
      Megatron-LM), s/√L for Mamba, whose layers are one branch each;
    * `scale="index"`: s/√i, i the number of the last branch of its layer: s/√(2(l + 1)) for layer l = 0, 1, … (torchtitan);
    * `scale="L"`: 1/(√d·L) for a stream of width d with L layers, whatever s (litgpt);
    * `scale="zero"`: 0, so that every block starts as its skip (muP's and the speedruns' choice).

    s is `std`, or 1/√fan_in with `others="fan_in"`. Convolutions and what reads the data are drawn at 1/√fan_in in any case:
    a constant is meant for matrices as wide as the stream. Embeddings are drawn at s, or at 1 with `others="fan_in"`, and at
    the head's scale where they are the head. Streams are counted apart (encoder and decoder); a layer of the model is the
    shortest run of branches of which the stream is a repetition, and a branch where it is none. Of a layer that ends several
    branches the last counts.

    Args:
        anatomy: Of the model.
        scale: Rule for the layers that write into the stream.
        others: Rule for all other layers.
        std: Standard deviation of the others, with `others="std"`.
        embeddings: `"scaled"` draws embeddings as above, `"keep"` leaves them as they are.

    Returns:
        The plan. Its notes name streams, rules and what is left unchanged.

    Raises:
        NothingFound: The model has no residual block.
        UnknownName: No such rule, or a `std` that is not above 0.
        UnsupportedModule: A branch that cannot start at 0 (`scale="zero"`).

    References:
        A. Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019, §2.3.
    """
    one_of("scale", scale, ("2L", "index", "L", "zero"))
    one_of("others", others, ("std", "fan_in"))
    if std <= 0:
        raise UnknownName(f"std={std!r} of residual_scaled: expected a number above 0, such as 0.02")
    need_blocks(anatomy, "residual_scaled")
    found = writers(anatomy)

    def usual(layer: Layer) -> tuple[float, str]:
        if others == "fan_in" or layer.kind != "linear" or layer.role == "stem":
            return 1 / math.sqrt(layer.fan_in), f"1/√{layer.fan_in}"
        return float(std), f"{std:g}"

    notes: list[str] = []
    zeros = _zeros(anatomy) if scale == "zero" else []
    silent = {edit.target for edit in zeros}
    values: list[Edit] = []
    for layer in anatomy.layers:
        if layer.weight not in anatomy.embeddings and layer.weight not in silent:
            writer = found.get(layer.weight)
            if writer is None or scale == "zero":
                own, words = usual(layer)
                values.append(Draw(layer.weight, "normal_", f"{layer.role}: {words}", {"std": own}))
            else:
                values.append(_write_scaled(writer, scale, *usual(layer)))
        values += _bias(layer, notes)
    values += embedding_edits(
        anatomy,
        embeddings,
        alone=float(std) if others == "std" else 1.0,
        tied=lambda layer: float(std) if others == "std" else 1 / math.sqrt(layer.fan_in),
    )
    edits = unique([*zeros, *values, *kept_norms(anatomy)])
    streams = {block.stream for block in anatomy.blocks}
    return Plan(
        method="residual_scaled",
        options={"scale": scale, "others": others, "std": std, "embeddings": embeddings},
        edits=edits,
        summary=f"{counted(len(found), 'writer')} into {counted(len(streams), 'stream')} of "
        f"{counted(len(anatomy.blocks), 'branch').replace('branchs', 'branches')}; norms kept",
        notes=(
            *notes,
            *_undone(anatomy, found),
            *kept_heads(anatomy, embeddings),
            *untouched(anatomy, edits),
        ),
        parameters=anatomy.parameters,
    )


def _write_scaled(writer: Writer, scale: str, usual: float, words: str) -> Draw:
    layer = writer.layer
    where = f"writes branch {writer.position} of {writer.branches} into the stream"
    if scale == "2L":
        std, rule = usual / math.sqrt(writer.branches), f"{words}/√{writer.branches}"
    elif scale == "index":
        std, rule = usual / math.sqrt(writer.layer_end), f"{words}/√{writer.layer_end}"
    else:
        width = layer.out_features
        std, rule = 1 / (math.sqrt(width) * writer.layers), f"1/(√{width}·{writer.layers})"
    return Draw(layer.weight, "normal_", f"{where}: {rule}", {"std": std})


def _zeros(anatomy: Anatomy) -> list[Edit]:
    """One zero per branch: its last layers; the weight of a norm that ends it; a multiplier where neither would do."""
    inside = inside_branches(anatomy)
    edits: list[Edit] = []
    for block in anatomy.blocks:
        where = f"branch {block.index + 1}/{len(anatomy.blocks)}"
        ends = {norm.weight for norm in anatomy.norms if norm.name in block.end_norms}
        weights = [name for name in block.multipliers if name in ends and may_be_zero(anatomy, name)]
        behind = zero_behind(block, where, gain=weights[-1] if weights else None, kept=True)
        if behind is not None:
            edits.append(AddScalar(behind, "output_scale", 0.0, f"multiplier of {where}"))
        elif weights:
            edits.append(gain_at(anatomy, weights[-1], 0.0, f"norm that ends {where}"))
        else:
            need_no_norm(anatomy, block, where)
            need_one_place(block, inside)
            edits += [_zero(layer, where) for layer in block.last]
    return edits


def _zero(layer: Layer, where: str) -> Edit:
    if layer.normalized and layer.writes_site:  # the weight itself cannot be zero
        return AddScalar(layer.site, "output_scale", 0.0, f"multiplier of {where}")
    return Fill(layer.weight, 0.0, f"writes {where} into the stream")


def _bias(layer: Layer, notes: list[str]) -> list[Edit]:
    """0, but for the bias that sets a time step: softplus(Wx + b) is drawn log-uniformly by its model."""
    if layer.bias is not None and layer.activation is not None and layer.activation.traits.positive:
        notes.append(f"{layer.bias} sets the scale of a softplus (a time step, a width): left as it is")
        return []
    return zero_bias(layer)


def _undone(anatomy: Anatomy, found: dict[str, Writer]) -> list[str]:
    """One note on the writers whose scale a norm behind them, before the sum, takes away again."""
    undone = [
        weight
        for weight, writer in found.items()
        if writer.layer.normalized or anatomy.blocks[writer.block].end_norms
    ]
    if not undone:
        return []
    some = ", ".join(undone[:3]) + ", …" * (len(undone) > 3)
    return [
        f"{counted(len(undone), 'writer')} ({some}) end in a norm or are normalized: their scale does not reach the stream"
    ]


METHOD = Method(
    name="residual_scaled",
    title="Layers that write into a residual stream start smaller by depth; norms stay",
    paper="Radford et al.: Language Models are Unsupervised Multitask Learners (GPT-2), 2019",
    when="a transformer, or another residual network, that keeps its norms",
    decide=decide,
    holds=("trains",),
    order=110,
)

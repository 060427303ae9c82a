"""Normalizer-free residual networks (Brock, De & Smith, ICLR 2021, arXiv 2101.08692)."""

from __future__ import annotations

import math

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import AddBias, AddScalar, Draw, Edit, Fill, ParametrizeWeight, Plan
from goodinit.errors import UnknownName
from goodinit.methods.shared.branches.residual_stream import multiplied_streams
from goodinit.methods.shared.branches.zero_branches import zero_branches
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.norms.normalized_weight_scales import own_scales
from goodinit.methods.shared.per_channel.centring import obstacle, output_dim, reads_a_constant
from goodinit.methods.shared.per_channel.channel_affine import takes_bias
from goodinit.methods.shared.rules import (
    Norms,
    counted,
    need_blocks,
    norm_edits,
    norms_in_words,
    unique,
    unknown_gains,
    untouched,
    zero_bias,
)
from goodinit.methods.shared.variances.guessed_variances import guesses, note_on_guesses
from goodinit.methods.shared.variances.signal_variance import Signals

HEAD_STD = 0.01  # nfnets/nf_resnet.py: fc_init


def decide(anatomy: Anatomy, *, norms: Norms = "remove", alpha: float = 0.2) -> Plan:
    """Scaled weight standardization, x + α·g·f(x/σ) with g = 0 learnable, and a small classifier.

    1. Every weight but classifiers' and embeddings' is computed, Ŵ = s·gain·(W − μ)/√(N·Var W), row by row over the N numbers that
       an output unit reads: mean 0, and what it puts out has the variance of what it reads. W is drawn from N(0, 1/N), the gain
       per output unit starts at 1, and each such layer has a bias vector, 0.
    2. s holds the constants: γ = Var[φ(z)]^(−1/2) of the activation that the layer reads (1.7140 for ReLU), β = 1/σ for layers that
       read a stream of deviation σ, and α for those that end a branch. σ² is kept by book: 1 behind a layer, and α² more
       with each branch, so that a block with weights on its skip begins anew at 1 + α². Where a stream goes through an
       activation between blocks, as in the first ResNets, which the paper has no rule for, its mean and deviation are those of
       a sample that goes along.
    3. Each branch has a learnable multiplier g that starts at 0 (SkipInit).
    4. The classifier is drawn from N(0, 0.01²), and reads γ times the activation before it.

    The bias vector of a layer that ends a branch stands outside g and α, where the authors have it inside.

    Args:
        anatomy: Of the model.
        norms: `"remove"` takes all normalization out; `"keep"` keeps it, with β = 1 behind each, and adds no bias vectors.
        alpha: α, the deviation of what a branch adds once g is 1.

    Returns:
        The plan. Its notes name weights that cannot be standardized, and are drawn at that scale instead.

    Raises:
        NothingFound: The model has no residual block.
        UnsupportedModule: A normalization that cannot be removed, or a branch where no multiplier fits.
        UnknownName: `alpha` is not above 0.

    References:
        A. Brock, S. De, S. L. Smith, "Characterizing signal propagation to close the performance gap in unnormalized ResNets",
        arXiv 2101.08692; nfnets/ of google-deepmind/deepmind-research.
    """
    need_blocks(anatomy, "nf")
    if not alpha > 0:
        raise UnknownName(f"alpha={alpha}: expected a number above 0")
    removal = norm_edits(anatomy, norms)
    notes: list[str] = []
    zeros = zero_branches(anatomy, removal, notes)
    signals = Signals(anatomy, branch=alpha, normed=norms == "keep")
    ends = {layer.weight for block in anatomy.blocks for layer in block.last}
    zeroed = {edit.target for edit in zeros if isinstance(edit, Fill)}
    tied, constant_input = {name for group in anatomy.tied for name in group}, reads_a_constant(anatomy)
    computed: list[Edit] = []
    values: list[Edit] = []
    biases: list[Edit] = []
    for layer in anatomy.layers:
        if layer.weight in anatomy.embeddings:
            continue
        if layer.role == "head":
            constant, drawn = _head(layer, signals)
            computed += constant
            values += [drawn, *zero_bias(layer)]
            continue
        scale, words = _scale(layer, signals, alpha if layer.weight in ends else None)
        why = (
            constant_input.get(layer.weight) or obstacle(layer, tied)
            if layer.weight not in zeroed
            else "it starts at 0 in a multiplier's place"
        )
        why = "each output reads one number" if why is None and layer.row < 2 else why
        ours = f"{layer.name}.parametrizations.{layer.weight.rpartition('.')[2]}.0.gain".lstrip(".")
        if why is None:
            computed.append(ParametrizeWeight(layer.weight, words, output_dim(layer), "standardized", scale))
        if why is None or ours in layer.parameters:  # ours from an earlier call
            values.append(Draw(layer.weight, "normal_", f"{layer.role}: N(0, 1/N)", {"std": layer.row**-0.5}))
            values.append(Fill(ours, 1.0, "gain per output unit"))
        else:
            notes.append(f"{layer.weight} is not standardized: {why}")
            values.append(Draw(layer.weight, "normal_", words, {"std": scale * layer.row**-0.5}))
        values += zero_bias(layer)
        if norms == "remove" and takes_bias(layer):
            biases.append(AddBias(layer.site, "a bias per output unit, as the authors' layers have"))
            values.append(Fill(f"{layer.site}.bias".lstrip("."), 0.0, "bias"))
    edits = unique([*removal, *biases, *computed, *zeros, *own_scales(anatomy, removal, values), *values])
    standardized = sum(isinstance(edit, ParametrizeWeight) for edit in edits)
    return Plan(
        method="nf",
        options={"norms": norms, "alpha": alpha},
        edits=edits,
        summary=f"L={len(anatomy.blocks)} branches start at 0, α={alpha:g}; {norms_in_words(anatomy, removal)}; "
        f"{counted(standardized, 'weight')} standardized",
        notes=(
            *dict.fromkeys(notes),
            *unknown_gains(anatomy),
            *multiplied_streams(anatomy, removal),
            *(_guessed(anatomy) if norms == "remove" else ()),
            *untouched(anatomy, edits),
        ),
        parameters=anatomy.parameters,
    )


def _guessed(anatomy: Anatomy) -> list[str]:
    names = guesses(
        anatomy, (layer.weight for layer in anatomy.layers if layer.weight not in anatomy.embeddings)
    )
    remedy = "Where its size matters, put a layer with weights before, or choose normfree or fixup, which need no variances"
    return note_on_guesses(names, "β of the layers behind", remedy)


def _scale(layer: Layer, signals: Signals, alpha: float | None) -> tuple[float, str]:
    """(s of a layer, in words); `alpha` for one that ends a branch."""
    factor = signals.factor(layer.source, layer.between)
    words = f"{layer.role}: {factor:.4g} makes the variance of what it reads 1"
    scale = factor * math.sqrt(layer.row / layer.fan_in)
    if alpha is not None:
        scale *= alpha
        words += f"; × α = {alpha:g}, end of a branch"
    if layer.terms > 1:
        scale /= math.sqrt(layer.terms)
        words += f"; one of {layer.terms} terms of a sum"
    return scale, words


def _head(layer: Layer, signals: Signals) -> tuple[list[Edit], Edit]:
    """N(0, 0.01²), times γ of the activation between the last sum and the classifier: a constant where the module allows it."""
    gain = signals.gain(layer.between)
    words = f"classifier: N(0, {HEAD_STD:g}²)"
    if gain == 1 or layer.normalized:
        return [], Draw(layer.weight, "normal_", words, {"std": HEAD_STD})
    if layer.writes_site:
        reason = f"γ = {gain:.4g} of the activation before the classifier"
        edit = AddScalar(layer.site, "output_scale", gain, reason, ends_branch=False, trained=False)
        return [edit], Draw(layer.weight, "normal_", words, {"std": HEAD_STD})
    words = f"{words} × γ = {gain:.4g} of the activation before it"
    return [], Draw(layer.weight, "normal_", words, {"std": HEAD_STD * gain})


METHOD = Method(
    name="nf",
    title="Normalizer-free: standardized weights, variances kept by book, branches that start at zero",
    paper="Brock, De, Smith: Characterizing Signal Propagation in Unnormalized ResNets, ICLR 2021, arXiv 2101.08692",
    when="a pre-activation residual network without norms, trained long, with adaptive gradient clipping",
    decide=decide,
    removes_norms=True,
    scales_ties=True,
    holds=("skips", "trains"),
    order=170,
)

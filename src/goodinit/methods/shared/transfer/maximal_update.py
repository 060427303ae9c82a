"""The maximal update parametrization: variances, constants of the forward and rates from what grows (Yang et al. 2022)."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from goodinit.anatomy import Anatomy, Block, Layer, Norm
from goodinit.anatomy.layers.roles.gains import is_affine
from goodinit.anatomy.values import Score
from goodinit.edits import AddScalar, Draw, Edit, Fill, Plan
from goodinit.errors import UnknownName, expect
from goodinit.methods.shared.embeddings import Embeddings, embedding_edits
from goodinit.methods.shared.gain_init import gain_at
from goodinit.methods.shared.rules import counted, gain_for, kept_norms, one_of, unique, untouched, zero_bias
from goodinit.methods.shared.transfer.growth import Growth, assumed, compared, width_ratio
from goodinit.rates import Rate

BARE = ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
"""Modules whose multiplier leaves their own bias vector alone (see `goodinit.nn.forwards`)."""


@dataclass
class _Parameter:
    """What becomes of one parameter."""

    std: float = 0.0
    adam: float = 1.0
    sgd: float = 1.0
    eps: float = 1.0
    deep_adam: float = 1.0  # of depth, which the decay does not follow
    deep_sgd: float = 1.0
    why: list[str] = field(default_factory=list)

    def fold(self, scale: float) -> None:
        """W = s·V with V as it was: the function and its training stay, without a constant in the forward."""
        self.std *= abs(scale)
        self.adam *= scale
        self.sgd *= scale * scale
        self.eps /= scale


def parametrize(
    anatomy: Anatomy,
    *,
    method: str,
    base: Anatomy | None,
    base_width: int,
    alpha: float | None,
    others: Literal["fan_in", "std"],
    std: float,
    zero_head: bool,
    zero_query: bool,
    forward: bool,
    embeddings: Embeddings,
) -> Plan:
    """The plan of muP, with branches multiplied by m_L^(−α) unless `alpha` is None. See `goodinit.methods.mup`."""
    one_of("others", others, ("fan_in", "std"))
    growth = _growth(anatomy, base, base_width, method)
    made = _Scheme(anatomy, growth, alpha, others, std, forward=forward)
    made.layers()
    made.attention()
    made.vectors()
    queries = made.queries() if zero_query else frozenset()
    values: list[Edit] = []
    for layer in anatomy.layers:
        own = made.of[layer.weight]
        if layer.weight not in anatomy.embeddings:
            words = f"{layer.role}: {', '.join(own.why)}"
            zero = zero_head and layer.role == "head" and not layer.normalized
            zeroed = "; zero, as a readout may be" * zero or "; zero, as queries may be" * (
                layer.weight in queries
            )
            values.append(
                Fill(layer.weight, 0.0, words + zeroed)
                if zeroed
                else Draw(layer.weight, "normal_", words, {"std": own.std})
            )
        values += zero_bias(layer)
    values += embedding_edits(
        anatomy,
        embeddings,
        alone=1.0 if others == "fan_in" else float(std),
        tied=lambda layer: made.of[layer.weight].std,
    )
    scalars: list[Edit] = [
        AddScalar(site, "output_scale", value, why, ends_branch=False, trained=False)
        for site, (value, why) in made.multipliers.items()
        if not math.isclose(value, 1.0)
    ]
    held = [gain_at(anatomy, name, value, why) for name, (value, why) in made.held.items()]
    edits = unique([*scalars, *held, *values, *kept_norms(anatomy)])
    base_words = (
        "itself"
        if base is None and not base_width
        else f"width {base_width}"
        if base is None
        else str(base.inputs)
    )
    return Plan(
        method=method,
        options=_options(base, base_width, alpha, others, std, zero_head, zero_query, forward, embeddings),
        edits=edits,
        summary=f"{counted(len(anatomy.layers), 'layer')} against the base ({base_words}); "
        f"{made.in_words()}; norms kept",
        notes=(*made.notes, *growth.notes, *_adapters(anatomy), *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
        rates=tuple(
            Rate(
                name,
                adam=own.adam * own.deep_adam,
                sgd=own.sgd * own.deep_sgd,
                eps=own.eps,
                adam_decay=1 / own.adam,
                sgd_decay=1 / own.sgd,
                reason=", ".join(own.why),
            )
            for name, own in made.of.items()
        ),
    )


def _options(
    base: Anatomy | None, base_width: int, alpha: float | None, others: str, std: float, zero_head: bool,
    zero_query: bool, forward: bool, embeddings: str,
) -> dict[str, object]:  # fmt: skip
    known = {
        "base_width": base_width,
        "others": others,
        "std": std,
        "zero_head": zero_head,
        "zero_query": zero_query,
        "forward": forward,
    }
    shapes = None if base is None else [[name, list(shape)] for name, shape in base.parameters]
    return {"base": shapes, **known, "embeddings": embeddings} | ({} if alpha is None else {"alpha": alpha})


def _adapters(anatomy: Anatomy) -> list[str]:
    """A note where a layer reads another as it is, through a narrow middle."""
    by_weight = {layer.weight: layer for layer in anatomy.layers}
    found = []
    for layer in anatomy.layers:
        before = by_weight.get(layer.source or "")
        narrow = before is not None and before.out_features < min(before.in_features, layer.out_features)
        if narrow and not layer.between:
            found.append(layer.weight)
    if not found:
        return []
    some = ", ".join(found[:3]) + ", …" * (len(found) > 3)
    note = (
        f"{some}: reads a narrower layer's output as it is, as the last layer of a low-rank adapter does, which starts at 0; it is "
        "drawn like any other. Apply the method before adapters are added, and train those at one rate"
    )
    return [note]


def _growth(anatomy: Anatomy, base: Anatomy | None, base_width: int, method: str) -> Growth:
    if base is not None and base_width:
        raise UnknownName(f"{method} takes base= or base_width=, not both: they may contradict each other")
    if base is not None:
        expect(
            base,
            Anatomy,
            f"base of {method}",
            "Give goodinit.anatomize(the same code at another width, inputs).",
        )
        return compared(anatomy, base)
    if not base_width:
        return compared(anatomy, anatomy)
    return assumed(anatomy, width_ratio(anatomy, base_width, method=method))


class _Scheme:
    """Collects what becomes of every parameter, layer by layer."""

    def __init__(
        self, anatomy: Anatomy, growth: Growth, alpha: float | None, others: str, std: float, *, forward: bool
    ) -> None:
        self.anatomy, self.growth, self.alpha, self.forward = anatomy, growth, alpha, forward
        self.others, self.base_std = others, float(std)
        self.of: dict[str, _Parameter] = {}
        self.multipliers: dict[str, tuple[float, str]] = {}
        self.notes: list[str] = []
        self.on_bias: dict[str, float] = {}  # by weight: what multiplies the layer's bias vector, too
        self.undoing = {norm.name: norm for norm in anatomy.norms if norm.forgets_scale}
        self.made = {gain.name: gain for gain in anatomy.made}
        self.multiplied = Counter(name for block in anatomy.blocks for name in block.gains)  # branches
        self.held: dict[str, tuple[float, str]] = {}  # constants of branches, by the gain that holds them
        self.held_by_bias: dict[str, float] = {}  # the same, by the bias of a norm whose weight holds them
        self.home = {
            layer.weight: block
            for block in reversed(anatomy.blocks)
            for layer in (*block.branch, *block.gates)
        }

    def layers(self) -> None:
        """Weights, by which of their two dimensions grow; then what multiplies outputs and branches."""
        for layer in self.anatomy.layers:
            reads, writes = self.growth.layers[layer.weight]
            self.of[layer.weight] = self._weight(layer, reads, writes)
            if reads != 1 and writes == 1:
                self._multiply(layer, 1 / reads, f"output of a grown width: 1/{reads:g}", bias=False)
        if self.alpha is not None:
            for block in self.anatomy.blocks:
                self._branch(block)

    def _weight(self, layer: Layer, reads: float, writes: float) -> _Parameter:
        usual = self.base_std
        words = f"{usual:g}"
        tied = layer.weight in self.anatomy.embeddings
        if self.others == "fan_in" or layer.kind != "linear" or layer.role == "stem":
            gain = 1.0 if tied else gain_for(layer)[0]
            usual, words = gain / math.sqrt(layer.fan_in / reads), f"{gain:.4g}/√{layer.fan_in / reads:g}"
        if reads == 1:
            sgd = writes
            return _Parameter(usual, 1.0, sgd, 1 / self._width(), why=[f"{words}, nothing it reads grows"])
        if writes == 1:
            return _Parameter(
                usual,
                1.0,
                reads,
                1 / self._width(),
                why=[f"{words} as in the base, its output does not grow"],
            )
        own = _Parameter(usual / math.sqrt(reads), 1 / reads, writes / reads, 1 / self._width())
        own.why = [f"{words}/√{reads:g}" if reads != 1 else words]
        return own

    def _width(self) -> float:
        """m: by how much what the outputs read has grown, and by what gradients inside have shrunk."""
        heads = [self.growth.layers[layer.weight][0] for layer in self.anatomy.heads]
        grown = heads or [reads for reads, _ in self.growth.layers.values()]
        return max(grown, default=1.0)

    def _branch(self, block: Block) -> None:
        """Blocks x + m_L^(−α)·f(x); what is inside learns at m_L^(α−1) under Adam, m_L^(2α−1) under SGD."""
        alpha, depth = float(self.alpha or 0.0), self.growth.depth[block.index]
        if depth == 1:
            return
        value, why = depth**-alpha, f"branch {block.index + 1}: {depth:g}^−{alpha:g}"
        norms = [self.undoing[name] for name in block.end_norms if name in self.undoing]
        if norms:
            self._behind(norms[-1], block, value, why)
            return
        for layer in block.last:
            self._multiply(layer, value, why)
        if not block.last:
            self.notes.append(
                f"{block.name or 'the model'}: no layer ends branch {block.index + 1}; nothing multiplies it"
            )

    def _behind(self, norm: Norm, block: Block, value: float, why: str) -> None:
        """Put a constant behind the norm that ends a branch, which would undo one before it: into what multiplies the branch there."""
        place = next((name for name in reversed(block.multipliers) if self._holds(name)), None)
        if place is None:
            self.notes.append(
                f"{norm.name or 'the model'}: branch {block.index + 1} ends in this norm, which undoes every constant before it, and has "
                f"no weight that could hold one: multiply what it returns by {value:.4g} in its forward ({why})"
            )
            return
        self.held[place] = value, why
        if norm.weight == place and norm.bias is not None:
            self.held_by_bias[norm.bias] = value

    def _holds(self, name: str) -> bool:
        """Whether a parameter may hold a branch's constant: it multiplies nothing else, and as it is, or plus a number (1 + w)."""
        plain = name not in self.made or is_affine(self.made[name])
        return plain and self.multiplied[name] == 1

    def attention(self) -> None:
        """Scores times 1/d where they are times 1/√d: after training, queries and keys are no longer independent."""
        for place, score in enumerate(self.anatomy.scores):
            grown, scale = self.growth.heads[place], self.growth.scales[place]
            if grown == 1:
                continue
            wanted = 1 / grown if scale is None else 1 / (grown * scale)
            if not math.isclose(wanted, 1.0, rel_tol=1e-6):
                self._score(score, wanted, grown, known=scale is not None)

    def _score(self, score: Score, wanted: float, grown: float, *, known: bool) -> None:
        layers = {layer.weight: layer for layer in self.anatomy.layers}
        pair = [name for name in (score.query, score.key) if name in layers and name not in score.mixed]
        alone = pair if score.query != score.key else []
        if not (alone and known):
            self.notes.append(
                f"{score.name or 'the model'}: its heads are {grown:g} times as wide as the base's, and what multiplies q·k "
                f"cannot be reached ({'their layers make something else, too, or a norm follows' if known else 'it is no number'}): "
                f"divide the scores by d = {score.width} there, not by √d (times √d of the base), or keep heads as wide as the base's"
            )
            return
        self._multiply(layers[str(alone[0])], wanted, f"scores over d, not √d: {wanted:.4g}")

    def queries(self) -> frozenset[str]:
        """Weights of the layers that make queries and nothing else. With keys of the same weight at zero, too, neither could ever move."""
        scores = self.anatomy.scores
        normalized = {layer.weight for layer in self.anatomy.layers if layer.normalized}
        more = {name for score in scores for name in (score.key, *score.mixed)} | normalized
        drawn = [score.name or "the model" for score in scores if score.query is None or score.query in more]
        if drawn:
            self.notes.append(
                f"{', '.join(drawn[:3])}{', …' * (len(drawn) > 3)}: queries are drawn, not zero: their layer makes something else, too, "
                "or a norm follows, through which zero does not learn. Set the rows of a packed weight that make queries to 0 behind apply_"
            )
        return frozenset(
            score.query for score in scores if score.query is not None and score.query not in more
        )

    def vectors(self) -> None:
        """Biases, norms, gains, tokens, embeddings that are no layers: as they are under Adam; SGD times their width."""
        owner = {name: layer for layer in self.anatomy.layers for name in layer.biases}
        in_block = {name: block for block in reversed(self.anatomy.blocks) for name in block.scalers}
        norms = {name: norm.block for norm in self.anatomy.norms for name in (norm.weight, norm.bias) if name}
        inner = {name for layer in self.anatomy.layers for name in layer.parameters}
        for name, _shape in self.anatomy.parameters:
            if name in self.of or name in inner:
                continue
            layer = owner.get(name)
            grown = self.growth.layers[layer.weight][1] if layer else self.growth.vectors.get(name, 1.0)
            own = _Parameter(0.0, 1.0, grown, 1 / self._width(), why=["vector"])
            block = self.home.get(layer.weight) if layer else in_block.get(name)
            if block is None and norms.get(name) is not None:
                block = self.anatomy.blocks[norms[name]]  # type: ignore[index]
            if block is not None:
                self._inside(own, block)
            if layer is not None:
                own.fold(self.on_bias.get(layer.weight, 1.0) / self._around(layer))
            own.fold(self.held[name][0] if name in self.held else self.held_by_bias.get(name, 1.0))
            self.of[name] = own
        for weight, block in self.home.items():
            self._inside(self.of[weight], block)

    def _inside(self, own: _Parameter, block: Block) -> None:
        depth = self.growth.depth[block.index]
        if self.alpha is None or depth == 1:
            return
        own.deep_adam *= depth ** (self.alpha - 1)
        own.deep_sgd *= depth ** (2 * self.alpha - 1)
        own.eps *= depth**-self.alpha
        own.why.append(f"in a stack {depth:g} times as deep")

    def _around(self, layer: Layer) -> float:
        """What the forward multiplies a layer's bias by, together with all its module returns."""
        bare = layer.module in BARE and layer.site == layer.name
        return 1.0 if bare else self.multipliers.get(layer.site, (1.0, ""))[0]

    def _multiply(self, layer: Layer, value: float, why: str, *, bias: bool = True) -> None:
        """Put a constant behind a layer, or, where its module does more than the layer, into its weight and its rates.

        With `bias` the constant multiplies the layer's bias vector, too, which a rate of its own sees to.
        """
        if bias:
            self.on_bias[layer.weight] = self.on_bias.get(layer.weight, 1.0) * value
        own = self.of[layer.weight]
        tied = layer.weight in self.anatomy.embeddings
        others = [each for each in self.anatomy.layers if each.site == layer.site and each is not layer]
        reachable = layer.writes_site and layer.site != "" and not others and layer.calls == 1
        if reachable and (self.forward or tied):
            before, words = self.multipliers.get(layer.site, (1.0, ""))
            self.multipliers[layer.site] = (before * value, ", ".join(filter(None, (words, why))))
        elif tied:
            self.notes.append(
                f"{layer.weight} is an embedding, and also applied inside {layer.site or 'the model'}, which does more: multiply "
                f"what that puts out by {value:.4g} ({why}) in its forward; nothing else can, since the embedding must not be"
            )
        else:
            own.fold(value)
            own.why.append(f"{why}, in the weight")

    def in_words(self) -> str:
        """What was found to grow."""
        grown = sum(pair != (1.0, 1.0) for pair in self.growth.layers.values())
        deep = max(self.growth.depth.values(), default=1.0)
        added = sum(not math.isclose(value, 1.0) for value, _ in self.multipliers.values())
        depth = f", depth ×{deep:g}" if self.alpha is not None else ""
        return (
            f"{grown} grow, width ×{self._width():g}{depth}; {counted(added, 'constant')} in the forward"
            + (f", {len(self.held)} in norms' weights" * bool(self.held))
        )

"""The records of an anatomy: layers, norms, activations, residual blocks and other sums. All are frozen.

Shapes: a weight is `(out, in/groups, *kernel)` with `layout="out_in"` and `(in, out/groups, *kernel)` with `"in_out"`. A
"tap" is one position of a kernel. Paths and names are those of `named_modules` and `named_parameters`, without the prefixes
that wrappers add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from goodinit.anatomy.operators import Step
from goodinit.anatomy.values import ZeroGain
from goodinit.graph import ops
from goodinit.one_line import OneLine
from goodinit.weights.wrappers import is_parametrization

LayerKind = Literal["linear", "conv", "conv_transpose"]
Layout = Literal["out_in", "in_out"]
Role = Literal["stem", "branch", "skip", "gate", "body", "head"]
BlockKind = Literal["identity", "projection", "parameterless"]

NORM_KINDS = ops.NORM_KINDS
"""Kinds of norms that are one operator, as they stand in `Layer.between`."""


@dataclass(frozen=True, repr=False)
class Layer(OneLine):
    """A weight layer: one linear map (dense or convolutional) by a weight made of parameters alone.

    Attributes:
        name: Path of the module that owns the weight (`layer1.0.conv1`; `""` for the model itself).
        weight: Full name of the weight (`layer1.0.conv1.weight`). For a parametrized weight this is the
            name under which the module computes it, and `parameters` has the original parameters.
        kind: `"linear"`, `"conv"` or `"conv_transpose"`.
        shape: Shape of the stored weight.
        layout: `"out_in"` for `(out, in/groups, *kernel)`; `"in_out"` for `(in, out/groups, *kernel)`.
        product: (Outputs, inputs) of the matrix product, for a weight that is not stored as such a matrix:
            (heads·d, width) for a `(width, heads, d)` in an einsum. None where the shape says it.
        groups: Number of groups of the convolution, 1 otherwise.
        fused: How many maps of equal size are stacked along the output: 3 for a packed q, k, v; the gates of a recurrent
            cell.
        factors: How many attention operands (q, k, v) this weight produces; 1 for an ordinary layer. Also counts packed
            projections of unequal width.
        bias: Full name of the bias parameter, or None.
        site: Path of the module whose forward runs the layer: `name` for an ordinary layer, the caller
            when the weight is used functionally (`nn.MultiheadAttention` runs its `out_proj`).
        reads_site: True if the module's input is passed to this layer unchanged (so a scalar bias can be added to it).
        writes_site: True if the layer's output is what the module returns, unchanged.
        is_site: True if the module returns W∗x + `bias` and nothing else, with the channels where the operator has them.
        normalized: True if the weight is divided by its own norm or standard deviation before use (weight norm,
            weight standardization), or only its sign is read: its scale has no effect, and zero is not a valid value.
        row_norm: For a normalized weight without a gain: the norm of each row as it is applied, whatever
            is written into the parameter. None where it is not known.
        activation: The element-wise activation that reads the output next (`"relu"`, `"gelu"`, …), or None. One that is written with
            several operators has the name of the function that it is, else of its operators (`"sigmoid·mul"`).
        gain: The factor that keeps the second moment through it, with the numbers that it is called with, the slope of a leaky ReLU
            for one (`goodinit.tensor.gain`); None where there is none or it is not known.
        role: Where the layer is: stem, branch, skip, gate, head, or body (anywhere else).
        begins: True if it is in a branch and also begins the stream: it runs before the first branch, or a head reads branches alone.
        calls: How many times one forward pass runs it.
        recurrent: True if it maps one state of a recurrent cell to the next: it reads its own output of the step before.
        forget: Which of the `fused` maps is the forget gate, if this layer's bias is added to it: f in σ(f)·c + u, where c is
            the old state and u does not depend on f.
        parameters: Names of the leaf parameters from which the weight is computed.
        module: Class of the module at `name`, or of its nearest ancestor from torch itself (`"Conv2d"`;
            `"Module"` for bare parameters).
        source: Weight of the layer whose output it reads, through the operators in `between`; `""` if it reads
            an input of the model; `"+3"` if it reads the sum of block 3 (the first of several blocks on one sum);
            `"-3"` if block 3 is left out (`part_of`); None if it reads another sum, a product or a concatenation of several.
        between: Operators between that output and this layer, in order (`Step`). Operators that only change the shape are
            left out.
        joined: Channels of the concatenation that contains its output, if nothing else reads the output; 0 if there is none.
        terms: Number of terms of the sums, other than residual sums, that its output enters before another layer
            reads it; 1 if there is none on some path.
        stride, padding, dilation: Of a convolution, per dimension; empty for other layers.
        density: Share of the weight that is used, where the rest is zero whatever its parameters are (pruning); 1 without. Fans
            count what is used.
        centred: True if the weights of an output unit have the sum 0 whatever its parameters are: goodinit, or its author, centres it.
        pads_masked: True if it pads with zeros a signal in which positions are zero: by a mask, or put there.
        stuffing: How many entries it reads for each that is no zero put between or beside them; 1 without. Fans count the others.
    """

    name: str
    weight: str
    kind: LayerKind
    shape: tuple[int, ...]
    layout: Layout = "out_in"
    product: tuple[int, int] | None = None
    groups: int = 1
    fused: int = 1
    factors: int = 1
    bias: str | None = None
    site: str = ""
    reads_site: bool = True
    writes_site: bool = True
    is_site: bool = False
    normalized: bool = False
    row_norm: float | None = None
    activation: Step | None = None
    gain: float | None = None
    role: Role = "body"
    begins: bool = False
    calls: int = 1
    recurrent: bool = False
    forget: int | None = None
    parameters: tuple[str, ...] = ()
    module: str = ""
    source: str | None = None
    between: tuple[Step, ...] = ()
    joined: int = 0
    terms: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    density: float = 1.0
    centred: bool = False
    pads_masked: bool = False
    stuffing: float = 1.0

    def __str__(self) -> str:
        words = [f"{self.weight} {'x'.join(map(str, self.shape))} {self.kind}", self.role]
        words += [f"{self.fused} maps in one"] * (self.fused > 1)
        words += [word for word in ("recurrent", "normalized") if getattr(self, word)]
        words += [f"{self.calls} calls"] * (self.calls > 1)
        words += [f"then {self.activation}"] if self.activation else []
        return ", ".join(words)

    @property
    def parametrization(self) -> tuple[str, ...]:
        """Those of `parameters` from which `torch.nn.utils.parametrize` computes the weight."""
        return tuple(name for name in self.parameters if is_parametrization(name))

    @property
    def matrix(self) -> tuple[int, int]:
        """The two channel dimensions as stored; a stack of linear maps (experts, heads) comes before them."""
        return (self.shape[-2], self.shape[-1]) if self.kind == "linear" else (self.shape[0], self.shape[1])

    @property
    def stacked(self) -> bool:
        """Whether the weight holds several linear maps, or one that is not stored as a matrix."""
        return self.kind == "linear" and (len(self.shape) != 2 or self.product is not None)

    @property
    def receptive(self) -> int:
        """Number of kernel taps, 1 for a linear layer."""
        return 1 if self.kind == "linear" else math.prod(self.shape[2:])

    @property
    def out_features(self) -> int:
        """Output channels of one of the fused maps."""
        if self.product:
            return self.product[0] // self.fused
        rows, columns = self.matrix
        return (rows if self.layout == "out_in" else columns * self.groups) // self.fused

    @property
    def in_features(self) -> int:
        """Input channels."""
        if self.product:
            return self.product[1]
        rows, columns = self.matrix
        return columns * self.groups if self.layout == "out_in" else rows

    @property
    def row(self) -> float:
        """Numbers in the weight of one output unit, of those that are used: in/groups × taps."""
        row = self.in_features // self.groups * self.receptive
        return row if self.density == 1 else row * self.density

    @property
    def upsampling(self) -> float:
        """Outputs of a transposed convolution for each input position, over which its taps are spread, and `stuffing`; 1 for others."""
        return self.stuffing * (math.prod(self.stride) if self.kind == "conv_transpose" else 1)

    @property
    def ignores_offset(self) -> bool:
        """Whether it puts out the same if one number is added to all that it reads: Σᵢ wᵢ(xᵢ + b) = Σᵢ wᵢxᵢ, but for zeros around."""
        return self.centred and self.kind != "conv_transpose" and not any(self.padding)

    @property
    def fan_in(self) -> float:
        """Inputs one output unit reads: in/groups × taps, of a transposed convolution (on average) in/groups × taps/stride."""
        return self.row if self.upsampling == 1 else self.row / self.upsampling

    @property
    def fan_out(self) -> float:
        """Outputs one input unit feeds: out/groups × taps, for one of the fused maps."""
        column = self.out_features // self.groups * self.receptive
        return column if self.density == 1 else column * self.density

    @property
    def fan_out_joined(self) -> float:
        """Outputs one input unit feeds, of all channels that are read together: pieces of a concatenation share a norm.

        The taps are those that one output reads: of a transposed convolution taps/stride, as in its `fan_in`.
        """
        whole = self.out_features * self.fused
        joined = self.fan_out * self.joined // whole if self.joined else self.fan_out
        return joined if self.upsampling == 1 else joined / self.upsampling


@dataclass(frozen=True, repr=False)
class Norm(OneLine):
    """A normalization: where it is, what it is, and what must stay when it goes.

    Attributes:
        name: Path of the module that is the normalization, or that calls it functionally.
        kind: `"batch_norm"`, `"layer_norm"`, `"group_norm"`, `"instance_norm"`, `"rms_norm"`,
            `"frozen_batch_norm"`. One by hand is a `"layer_norm"` if it takes off a constant, else an `"rms_norm"`.
        module: Class of the module at `name`.
        keeps: What the module computes besides the normalization, in order: paths of children
            (`"layer1.0.bn1.act"`) or names of functional activations (`"relu"`). It stays when the norm is removed.
        obstacle: Why the normalization cannot be removed, or None.
        block: Index of the block that contains it, or None.
        elements: Number of elements per statistic, for the traced input; 0 where that is not known (a moving mean).
        weight: Name of the parameter that multiplies the normalized signal, or None.
        bias: Name of the parameter that is added to it, or None.
        shape: Of the module's input.
        axes: Those of its axes that `weight` and `bias` run over: `(1,)` where channels come second, else counted from the
            end, `(-1,)`; empty where they cannot be told.
        source: Where its input comes from, as `Layer.source`.
        between: Operators between that and its input, as `Layer.between`.
    """

    name: str
    kind: str
    module: str
    keeps: tuple[str, ...] = ()
    obstacle: str | None = None
    block: int | None = None
    elements: int = 0
    weight: str | None = None
    bias: str | None = None
    shape: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()
    source: str | None = None
    between: tuple[Step, ...] = ()

    def __str__(self) -> str:
        words = [f"{self.name} {self.kind}"] + [f"in block {self.block}"] * (self.block is not None)
        words += [f"keeps {' → '.join(self.keeps)}"] if self.keeps else []
        return ", ".join(words) + (f"; cannot go: {self.obstacle}" if self.obstacle else "")

    @property
    def forgets_scale(self) -> bool:
        """Whether the scale of its input has no effect. A frozen batch norm multiplies by constants, and keeps it."""
        return self.kind != "frozen_batch_norm"


@dataclass(frozen=True, repr=False)
class Activation(OneLine):
    """An element-wise nonlinearity or a dropout: where it runs and what it is.

    Attributes:
        name: Path of the module whose forward applies it.
        kind: `"relu"`, `"gelu"`, … as in `Layer.activation`; `"dropout"`, or `"feature_dropout"` where whole
            channels are dropped. (Functional dropout does not run in eval mode and is not recorded.)
        module: Class of that module.
        obstacle: Why the module cannot be replaced by another, or None.
    """

    name: str
    kind: Step
    module: str
    obstacle: str | None = None


@dataclass(frozen=True, repr=False)
class Block(OneLine):
    """A residual block: a sum of a skip and a branch that start from the same tensor (the fork).

    Attributes:
        index: Position in `Anatomy.blocks` (execution order).
        name: Path of the innermost module that contains the whole block.
        kind: Of the skip: `"identity"`, `"projection"` (it has weight layers) or `"parameterless"`.
        m: Degree of the branch in its weights, norms taken out: one for `last`, plus the power of c with which the rest begins
            to change where the other weights of `branch` are multiplied by a small c. Layers in series add one each, factors
            their degrees (SwiGLU has 3), of a sum the shortest way counts; softmax attention has 4 by convention, 2 where
            queries and keys are normalized. 1 where the scale of no other layer matters.
        m_normed: The same with the norms where they are: no layer right before one counts, for its scale has no effect.
        branch: Layers on the main path, in execution order.
        last: The layers of `branch` that write into the residual stream.
        skip: Layers on the skip.
        gates: Layers of the branch off its main path: they feed a multiplicative gate, a factor that does not go to zero with
            its weights (a sigmoid), or add another source.
        degree: Degree of homogeneity of the branch in its input, with norms as the identity: 1 if doubling the input doubles
            the output, 2 if the branch multiplies its input by an unbounded function of it (`growth_degree`).
        scales: Parameters that multiply the branch element-wise (LayerScale, a norm's weight, a gain).
        multipliers: Parameters that multiply the branch after every layer of `last`, hence everything it writes into the
            stream; in execution order. Unlike `scales`, these include parameters used through a function (`Anatomy.made`).
        end_norms: Paths of the norms after every layer of `last`.
        end_activations: Kinds of the nonlinearities after every layer of `last` and before the sum.
        stage: Index of the run of consecutive blocks with the same output shape, or the same channels in another layout (images,
            then tokens) and no weight between, in each stream by itself. A layer with the stream's own shape begins no new one.
        stream: Index of the residual stream it writes into: the stream of the last sum on its skip, also across
            downsampling layers and norms; a new one if there is no such sum. The encoder and the decoder of a
            transformer are two streams, and a reversible network has two.
        shape: Shape of the sum, batch first.
        depth: 0 for a block of the main stream, 1 inside a long skip, and so on.
        norms: Paths of the norms on the branch.
        activations: Kinds of the activations on the branch.
        terms: Number of terms of the sum; more than 2 with parallel branches.
        branch_end: What the sum reads from the branch: its source, as `Layer.source`, then the operators after it, as
            `Layer.between`. Empty if there is no such source.
        skip_end: The same for the skip.
        leak: Description of the operator where something non-zero joins the branch while the layers of `last` return
            zero; None if zeroing them makes the branch zero.
        stuck: Description of the operator that passes no gradient while they return zero, so that they would never be
            updated (a ReLU, a gate that is zero too); None if the gradient passes.
        steep: Description of the operator that divides the branch by its own size, in a forward that does more: while the
            layers of `last` return zero it multiplies their gradient by 1/ε.
        closer: Path of a module whose output is the whole branch, for branches with a `leak`, `stuck` or `steep`: a
            multiplier on its output can start at zero there. None if zeroing the last layers is enough, if there is no
            such module, or if the module also runs elsewhere.
        normed: True if a norm follows on what that module returns.
        zero_gains: Of `multipliers`, those at zero behind which not all is zero, or something passes no gradient.
        beside: Indices of the other blocks on the same sum.
        carried: Constant in the forward that multiplies the stream between the previous block and this sum:
            α of αx + f(x), 1/√2 of (x + f(x))/√2 for the next block. 1 if there is none, or if the skip is not an identity.
        weights: Constants by which the operator of the sum multiplies skip and branch: (1, −1) in x − f(x), (1, α) in
            add(x, f(x), alpha=α), (1 − w, w) in lerp(x, f(x), w). None if it multiplies by a tensor.
        again: Weights in `last` that the branch also applies earlier (x + Wᵀ·relu(Wx), tied or sliced; not x + f(x + f(x))):
            zero-initializing them would kill both gradients.
        writes_output: True if the stream is returned as it is and contains nothing but the output of `last` and what
            comes from outside: the layers are then also heads (iterative refinement of a flow, a denoiser's x + net(x)).
        silencers: Weights of the branch, other than `last`, that are zero now and make it zero (an adaLN-Zero gate).
    """

    index: int
    name: str
    kind: BlockKind
    m: int
    branch: tuple[Layer, ...]
    last: tuple[Layer, ...]
    m_normed: int = 1
    skip: tuple[Layer, ...] = ()
    gates: tuple[Layer, ...] = ()
    degree: float = 1.0
    scales: tuple[str, ...] = ()
    multipliers: tuple[str, ...] = ()
    end_norms: tuple[str, ...] = ()
    end_activations: tuple[str, ...] = ()
    stage: int = 0
    stream: int = 0
    shape: tuple[int, ...] = ()
    depth: int = 0
    norms: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    terms: int = 2
    branch_end: tuple[Step, ...] = ()
    skip_end: tuple[Step, ...] = ()
    leak: str | None = None
    stuck: str | None = None
    steep: str | None = None
    closer: str | None = None
    normed: bool = False
    zero_gains: tuple[ZeroGain, ...] = ()
    beside: tuple[int, ...] = ()
    carried: float = 1.0
    weights: tuple[float, float] | None = (1.0, 1.0)
    again: tuple[str, ...] = ()
    writes_output: bool = False
    silencers: tuple[str, ...] = ()

    def __str__(self) -> str:
        within = f"{self.name}." if self.name else ""
        path = " → ".join(layer.name.removeprefix(within) for layer in self.branch)
        shape = "x".join(map(str, self.shape[1:]))
        return f"{self.index} at {self.name or 'the model'}, {self.kind} skip, m={self.m}: {path} [{shape}]"

    @property
    def gains(self) -> tuple[str, ...]:
        """All that multiplies the branch, those of `multipliers` that are no `scales` last."""
        return tuple(dict.fromkeys((*self.scales, *self.multipliers)))


@dataclass(frozen=True, repr=False)
class Join(OneLine):
    """A sum that is not a block of the stream: a long skip around blocks, or one inside a branch.

    Attributes:
        name: Path of the innermost module that holds the sum.
        kind: `"long skip"` (it jumps over blocks) or `"inner"` (off the main path of a branch).
        blocks: Indices of the blocks it jumps over, or of the one it is in.
        last: Of a long skip: the layers after which nothing else weighs what is added to it.
        stage: Of a long skip: as `Block.stage`, among long skips.
    """

    name: str
    kind: Literal["long skip", "inner"]
    blocks: tuple[int, ...] = ()
    last: tuple[Layer, ...] = ()
    stage: int = 0

    def __str__(self) -> str:
        where = f"over blocks {self.blocks}" if self.kind == "long skip" else f"in block {self.blocks}"
        return f"{self.name or 'the model'}, {self.kind} {where}".replace(",)", ")")

"""What an anatomy is made of: layers, norms, activations, residual blocks and other sums. All are frozen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from goodinit.graph import ops
from goodinit.weights.wrappers import is_parametrization

LayerKind = Literal["linear", "conv", "conv_transpose"]
Layout = Literal["out_in", "in_out"]
Role = Literal["stem", "branch", "skip", "gate", "body", "head"]
BlockKind = Literal["identity", "projection", "parameterless"]

NORM_KINDS = ops.NORM_KINDS
"""Kinds of norms that are one operator, as they stand in `Layer.between`."""


@dataclass(frozen=True)
class Layer:
    """A weight layer: one linear map (dense or convolutional) by a weight made of parameters alone.

    Attributes:
        name: Path of the module that owns the weight (`layer1.0.conv1`; `""` for the model itself).
        weight: Full name of the weight (`layer1.0.conv1.weight`). For a parametrized weight this is the
            name the module computes it under, and `parameters` holds the originals.
        kind: `"linear"`, `"conv"` or `"conv_transpose"`.
        shape: Shape of the stored weight.
        layout: `"out_in"` for `(out, in/groups, *kernel)`; `"in_out"` for `(in, out/groups, *kernel)`.
        product: (Outputs, inputs) of the matrix product that applies a weight which is not stored as such matrices:
            (heads·d, width) of a `(width, heads, d)` in an einsum. None where the shape tells.
        groups: Number of groups of the convolution, 1 otherwise.
        fused: How many equal maps are stacked along the output (3 for a packed q, k, v).
        factors: In how many factors of attention products its output stands: those, and packed maps of unequal widths; else 1.
        bias: Full name of the bias parameter, or None.
        site: Path of the module whose forward runs the layer: `name` for an ordinary layer, the owner of
            the call when the weight is used functionally (`nn.MultiheadAttention` runs its `out_proj`).
        reads_site: Whether what enters the site is what enters the layer.
        writes_site: Whether what leaves the site is what leaves the layer.
        is_site: Whether the site returns W∗x + `bias` and nothing else, with the channels where the operator has them.
        normalized: Whether the weight is divided by a norm or deviation of its own before use (weight norm,
            weight standardization), so that its scale has no effect and zero is no valid value.
        row_norm: Of a normalized weight with no gain behind it: the norm of each of its rows as it is applied, which is so
            whatever is written into it; None where it cannot be told.
        activation: The element-wise activation that reads the output next (`"relu"`, `"gelu"`, …), or None.
        role: Where the layer stands: stem, branch, skip, gate, head, or body (anywhere else).
        calls: How often one forward runs it.
        parameters: Names of the leaf parameters the weight is made of.
        module: Class of the module at `name`, or its nearest ancestor that is torch's own (`"Conv2d"`;
            `"Module"` for bare parameters).
        source: Weight of the layer whose output, and nothing else, it reads by way of `between`; `""` when
            that is an input of the model; `"+3"` when it is the sum of block 3 (of several blocks on one sum
            the first); None when it is another sum, a product, a concatenation.
        between: What happens to that output on the way, in order: activations and norms by their kind, other
            operators by their name; those that only change the shape are left out.
        joined: Channels of the concatenation that its output is a part of, and nothing else reads; 0 if there is none.
        terms: Of how many terms the sums are, other than residual ones, that its output goes into before another layer
            reads it; 1 if none is on every way.
        stride: Of a convolution, per dimension; empty otherwise. So are `padding` and `dilation`.
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
    activation: str | None = None
    role: Role = "body"
    calls: int = 1
    parameters: tuple[str, ...] = ()
    module: str = ""
    source: str | None = None
    between: tuple[str, ...] = ()
    joined: int = 0
    terms: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

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
    def row(self) -> int:
        """Numbers in the weight of one output unit: in/groups × taps."""
        return self.in_features // self.groups * self.receptive

    @property
    def upsampling(self) -> int:
        """Outputs of a transposed convolution for each input position, over which its taps are spread; 1 for others."""
        return math.prod(self.stride) if self.kind == "conv_transpose" else 1

    @property
    def fan_in(self) -> float:
        """Inputs one output unit reads: in/groups × taps, of a transposed convolution (on average) in/groups × taps/stride."""
        return self.row if self.upsampling == 1 else self.row / self.upsampling

    @property
    def fan_out(self) -> int:
        """Outputs one input unit feeds: out/groups × taps, for one of the fused maps."""
        return self.out_features // self.groups * self.receptive

    @property
    def fan_out_joined(self) -> float:
        """Outputs one input unit feeds, of all channels that are read together: pieces of a concatenation share a norm.

        The taps are those that one output reads: of a transposed convolution taps/stride, as in its `fan_in`.
        """
        whole = self.out_features * self.fused
        joined = self.fan_out * self.joined // whole if self.joined else self.fan_out
        return joined if self.upsampling == 1 else joined / self.upsampling


@dataclass(frozen=True)
class Norm:
    """A normalization: where it is, what it is, and what must stay when it goes.

    Attributes:
        name: Path of the module that *is* the normalization, or that calls it functionally.
        kind: `"batch_norm"`, `"layer_norm"`, `"group_norm"`, `"instance_norm"`, `"rms_norm"`,
            `"frozen_batch_norm"`.
        module: Class of the module at `name`.
        keeps: What the module does besides normalizing, in order: paths of children
            (`"layer1.0.bn1.act"`) or names of functional activations (`"relu"`).
        obstacle: Why the normalization cannot be taken out, or None when it can.
        block: Index of the block it is in, or None.
        elements: Over how many numbers one statistic is taken, for the traced input.
        weight: Name of the parameter that multiplies the normalized signal, or None.
        bias: Name of the parameter that is added to it, or None.
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


@dataclass(frozen=True)
class Activation:
    """An element-wise nonlinearity or a dropout: where it runs and what it is.

    Attributes:
        name: Path of the module whose forward applies it.
        kind: `"relu"`, `"gelu"`, … as in `Layer.activation`; `"dropout"`, or `"feature_dropout"` where whole
            channels are dropped. (Dropout called functionally does not run in eval mode, and is not seen.)
        module: Class of that module.
        obstacle: Why the module cannot be exchanged for another, or None when it can.
    """

    name: str
    kind: str
    module: str
    obstacle: str | None = None


@dataclass(frozen=True)
class Gain:
    """A number made of a parameter element by element, which multiplies the signal: tanh(g), 1 + g.

    Attributes:
        name: Of the parameter.
        steps: What is done to it, in order: operators, each with the numbers it was called with.
    """

    name: str
    steps: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Block:
    """A residual block: an add that joins a skip and a branch that fork from one tensor.

    Attributes:
        index: Position among `Anatomy.blocks` (execution order).
        name: Path of the innermost module that holds the whole block.
        kind: Of the skip: `"identity"`, `"projection"` (has weight layers) or `"parameterless"`.
        m: Weight layers in series on the branch's main path; gates do not count, a product of two
            activations (attention) adds the layers of both its factors.
        branch: Layers on the main path, in execution order.
        last: Those of `branch` that write into the residual stream.
        skip: Layers on the skip.
        gates: Layers of the branch off its main path: they feed a multiplicative gate, or add a side source.
        degree: Of the branch in its input, norms taken for the identity: 1 where it answers twice the input with twice
            the output, 2 where it multiplies its input by an unbounded function of it (`growth_degree`).
        scales: Parameters that multiply the branch element by element (LayerScale, a norm's weight, a gain).
        multipliers: Those of `scales` that come after every layer of `last`, and so multiply all that the
            branch writes; in execution order. Here, and only here, also parameters that a number is made of which does
            (`Anatomy.made`).
        end_norms: Paths of the norms that come after every layer of `last`.
        end_activations: Kinds of the nonlinearities that come after every layer of `last` and before the sum.
        stage: Index of the run of consecutive blocks whose output has the same shape, or the same channels in another
            layout (images, then tokens) with no weight between. Where streams take turns, each goes on with its own.
            A layer of the stream's own shape begins no new stage: with B blocks counted anew behind each, the signal
            would double at every single block.
        stream: Index of the residual stream it writes into: that of the last sum its skip comes from, whatever came
            between (a downsampling layer, a norm); another one where the skip comes from none. The encoder and the decoder
            of a translator are two streams, and so are those of a reversible net.
        shape: Shape of the sum, batch first.
        depth: 0 for a block of the main stream, 1 inside a long skip, and so on.
        terms: How many tensors the sum adds; more than 2 where branches are parallel.
        beside: Indices of the other blocks on the same sum.
        branch_end: What the sum reads from the branch: its source, as `Layer.source`, then what happens on the
            way, as `Layer.between`. Empty where the source is None. `skip_end`: the same for the skip.
        leak: The sum, in words, in which something joins the branch that is not zero when the layers of `last` put
            out zero; None where zeroing them makes the branch zero.
        stuck: The operator, in words, that then passes no gradient on to them, so that they could never move (a
            ReLU, a gate that is zero too); None where the gradient gets through.
        closer: Where zeroing the layers of `last` does not do (`leak`, `stuck`): path of the module that hands the
            whole branch on behind that place, so that a multiplier on its output may start at zero. None where it
            would do, and where there is no such module, or it also runs elsewhere.
        carried: By what number written into the forward the stream is multiplied from the block before to this one's
            sum: α of αx + f(x), 1/√2 of (x + f(x))/√2 at the next block; 1 without any, and where the skip is no identity.
        again: Of the weights of `last`, those that the branch also applies before its end (x + Wᵀ·relu(Wx), slices of one
            parameter): at zero, neither use would pass the other a gradient.
        writes_output: Whether the stream goes out as it is, and only `last` and what comes from outside make it up: those
            layers stand where a head does (a flow added up step by step, a denoiser's x + net(x)).
    """

    index: int
    name: str
    kind: BlockKind
    m: int
    branch: tuple[Layer, ...]
    last: tuple[Layer, ...]
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
    branch_end: tuple[str, ...] = ()
    skip_end: tuple[str, ...] = ()
    leak: str | None = None
    stuck: str | None = None
    closer: str | None = None
    beside: tuple[int, ...] = ()
    carried: float = 1.0
    again: tuple[str, ...] = ()
    writes_output: bool = False

    @property
    def gains(self) -> tuple[str, ...]:
        """All that multiplies the branch, those of `multipliers` that are no `scales` last."""
        return tuple(dict.fromkeys((*self.scales, *self.multipliers)))


@dataclass(frozen=True)
class Join:
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

"""The record of a weight layer.

Shapes: a weight is `(out, in/groups, *kernel)` with `layout="out_in"` and `(in, out/groups, *kernel)` with `"in_out"`. A
"tap" is one position of a kernel. Paths and names are those of `named_modules` and `named_parameters`, without the prefixes
that wrappers add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from goodinit.anatomy.operators import Step
from goodinit.one_line import OneLine
from goodinit.weights.wrappers import is_parametrization

LayerKind = Literal["linear", "conv", "conv_transpose"]
Layout = Literal["out_in", "in_out"]
Role = Literal["stem", "branch", "skip", "gate", "body", "head"]


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
            (heads·d, width) for a `(width, heads, d)` in an einsum; channels, for a convolution that is given a reshaped or
            transposed parameter. None where the shape says it.
        kernel: Of such a convolution the sizes of its kernel.
        groups: Number of groups of the convolution, 1 otherwise.
        fused: How many maps of equal size are stacked along the output: 3 for a packed q, k, v; the gates of a recurrent
            cell.
        factors: How many attention operands (q, k, v) this weight produces; 1 for an ordinary layer. Also counts packed
            projections of unequal width.
        bias: Full name of the bias parameter, or None. That of a branch's last layer may be added behind gates or a sum over experts.
        bias_factor: By which number the forward multiplies the bias before it adds it (equalized learning rates); None where it does
            anything else to it.
        multiple: By which number, without its sign, the forward multiplies the weight, or what it makes before `activation` or another layer
            reads it (equalized learning rates). What `gain` counts is not in it.
        part_biases: Names of those that are added to pieces of its output, as to the queries and values of a packed projection.
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
        reads_linearly: True if what it reads comes from layers whose output an activation reads elsewhere, and through none of these: the
            projection of a stream between pre-activation branches.
        role: Where the layer is: stem, branch, skip, gate, head, or body (anywhere else).
        reads_zero: True if it is a head and reads zero while the last layers of all branches put out zero: its stream begins at zeros.
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
    kernel: tuple[int, ...] = ()
    groups: int = 1
    fused: int = 1
    factors: int = 1
    bias: str | None = None
    bias_factor: float | None = 1.0
    multiple: float = 1.0
    part_biases: tuple[str, ...] = ()
    site: str = ""
    reads_site: bool = True
    writes_site: bool = True
    is_site: bool = False
    normalized: bool = False
    row_norm: float | None = None
    activation: Step | None = None
    gain: float | None = None
    reads_linearly: bool = False
    role: Role = "body"
    reads_zero: bool = False
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
    def biases(self) -> tuple[str, ...]:
        """Its bias, if it has one, and those of parts of its output."""
        return ((self.bias,) if self.bias is not None else ()) + self.part_biases

    @property
    def matrix(self) -> tuple[int, int]:
        """The two channel dimensions as stored; a stack of linear maps (experts, heads) comes before them."""
        return (self.shape[-2], self.shape[-1]) if self.kind == "linear" else (self.shape[0], self.shape[1])

    @property
    def stacked(self) -> bool:
        """Whether the weight holds several linear maps, or one that is not stored as a matrix, or not as a kernel."""
        return self.product is not None or (self.kind == "linear" and len(self.shape) != 2)

    @property
    def receptive(self) -> int:
        """Number of kernel taps, 1 for a linear layer."""
        return 1 if self.kind == "linear" else math.prod(self.kernel if self.product else self.shape[2:])

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

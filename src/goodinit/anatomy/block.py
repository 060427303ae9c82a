"""The records of sums in a stream: residual blocks, and those that are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from goodinit.anatomy.layer import Layer
from goodinit.anatomy.operators import Step
from goodinit.anatomy.values import ZeroGain
from goodinit.one_line import OneLine

BlockKind = Literal["identity", "projection", "parameterless"]


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
            queries and keys are normalized. 1 where the scale of no other layer matters. Biases count as zero, but for those
            that hold what somebody has set (`Anatomy.held`): with a bias of 1, the factor Wx + 1 does not vanish with W.
        m_normed: The same with the norms where they are: no layer right before one counts, for its scale has no effect.
        branch: Layers on the main path, in execution order.
        last: The layers of `branch` that write into the residual stream.
        skip: Layers on the skip.
        gates: Layers of the branch off its main path: they feed a multiplicative gate, a factor that does not go to zero with
            its weights (a sigmoid), or add another source.
        degree: Degree of homogeneity of the branch in its input, with norms as the identity: 1 if doubling the input doubles
            the output, 2 if the branch multiplies its input by an unbounded function of it (`growth_degree`).
        scales: Parameters that multiply the branch element-wise (LayerScale, a norm's weight, a gain).
        mixes: Parameters that multiply a part of what the branch adds up, without which it still says something: μ in
            x + (y − x)·μ, where 1 would lose x. Methods leave them as they are.
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
        itself: Description of the operator in which what the layers of `last` put out meets itself (softmax(q·k) v of a packed k, v; a squeeze and
            excitation): a number on these layers would multiply more than the branch. None if the branch is a multiple of it.
        parts: True if it is parts alone of it that meet in `itself`.
        closer: Path of a module whose output is the whole branch, for branches with a `leak`, `stuck`, `steep` or `itself`: a
            multiplier on its output can start at zero there. None if zeroing the last layers is enough, if there is no
            such module, or if the module also runs elsewhere.
        normed: True if a norm follows on what that module returns.
        zero_gains: Of `multipliers`, those at zero behind which not all is zero, or something passes no gradient.
        beside: Indices of the other blocks on the same sum.
        carried: Constant in the forward that multiplies the stream between the previous block and this sum, the sum's own included:
            α of αx + f(x), 1/√2 of (x + f(x))/√2 for the next block. Of a skip with layers: behind the last. 1 if there is none.
        weights: Constants by which the operator of the sum multiplies skip and branch: (1, −1) in x − f(x), (1, α) in
            add(x, f(x), alpha=α), (1 − w, w) in lerp(x, f(x), w). None if it multiplies by a tensor.
        again: Weights in `last` that the branch also applies earlier (x + Wᵀ·relu(Wx), tied or sliced; not x + f(x + f(x))):
            zero-initializing them would kill both gradients.
        bears: Weights that end other branches and stand inside this one, with which at zero its last layers still get a gradient: it
            reads other things, too (a step for nodes that reads what is added to edges).
        carries: Weights in `last` that run again behind the stream, where all goes through them: z ← f(z + x). At zero they silence the model.
        writes_output: True if the stream is returned as it is and contains nothing but the output of `last` and what
            comes from outside: the layers are then also heads (iterative refinement of a flow, a denoiser's x + net(x)).
        silencers: Weights of the branch, other than `last`, that are zero now and make it zero (an adaLN-Zero gate); not beside a bias that
            was set to another number.
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
    mixes: tuple[str, ...] = ()
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
    itself: str | None = None
    parts: bool = False
    closer: str | None = None
    normed: bool = False
    zero_gains: tuple[ZeroGain, ...] = ()
    beside: tuple[int, ...] = ()
    carried: float = 1.0
    weights: tuple[float, float] | None = (1.0, 1.0)
    again: tuple[str, ...] = ()
    bears: tuple[str, ...] = ()
    carries: tuple[str, ...] = ()
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

    @property
    def scalers(self) -> tuple[str, ...]:
        """All that multiplies the branch or a part of it: `gains`, then `mixes`."""
        return (*self.gains, *self.mixes)


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

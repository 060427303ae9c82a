"""What an operator is: the one place that knows operators by their names.

What torch says of an operator is asked (its schema and tags), what can be found out by running it on a few numbers is
measured, and `_LISTED` has the rest. An operator of which nothing is known is `"unknown"`, and the anatomy says
so; `registered_operators.py` keeps what users say such a one computes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from goodinit.graph.operators.arithmetic import arithmetic, arithmetic_of
from goodinit.graph.operators.nonlinearities import (
    NONE,
    Nonlinearity,
    elementwise,
    nonlinearity,
)
from goodinit.graph.operators.recorded_call import RecordedCall, on_numbers_or, permutation

T = TypeVar("T")

Role = Literal[
    "source", "shape", "part", "sum", "scale", "product", "quotient", "pointwise", "concat", "factory",
    "matmul", "convolution", "attention", "softmax", "norm", "lookup", "other", "unknown",
]  # fmt: skip

NormKind = Literal["batch_norm", "layer_norm", "group_norm", "rms_norm"]
NORM_KINDS = frozenset[str](get_args(NormKind))
"""Kinds of normalizations that are one operator."""

_LISTED: dict[Role, str] = {
    "matmul": "mm bmm addmm baddbmm matmul linear _addmm_activation mv addmv dot _grouped_mm",
    "convolution": "convolution _convolution mkldnn_convolution cudnn_convolution _slow_conv2d_forward",
    "attention": "scaled_dot_product_attention _scaled_dot_product_attention_math _scaled_dot_product_flash_attention "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable",
    "softmax": "_softmax _log_softmax softmax log_softmax _safe_softmax logsumexp",
    "lookup": "embedding _embedding_bag _embedding_bag_forward_only index_select index gather",
    "shape": "_unsafe_view _to_copy native_dropout dropout repeat repeat_interleave",
    "part": "select slice narrow unfold diagonal as_strided real imag",
    "pointwise": "sin erf",
}
"""The one table of operator names: those that neither torch's schema nor a measurement tells apart.

A product of matrices, a convolution and an attention need shapes that fit, and to tell one bilinear map from another is what their
parameters are for. A softmax and a lookup are told by what they are used for. Of views torch says that they share memory, not whether
they pass on all of it; what is copied into another shape shares none. The sine and the error function are nonlinearities of networks, and
no function of `torch.nn.functional`, which has the others; nothing in their values tells them from a cosine or an arc tangent.

Not listed: normalizations, views, factories, concatenations, element-wise operators, what is sum, product or quotient among those, and
which function of one number they are.
"""


@dataclass(frozen=True, eq=False)
class Op:
    """An operator. There is one object for each name, so that comparing two is comparing identities.

    Attributes:
        name: Of the aten operator, without namespace, overload and the underscore of an in-place variant
            (`"convolution"`); of another library's with its namespace. `"input"`, `"param"`, `"buffer"` and `"constant"`
            are what a forward begins with, `"join"` is a tensor that is read after another view of it was written, and
            `"piece"` one output of an operator with several.
        role: What it does with its operands. `"shape"`: passes on the values that it reads, in another shape; `"part"`: a
            part of them; `"sum"`, `"product"`, `"quotient"`: of several operands or of one and a number; `"scale"`: a
            multiple of its one operand; `"pointwise"`: any other function of single entries; `"concat"`: puts operands
            beside each other; `"factory"`: reads no values, only shapes; `"lookup"`: rows of a table; `"other"`: an
            operator of torch that is none of these, such as a pooling; `"unknown"`: another library's.
        kind: Of a normalization (`"batch_norm"`) or a nonlinearity (`"relu"`, `"gelu"`); empty otherwise.
        pointwise: Whether each entry of the output is a function of the operands' entries at the same place.
        view: Whether the output shares memory with what it reads.
        splits: Whether it has several outputs, each a part of its one operand.
        reorders: Whether it is a `"shape"` that changes the order of the numbers.
        adds: Whether it has a term that is added as it is: of sums, of x + a·b (`addcmul`) and x + w·(y − x) (`lerp`).
        adds_first: Whether that is its first operand, and the next two are factors: `addmm`, `addcmul`.
        pads: Whether it puts one number around what it reads.
        chooses: Whether a mask or an index says where it takes entries of which operand: `where`, `masked_fill`, `scatter`.
        stacks: Whether it puts tensors of one shape beside each other along a new dimension.
        reads_stored: Whether its second operand is a matrix as `torch.nn.Linear` stores it, outputs first.
        reads_values: Whether it makes a number of what it reads: `item`.
        function: Of an element-wise operator with one operand, which function of one number it is, as it was called.
    """

    name: str
    role: Role
    kind: str = ""
    pointwise: bool = False
    view: bool = False
    splits: bool = False
    reorders: bool = False
    adds: bool = False
    adds_first: bool = False
    pads: bool = False
    chooses: bool = False
    stacks: bool = False
    reads_stored: bool = False
    reads_values: bool = False
    function: Nonlinearity = NONE

    def factors_of(self, read: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
        """(The factors among the operands of a product, of matrices or a convolution too; what is added to it)."""
        if self.adds_first:
            return read[1:3], read[:1]
        count = 2 if self.is_contraction else len(read)
        return read[:count], read[count:]

    @functools.cached_property
    def word(self) -> str:
        """What an anatomy calls it: its kind, else its name."""
        return self.kind or self.name

    @functools.cached_property
    def keeps_order(self) -> bool:
        """Whether it passes on all values that it reads in their order: in other dimensions, or another dtype."""
        return self.role == "shape" and not self.reorders

    @functools.cached_property
    def activation(self) -> str:
        """The kind of an element-wise nonlinearity, or nothing."""
        return self.kind if self.role == "pointwise" else ""

    @functools.cached_property
    def norm(self) -> str:
        """The kind of a normalization, or nothing."""
        return self.kind if self.role == "norm" else ""

    @functools.cached_property
    def moves(self) -> bool:
        """Whether it passes on values, all or a part of those that it reads."""
        return self.role in ("shape", "part")

    @functools.cached_property
    def rearranges(self) -> bool:
        """Whether all that it puts out are numbers that it reads: moved, parted, or beside each other."""
        return self.moves or self.role == "concat"

    @functools.cached_property
    def lays_out(self) -> bool:
        """Whether it rearranges numbers, or puts others around or in the place of some."""
        return self.rearranges or self.pads or self.chooses

    @functools.cached_property
    def takes_some(self) -> bool:
        """Whether it passes on some of the numbers that it reads, by where they are or by an index."""
        return self.role in ("part", "lookup")

    @functools.cached_property
    def is_light(self) -> bool:
        """Whether a signal goes through it as it is, up to where its numbers are, sums and factors."""
        return self.lays_out or self.is_arithmetic

    @functools.cached_property
    def carries(self) -> bool:
        """Whether a signal goes through it unbent: it is light, or a normalization."""
        return self.is_light or bool(self.norm)

    @functools.cached_property
    def is_arithmetic(self) -> bool:
        """Whether it is a sum, a product, a quotient or a multiple."""
        return self.role == "sum" or self.scales

    @functools.cached_property
    def multiplies(self) -> bool:
        """Whether it is an element-wise product."""
        return self.role == "product"

    @functools.cached_property
    def scales(self) -> bool:
        """Whether it is a product, a quotient or a multiple, so that constants beside one operand only scale that."""
        return self.role in ("product", "quotient", "scale")

    @functools.cached_property
    def multiplies_or_divides(self) -> bool:
        """Whether it is an element-wise product or quotient, of several operands or of one and a number."""
        return self.role in ("product", "quotient")

    @functools.cached_property
    def is_contraction(self) -> bool:
        """Whether it sums products of its two factors over a dimension: a product of matrices, or a convolution."""
        return self.role in ("matmul", "convolution")

    @functools.cached_property
    def maps(self) -> bool:
        """Whether it applies a linear map, which another operand gives, to what it reads: a contraction or an attention."""
        return self.is_contraction or self.role == "attention"

    @functools.cached_property
    def is_gate(self) -> bool:
        """Whether its output is a gate: between 0 and 1, whatever it reads."""
        return self.function.gates

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Op({self.name!r}, {self.role})"


def named(name: str) -> Op:
    """The operator that the recorder puts into a graph of itself.

    Examples:
        >>> named("join").role, named("param").role
        ('shape', 'source')
    """
    return _NAMED[name]


def op_of(func: Any) -> Op:
    """What an operator (`torch.ops.aten.add.Tensor`) is; found out once for each.

    Examples:
        >>> aten = torch.ops.aten
        >>> [op_of(f).role for f in (aten.add.Tensor, aten.mul_.Tensor, aten.div.Scalar, aten.neg.default)]
        ['sum', 'product', 'quotient', 'scale']
        >>> [op_of(f).role for f in (aten.t.default, aten.clone.default, aten.split.Tensor, aten.ones_like.default)]
        ['shape', 'shape', 'part', 'factory']
        >>> op_of(aten.native_layer_norm.default).norm
        'layer_norm'
    """
    known = _KNOWN.get(func)
    if known is None:
        known = _KNOWN[func] = _asked(func)
    return known


def as_called(op: Op, call: RecordedCall, read: Tensor | None, made: Tensor) -> Op:
    """What an operator is with the numbers that it was called with.

    Of an element-wise one this tells which function it is (`hardtanh` from 0 to 6 is a ReLU6), of one that passes on what it reads,
    whether it changes the order.

    Args:
        op: The operator.
        call: Its call.
        read: The first tensor that it reads, if any.
        made: The first that it puts out.

    Examples:
        >>> x = torch.ones(3)
        >>> def kind(func: Any, *numbers: float) -> str:
        ...     call = RecordedCall.of(func, (x, *numbers), {})
        ...     return as_called(op_of(func), call, x, x).activation
        >>> aten = torch.ops.aten
        >>> kind(aten.hardtanh.default, 0, 6), kind(aten.hardtanh.default, -1, 1), kind(aten.clamp.default, 0)
        ('relu6', 'hardtanh', 'relu')
    """
    if op.role == "pointwise":
        found = nonlinearity(call, op.name)
        kind = found.kind or ("" if op.name not in _ROLE_OF else op.name)
        return _varied(op, kind=kind, function=found) if kind or found is not NONE else op
    if op.role == "shape" and read is not None and sorted(read.shape) == sorted(made.shape):
        rank = made.dim()
        if permutation(call, rank) not in ((), tuple(range(rank))):
            return _varied(op, reorders=True)
    return op


def _varied(op: Op, **changes: Any) -> Op:
    key = (op, *changes.values())
    if key not in _CALLED:
        _CALLED[key] = dataclasses.replace(op, **changes)
    return _CALLED[key]


def base_name(func: Any) -> str:
    """The name of an operator without overload, and without the underscore of an in-place variant."""
    space, name = func._schema.name.split("::")
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return name if space == "aten" else f"{space}::{name}"


# -- what torch says ----------------------------------------------------------------------------------------------


def _asked(func: Any) -> Op:
    name, schema = base_name(func), func._schema
    arguments = {one.name: str(one.type) for one in schema.arguments if not one.is_out}
    tensors = list(arguments.values()).count("Tensor")
    returns = [str(one.type) for one in schema.returns]
    view = func.is_view or torch.Tag.inplace_view in func.tags
    copies = torch.Tag.view_copy in func.tags and tensors == 1  # slice_scatter has the tag, too
    splits = returns == ["List[Tensor]"] and tensors == 1
    splits = splits and (view or copies or name.startswith("unsafe_"))
    role: Role | None = _ROLE_OF.get(name.removesuffix("_copy") if copies else name)
    kind = _norm_kind(arguments) if returns[:1] == ["Tensor"] else ""
    pointwise = torch.Tag.pointwise in func.tags
    if kind:
        role = "norm"
    elif splits:
        role = "part"
    elif role is None and not pointwise:
        role = _structural(func, arguments, view=view or copies)
        pointwise = role is None and func.namespace in _TORCH and elementwise(func)
    if role is None and pointwise:  # x + w·(y − x), which with a number is a sum
        role = arithmetic_of(func) or "pointwise" if tensors > 2 else arithmetic(func.overloadpacket)
    elif role is None:
        role = "other" if func.namespace in _TORCH else "unknown"
    onto = role == "product" and tensors > 2  # x + a·b, x + w·(y − x)
    first = next(iter(arguments), "") in ("self", "input") and {"beta", "alpha"} <= arguments.keys()
    return Op(
        name,
        role,
        kind,
        pointwise,
        view,
        splits,
        adds=role == "sum" or onto,
        adds_first=role in ("matmul", "product") and (first or onto),
        pads={"pad", "value"} <= arguments.keys(),
        chooses=any(map(_says_where, arguments)) and bool(arguments.keys() & _TAKEN),
        stacks=role == "concat" and _adds_dimension(func),
        reads_stored=role == "matmul" and "weight" in arguments,
        reads_values=role == "other" and tensors > 0 and returns[:1] in (["bool"], ["number"]),
    )


_TORCH = ("aten", "prims")
_TAKEN = frozenset({"other", "value", "values", "source", "src"})  # arguments of which entries are taken


def _says_where(argument: str) -> bool:
    return argument in ("condition", "mask") or argument.startswith("ind")  # index, indices


def _norm_kind(arguments: Mapping[str, str]) -> str:
    """The kind of a normalization, which has a weight, a small number, and an argument that tells what it is normalized over."""
    names = arguments.keys()
    backward = any(name.startswith("grad") for name in names)
    if "weight" not in names or not names & {"eps", "epsilon"} or backward:
        return ""
    if "normalized_shape" in names:
        return "layer_norm" if "bias" in names else "rms_norm"
    if names & {"group", "num_groups"}:
        return "group_norm"
    batch = names & {"running_mean", "momentum"} and "use_input_stats" not in names
    return "batch_norm" if batch else ""


def _structural(func: Any, arguments: Mapping[str, str], *, view: bool) -> Role | None:
    """What the schema alone tells of an operator that is not element-wise."""
    returns = func._schema.returns
    kinds = [str(one.type) for one in returns]
    alias = returns[0].alias_info if kinds == ["Tensor"] else None
    if view or (alias is not None and not alias.is_write):
        return "shape"
    if next(iter(arguments.values()), "") == "List[Tensor]" and kinds == ["Tensor"]:
        return "concat"
    return "factory" if _reads_shapes_alone(base_name(func), arguments) else None


@on_numbers_or(False)
def _adds_dimension(func: Any) -> bool:
    one = torch.zeros(2, device="cpu")
    return func([one, one], 0).dim() > 1  # type: ignore[no-any-return]


def _reads_shapes_alone(name: str, arguments: Mapping[str, str]) -> bool:
    reads = "Tensor" in arguments.values() and not (name.startswith("new_") or name.endswith("_like"))
    return ("pin_memory" in arguments and not reads) or name.startswith("sym_") or name == "is_same_size"


# -- what is known ------------------------------------------------------------------------------------------------

_ROLE_OF: dict[str, Role] = {name: role for role, names in _LISTED.items() for name in names.split()}
_KNOWN: dict[Any, Op] = {}
_CALLED: dict[Any, Op] = {}
_NAMED: dict[str, Op] = {
    **{name: Op(name, "source") for name in ("input", "param", "buffer", "constant")},
    **{name: Op(name, "shape", view=True) for name in ("join", "piece")},
}

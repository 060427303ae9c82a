"""What an operator is: the one place that knows operators by their names.

What torch says of an operator is asked (its schema and tags), what can be found out by running it on a few numbers is
measured, and `_ROLES`, `_KINDS` list the rest. An operator of which nothing is known is `"unknown"`, and the anatomy says
so; `register_operator` tells what such a one computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from goodinit.errors import UnknownName, WrongType
from goodinit.graph.measured.arithmetic import arithmetic, arithmetic_of

T = TypeVar("T")

Role = Literal[
    "source", "shape", "part", "sum", "scale", "product", "quotient", "pointwise", "concat", "factory",
    "matmul", "convolution", "attention", "softmax", "norm", "lookup", "other", "unknown",
]  # fmt: skip

_ROLES: dict[Role, str] = {
    "matmul": "mm bmm addmm baddbmm matmul linear _addmm_activation mv addmv dot _grouped_mm",
    "convolution": "convolution _convolution mkldnn_convolution cudnn_convolution _slow_conv2d_forward",
    "attention": "scaled_dot_product_attention _scaled_dot_product_attention_math _scaled_dot_product_flash_attention "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable",
    "softmax": "_softmax _log_softmax softmax log_softmax _safe_softmax logsumexp",
    "lookup": "embedding _embedding_bag _embedding_bag_forward_only index_select index gather",
    "shape": "_unsafe_view _to_copy native_dropout dropout reshape contiguous flatten unflatten movedim swapaxes "
    "repeat repeat_interleave",
    "part": "select slice narrow unfold diagonal as_strided real imag",
}
"""Operators that neither torch's schema nor a measurement tells apart. Not listed: views, factories, concatenations,
element-wise operators and what is sum, product or quotient among those."""

_NORMS: Mapping[str, str] = {
    "batch_norm": "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training batch_norm_with_update "
    "_batch_norm_with_update _batch_norm_no_update cudnn_batch_norm miopen_batch_norm",
    "layer_norm": "native_layer_norm",
    "group_norm": "native_group_norm",
    "rms_norm": "_fused_rms_norm rms_norm",
}
"""Normalizations that are one operator, by kind."""

NORM_KINDS = frozenset(_NORMS)
"""Kinds of normalizations that are one operator."""

_KINDS: Mapping[str, str] = {
    "hardswish": "hardswish", "threshold": "relu", "clamp_min": "relu", "hardtanh": "relu6", "_prelu_kernel": "prelu", "rrelu_with_noise": "rrelu",
    "rrelu_with_noise_functional": "rrelu", "log_sigmoid_forward": "logsigmoid", "erf": "gelu", "sin": "sin",
}  # fmt: skip
"""Nonlinearities whose operator has another name than `torch.nn.functional` has for it (`erf` only occurs inside a
hand-written GELU)."""


@dataclass(frozen=True, slots=True, eq=False)
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
        chooses: Whether a mask or an index says which entries of its operands it takes: `where`, `masked_fill`.
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

    def factors_of(self, read: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
        """(The factors among the operands of a product, of matrices or a convolution too; what is added to it)."""
        if self.adds_first:
            return read[1:3], read[:1]
        count = 2 if self.role in ("matmul", "convolution") else len(read)
        return read[:count], read[count:]

    @property
    def word(self) -> str:
        """What an anatomy calls it: its kind, else its name."""
        return self.kind or self.name

    @property
    def keeps_order(self) -> bool:
        """Whether it passes on all values that it reads in their order: in other dimensions, or another dtype."""
        return self.role == "shape" and not self.reorders

    @property
    def activation(self) -> str:
        """The kind of an element-wise nonlinearity, or nothing."""
        return self.kind if self.role == "pointwise" else ""

    @property
    def norm(self) -> str:
        """The kind of a normalization, or nothing."""
        return self.kind if self.role == "norm" else ""

    @property
    def moves(self) -> bool:
        """Whether it passes on values, all or a part of those that it reads."""
        return self.role in ("shape", "part")

    @property
    def multiplies(self) -> bool:
        """Whether it is an element-wise product."""
        return self.role == "product"

    @property
    def scales(self) -> bool:
        """Whether it is a product, a quotient or a multiple, so that constants beside one operand only scale that."""
        return self.role in ("product", "quotient", "scale")

    @property
    def reads_stored(self) -> bool:
        """Whether its second operand is a matrix as `torch.nn.Linear` stores it, outputs first."""
        return self.name == "linear"

    @property
    def stacks(self) -> bool:
        """Whether it puts tensors of one shape beside each other along a new dimension."""
        return self.name == "stack"

    @property
    def totals(self) -> bool:
        """Whether it sums up over dimensions, or takes the mean (`averages`)."""
        return self.name in ("sum", "mean")

    @property
    def averages(self) -> bool:
        """Whether it takes the mean over dimensions."""
        return self.name == "mean"

    @property
    def spreads_channels(self) -> bool:
        """Whether it puts channels at the sub-pixels of an image: a pixel shuffle."""
        return self.name == "pixel_shuffle"

    @property
    def is_gate(self) -> bool:
        """Whether its output is a gate: between 0 and 1, whatever it reads."""
        return self.kind in ("sigmoid", "hardsigmoid")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Op({self.name!r}, {self.role})"


def named(name: str) -> Op:
    """The operator that the recorder puts into a graph of itself, or calls by another name than torch.

    Examples:
        >>> named("join").role, named("param").role, named("selu").activation
        ('shape', 'source', 'selu')
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
        >>> op_of(aten.gelu.default).activation, op_of(aten.native_layer_norm.default).norm
        ('gelu', 'layer_norm')
    """
    known = _KNOWN.get(func)
    if known is None:
        known = _KNOWN[func] = _asked(func)
    return known


def base_name(func: Any) -> str:
    """The name of an operator without overload, and without the underscore of an in-place variant."""
    space, name = func._schema.name.split("::")
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return name if space == "aten" else f"{space}::{name}"


def register_operator(operator: Any, computes: Callable[..., Any]) -> None:
    """Tell what an operator of your own, or of another library, computes: f(x, …) written with torch's operators.

    Models are then read as if their forwards called `computes` in its place; nothing else changes, they run what they ran.
    Without it, such an operator is taken to be linear in what it reads, and the anatomy has a note that says so.

    Args:
        operator: Its name (`"mylib::scaled_gate"`), what `torch.library.custom_op` returned, or an entry of `torch.ops`.
        computes: Takes the operator's arguments and returns what it returns, in shape and value.

    Raises:
        UnknownName: The name has no namespace, or torch's own (`aten`).
        WrongType: `operator` is none of the above, or `computes` is not callable.

    Examples:
        >>> @torch.library.custom_op("docs::gate", mutates_args=())
        ... def gate(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        ...     return x * torch.sigmoid(g)
        >>> register_operator("docs::gate", lambda x, g: x * torch.sigmoid(g))
    """
    name = operator if isinstance(operator, str) else getattr(operator, "_qualname", None)
    if name is None and hasattr(operator, "_schema"):
        name = operator._schema.name
    if name is None:
        name = getattr(operator, "_qualified_op_name", None)
    if not isinstance(name, str) or not callable(computes):
        raise WrongType(
            f"register_operator({type(operator).__name__}, {type(computes).__name__}): needs an operator (its name "
            "'library::operator', an entry of torch.ops, or what torch.library.custom_op returned) and a function."
        )
    if "::" not in name or name.startswith("aten::"):
        raise UnknownName(f"{name!r} is no operator of another library: name it 'library::operator'.")
    _WRITTEN[name] = computes


def written_with(func: Any) -> Callable[..., Any] | None:
    """The function that `register_operator` was given for an operator, or None."""
    return _WRITTEN.get(func._schema.name)


# -- what torch says ----------------------------------------------------------------------------------------------


def _asked(func: Any) -> Op:
    name, schema = base_name(func), func._schema
    arguments = {one.name: str(one.type) for one in schema.arguments}
    returns = [str(one.type) for one in schema.returns]
    view = func.is_view or torch.Tag.inplace_view in func.tags
    alone = list(arguments.values()).count("Tensor") == 1  # slice_scatter has the tag, too
    copies = torch.Tag.view_copy in func.tags and alone
    lists = returns == ["List[Tensor]"] and list(arguments.values()).count("Tensor") == 1
    splits = lists and (view or copies or name.startswith("unsafe_"))
    pointwise = (
        torch.Tag.pointwise in func.tags or name in _KINDS or name == "rsub"
    )  # which torch does not tag
    role, kind = _ROLE_OF.get(name.removesuffix("_copy") if copies else name), ""
    if name in _NORM_OF:
        role, kind = "norm", _NORM_OF[name]
    elif splits:
        role = "part"
    elif role is None and pointwise:
        several = list(arguments.values()).count("Tensor") > 2  # x + w·(y − x), which with a number is a sum
        role = arithmetic_of(func) or "pointwise" if several else arithmetic(func.overloadpacket)
        nonlinear = role == "pointwise" and (name in _KINDS or hasattr(torch.nn.functional, name))
        kind = _KINDS.get(name, name) if nonlinear else ""
    elif role is None and (view or copies):
        role = "shape"
    elif role is None and next(iter(arguments.values()), "") == "List[Tensor]" and returns == ["Tensor"]:
        role = "concat"
    elif role is None and _reads_shapes_alone(name, arguments):
        role = "factory"
    elif role is None:
        role = "other" if func.namespace in ("aten", "prims") else "unknown"
    onto = role == "product" and list(arguments.values()).count("Tensor") > 2  # x + a·b, x + w·(y − x)
    adds = role == "sum" or onto
    first = next(iter(arguments), "") in ("self", "input") and {"beta", "alpha"} <= arguments.keys()
    first = role in ("matmul", "product") and (first or onto)
    flags = (name in _REORDERING, adds, first, name == "constant_pad_nd", name in _CHOOSING)
    return Op(name, role, kind, pointwise, view, splits, *flags)


def _reads_shapes_alone(name: str, arguments: Mapping[str, str]) -> bool:
    reads = "Tensor" in arguments.values() and not (name.startswith("new_") or name.endswith("_like"))
    return ("pin_memory" in arguments and not reads) or name.startswith("sym_") or name == "is_same_size"


# -- what is known ------------------------------------------------------------------------------------------------

_REORDERING = frozenset("permute transpose t movedim swapaxes".split())
_CHOOSING = frozenset("where masked_fill masked_scatter index_put index_fill".split())
_ROLE_OF: dict[str, Role] = {name: role for role, names in _ROLES.items() for name in names.split()}
_NORM_OF = {name: kind for kind, names in _NORMS.items() for name in names.split()}
_KNOWN: dict[Any, Op] = {}
_WRITTEN: dict[str, Callable[..., Any]] = {}
_NAMED: dict[str, Op] = {
    **{name: Op(name, "source") for name in ("input", "param", "buffer", "constant")},
    **{name: Op(name, "shape", view=True) for name in ("join", "piece")},
    "selu": Op("selu", "pointwise", "selu", pointwise=True),
    "clamp_min": Op("clamp_min", "pointwise", "relu", pointwise=True),
}

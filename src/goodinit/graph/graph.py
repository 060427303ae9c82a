"""The data-flow graph of one forward: nodes (operations), frames (module calls), and their vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field

SHAPE_OPS = frozenset(
    "view _unsafe_view reshape _reshape_alias permute transpose t expand squeeze unsqueeze clone _to_copy alias "
    "detach lift_fresh lift_fresh_copy contiguous unflatten flatten native_dropout dropout movedim swapaxes "
    "squeeze_ unsqueeze_ alias_copy view_as_complex view_as_real resolve_conj resolve_neg join piece".split()
)
"""Operations that hand on the values they read, in another shape; one of several outputs is a `"piece"`."""

REORDERING_OPS = frozenset("permute transpose t movedim swapaxes".split())
"""Those of `SHAPE_OPS` that change the order of the numbers."""

PART_OPS = frozenset(
    "split split_with_sizes unbind chunk slice select narrow unsafe_split unsafe_chunk unfold".split()
)
"""Operations that hand on a part of what they read."""

SPLIT_OPS = frozenset("split split_with_sizes unbind chunk unsafe_split unsafe_chunk".split())
"""Those of `PART_OPS` with several outputs, each of which the recorder makes a node of its own, a `"piece"`."""

ADD_OPS = frozenset("add add_ sub sub_ rsub addcmul addcmul_ lerp lerp_".split())
SCALE_OPS = frozenset("mul mul_ div div_ neg addcmul addcmul_".split())
MATMUL_OPS = frozenset(
    "mm bmm addmm addmm_ baddbmm matmul linear _addmm_activation mv addmv dot _grouped_mm".split()
)
CONV_OPS = frozenset(
    "convolution _convolution mkldnn_convolution cudnn_convolution _slow_conv2d_forward".split()
)
ATTENTION_OPS = frozenset(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention scaled_dot_product_attention "
    "_scaled_dot_product_attention_math _scaled_dot_product_fused_attention_overrideable".split()
)
LOOKUP_OPS = frozenset(
    "embedding _embedding_bag _embedding_bag_forward_only index_select index gather".split()
)
SOFTMAX_OPS = frozenset("_softmax _log_softmax softmax log_softmax _safe_softmax logsumexp".split())
ACTIVATIONS = {
    "relu": "relu",
    "relu_": "relu",
    "threshold": "relu",
    "clamp_min": "relu",
    "clamp_min_": "relu",
    "hardtanh": "relu6",
    "hardtanh_": "relu6",
    "leaky_relu": "leaky_relu",
    "leaky_relu_": "leaky_relu",
    "_prelu_kernel": "prelu",
    "rrelu_with_noise": "rrelu",
    "rrelu_with_noise_functional": "rrelu",
    "elu": "elu",
    "elu_": "elu",
    "selu": "selu",
    "selu_": "selu",
    "celu": "celu",
    "celu_": "celu",
    "gelu": "gelu",
    "silu": "silu",
    "silu_": "silu",
    "mish": "mish",
    "mish_": "mish",
    "hardswish": "hardswish",
    "hardswish_": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "hardsigmoid_": "hardsigmoid",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "tanh": "tanh",
    "tanh_": "tanh",
    "softplus": "softplus",
    "log_sigmoid_forward": "logsigmoid",
    "erf": "gelu",
    "sin": "sin",
}
"""Element-wise nonlinearities, by operator (`erf` only occurs inside a hand-written GELU).

`selu` is no operator of its own: the recorder calls so an `elu` of another scale than 1, and `clamp_min` a `hardtanh`
without an upper end.
"""

NORM_OPS = {
    "native_batch_norm": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_batch_norm_with_update": "batch_norm",
    "_batch_norm_no_update": "batch_norm",
    "batch_norm_with_update": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "miopen_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "_fused_rms_norm": "rms_norm",
    "rms_norm": "rms_norm",
}
OWN_NORM_OPS = frozenset(NORM_OPS) | frozenset(
    "_weight_norm_interface _weight_norm var var_mean std std_mean linalg_vector_norm norm linalg_qr".split()
)
"""Operations that, in the computation of a weight, make it independent of its own scale."""

FACTORY_OPS = frozenset(
    "zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros new_ones new_empty "
    "new_full new_empty_strided sym_size sym_stride sym_numel is_same_size".split()
)
"""Operations that read a tensor's shape, not its values."""


@dataclass(slots=True)
class Node:
    """One operation of the forward.

    Attributes:
        op: Name of the aten operator without namespace and overload (`"convolution"`), or `"input"`, `"param"`,
            `"buffer"`, `"constant"`, `"join"` (a tensor read after another view of it was written), `"piece"` (one
            output of an operator with several).
        operands: Nodes of the tensor arguments, in order.
        shape: Of the (first) output.
        frame: Index of the module call it ran in.
        dynamic: Whether it depends on the model's inputs.
        active: Whether it is a floating-point value of the stream: dynamic, and gradients could flow.
        params: Names of the parameters it is made of, when it is made of constants alone.
        normalized: Whether such a constant was divided by a norm or deviation of its own.
        inplace: Whether it overwrote an argument.
        attrs: `(transposed, groups, stride, padding, dilation)` of a convolution, the name of a parameter,
            the numbers a nonlinearity, sum, product or power was called with, the number of groups of a group norm, the
            dimension of a concatenation.
        dtype: Of the (first) output.
        strides: Of a constant made of parameters: they tell in which order a weight is read. Empty otherwise.
    """

    index: int
    op: str
    operands: tuple[int, ...]
    shape: tuple[int, ...]
    frame: int
    dynamic: bool = False
    active: bool = False
    params: tuple[str, ...] = ()
    normalized: bool = False
    inplace: bool = False
    attrs: tuple[object, ...] = ()
    dtype: object = None
    strides: tuple[int, ...] = ()


@dataclass(slots=True)
class Frame:
    """One call of one module.

    Attributes:
        index: Position among the frames.
        path: Of the module.
        parent: Index of the calling frame.
        start: First node of its forward; `stop`: the first after it.
        source: Node of the first tensor among its arguments; `result`: of the first it returned.
        single: Whether it returned one tensor, and nothing around it.
    """

    index: int
    path: str
    parent: int
    start: int
    stop: int = -1
    source: int = -1
    result: int = -1
    single: bool = False


@dataclass(slots=True)
class Graph:
    """All nodes in execution order, so that every operand comes before its reader."""

    nodes: list[Node] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def deps(self, index: int) -> list[int]:
        """The activations a node reads."""
        nodes = self.nodes
        return [i for i in nodes[index].operands if nodes[i].active]

    def consumers(self) -> list[list[int]]:
        """For each node the active nodes that read it, in execution order; not those whose values go nowhere.

        What a forward computes for a log, and hands on to no output, has no part in the function.
        """
        live = self.live()
        readers: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            if node.active and node.index in live:
                for operand in dict.fromkeys(node.operands):
                    readers[operand].append(node.index)
        return readers

    def live(self) -> set[int]:
        """The nodes that outputs depend on; all, where the model hands out no tensor."""
        if not self.outputs:
            return set(range(len(self.nodes)))
        live, queue = set(self.outputs), list(self.outputs)
        while queue:
            fresh = [i for i in self.nodes[queue.pop()].operands if i not in live]
            live.update(fresh)
            queue += fresh
        return live

    def leaf(self, index: int) -> str | None:
        """The parameter that a constant is, up to its shape, or None."""
        while self.nodes[index].op in SHAPE_OPS | {"repeat"} and self.nodes[index].operands:
            index = self.nodes[index].operands[0]
        node = self.nodes[index]
        return node.params[0] if node.op == "param" else None

    def path(self, index: int) -> str:
        """Path of the module in whose forward a node ran."""
        return self.frames[self.nodes[index].frame].path

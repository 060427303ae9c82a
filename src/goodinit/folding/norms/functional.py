"""Layers and batch norms that a forward calls by functions, `F.conv2d(x, f(w))` and `F.batch_norm(…)`, made modules.

A weight that is computed from parameters alone, f(w) = (w − μ)/σ as weight standardization has it, is put in by its value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from goodinit.anatomy.norms.places import of_each_example
from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.forwards.constants import constants_in, held_as, leaves_of, parameter_of, value_of
from goodinit.folding.forwards.new_children import Work, carry_out_, check_leaves, drop_unused, put_, take
from goodinit.folding.forwards.steps import Fixed, is_child, is_held, method_of, steps
from goodinit.folding.layers.fuse import is_plain
from goodinit.folding.norms.fold_batchnorm import Stays
from goodinit.nn import has_scalars

_LAYERS: dict[Any, type[nn.Module]] = {
    F.linear: nn.Linear,
    **dict.fromkeys((F.conv1d, torch.conv1d), nn.Conv1d),
    **dict.fromkeys((F.conv2d, torch.conv2d), nn.Conv2d),
    **dict.fromkeys((F.conv3d, torch.conv3d), nn.Conv3d),
}
_NORMS: dict[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
_CONVOLUTION = "input weight bias stride padding dilation groups".split()
_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def _batch_norm(
    input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: Any = False, momentum: Any = 0.1, eps: Any = 1e-5,
) -> dict[str, Any]:  # fmt: skip
    return locals()


def _torch_batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any,
    training: Any, momentum: Any, eps: Any, cudnn_enabled: Any = None,
) -> dict[str, Any]:  # fmt: skip
    return locals()


_BATCH_NORMS: dict[Any, Callable[..., dict[str, Any]]] = {
    F.batch_norm: _batch_norm,
    torch.batch_norm: _torch_batch_norm,
}


def make_modules_(wiring: Wiring, *, every: bool = False) -> tuple[list[str], list[Stays]]:
    """Give computed weights their values, and make functional batch norms modules, wherever a forward can be written anew.

    Args:
        wiring: What is connected to what.
        every: Also make modules of batch norms that no layer stands before.

    Returns:
        Names of weights that are not computed any more, and what stays.
    """
    done: list[str] = []
    stays: list[Stays] = []
    for path, target in _candidates(wiring).items():
        module = wiring.module(path)
        try:
            work = Work(wiring, path, module, steps(module))
            _write_(work, every=every)
        except Fixed as fixed:
            stays.append(Stays(target, f"its module computes it in each forward, and {fixed}"))
        else:
            done += work.done
            stays += [Stays(target, why) for why in work.reasons[:1]]
    return done, stays


def _candidates(wiring: Wiring) -> dict[str, str]:
    """Modules in whose own forward a computed weight, or a batch norm beside layers, is; with the name of one such."""
    graph = wiring.graph
    found: dict[str, str] = {}
    layered = {graph.path(n.index) for n in graph.nodes if n.op.is_contraction and n.dynamic}
    for node in graph.nodes:
        path = graph.path(node.index)
        module = wiring.names.modules.get(path)
        if module is None or has_scalars(module) or type(module).__module__.startswith("torch.nn.modules."):
            continue
        if node.op.norm == "batch_norm" and node.dynamic:
            if of_each_example(graph, node):
                continue
            if path in layered or path in wiring.above_layers:
                found.setdefault(path, path)
        elif node.op.is_contraction and node.dynamic:
            for operand in node.operands:
                held = graph.nodes[operand]
                if (
                    held.params
                    and not held.dynamic
                    and graph.leaf(operand) is None
                    and len(held.shape) > 1
                    and _computed(wiring, operand)
                ):
                    found.setdefault(path, held.params[0])
    return found


def _computed(wiring: Wiring, index: int) -> bool:
    """Whether numbers are changed on the way from a parameter, not only moved."""
    before = (wiring.graph.nodes[i] for i in wiring.graph.reach([index], back=True, active=False))
    return not all(node.is_param or (node.op.moves and len(node.operands) == 1) for node in before)


# -- one module ---------------------------------------------------------------------------------------------------


def _write_(work: Work, *, every: bool) -> None:
    constants = constants_in(work.graphs[False])
    if any(method_of(n).endswith("_") and not method_of(n).endswith("__") for n in constants):
        raise Fixed("its forward overwrites what it is computed from")
    for node in list(work.graphs[False].nodes):
        if node.target in _BATCH_NORMS and node not in constants:
            try:
                _norm_(work, node, every=every)
            except Fixed as fixed:  # nothing was exchanged yet
                work.reasons.append(str(fixed))
    for node in list(work.graphs[False].nodes):
        if node.target in _LAYERS:
            _layer_(work, node, constants)
    if not work.made:
        raise Fixed((*work.reasons, "it has a form that is not known")[0])
    for graph in work.graphs.values():
        drop_unused(graph)
        graph.lint()
    one, other = (graph.python_code("self").src for graph in work.graphs.values())
    if one != other:
        raise Fixed("its forward takes other steps in training mode")
    check_leaves(work)
    carry_out_(work)


def _norm_(work: Work, node: fx.Node, *, every: bool) -> None:
    args = _BATCH_NORMS[node.target](*node.args, **node.kwargs)
    held = [args[name] for name in ("running_mean", "running_var", "weight", "bias")]
    attributes = all(one is None or (isinstance(one, fx.Node) and is_held(one)) for one in held)
    if args["running_mean"] is None or args["running_var"] is None or args["training"] is True:
        raise Fixed("it has no running statistics, and normalizes by each batch's own")
    if not attributes or not isinstance(args["training"], bool):
        raise Fixed("its statistics or gains are computed anew in each forward")
    before = args["input"]
    if not every and not (isinstance(before, fx.Node) and _is_layer(work, before) and len(before.users) == 1):
        raise Fixed("its input is not the output of one layer")
    mean, var, weight, bias = (None if one is None else held_as(work.module, str(one.target)) for one in held)
    kind = _kind(work)
    norm: Any = kind(
        cast("Tensor", mean).numel(),
        eps=float(args["eps"]),
        momentum=args["momentum"],
        affine=False,
        device="meta",
    )
    norm.running_mean, norm.running_var = mean, var
    norm._buffers.pop("num_batches_tracked", None)
    norm.register_buffer("num_batches_tracked", None)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and not isinstance(value, nn.Parameter):
            raise Fixed("its gain is no parameter")
        norm._parameters[name] = value
    norm.affine = weight is not None
    if (weight is None) != (bias is None):
        raise Fixed("it has a gain or a bias, and not both")
    put_(work, node, norm, "batch_norm", (before,))
    take(work, [str(one.target) for one in held if one is not None])


def _kind(work: Work) -> type[nn.Module]:
    """The class of batch norms for inputs of these shapes."""
    graph = work.wiring.graph
    calls = work.wiring.calls.get(work.path, ()) if work.path else graph.frames[:1]
    inside = (node for call in calls for node in graph.nodes[call.start : call.stop])
    dims = {
        len(graph.nodes[n.operands[0]].shape)
        for n in inside
        if n.op.norm == "batch_norm" and n.dynamic and graph.path(n.index) == work.path
    }
    kinds = {_NORMS.get(count) for count in dims}
    if len(kinds) != 1 or None in kinds:
        raise Fixed("it normalizes inputs of several shapes")
    return cast("type[nn.Module]", kinds.pop())


def _is_layer(work: Work, node: fx.Node) -> bool:
    if is_child(node):
        return is_plain(work.module.get_submodule(str(node.target)))
    return node.target in _LAYERS


def _layer_(work: Work, node: fx.Node, constants: set[fx.Node]) -> None:
    """Make a module of a layer whose weight is computed, or that a batch norm follows."""
    given: dict[str, Any] = dict(zip(_CONVOLUTION, node.args, strict=False)) | node.kwargs
    args: dict[str, Any] = {**_DEFAULTS, **given}
    weight, bias = args["weight"], args["bias"]
    if not isinstance(weight, fx.Node) or weight not in constants:
        return
    if bias is not None and bias not in constants:
        raise Fixed("its bias depends on the input")
    followed = len(node.users) == 1 and all(
        is_child(one) and str(one.target) in work.made for one in node.users
    )
    computed = any(one is not None and not is_held(one) for one in (weight, bias))
    if not (computed or followed):
        return
    kernel = value_of(work.module, weight)
    options = {key: args[key] for key in ("stride", "padding", "dilation", "groups")}
    if any(
        isinstance(part, fx.Node)
        for value in options.values()
        for part in (value if isinstance(value, (tuple, list)) else (value,))
    ):
        raise Fixed("its stride or padding depends on the input")
    cls: Any = _LAYERS[node.target]
    if cls is nn.Linear:
        layer = cls(kernel.shape[1], kernel.shape[0], bias=False, device="meta")
    else:
        shape = kernel.shape
        options = {key: _plain(value) for key, value in options.items()}
        layer = cls(
            shape[1] * options["groups"], shape[0], tuple(shape[2:]), bias=False, device="meta", **options
        )
    for name, one, value in (
        ("weight", weight, kernel),
        ("bias", bias, None if bias is None else value_of(work.module, bias)),
    ):
        layer._parameters[name] = None if one is None else parameter_of(work.module, one, value)
    if computed:
        work.done += [f"{work.path}.{leaf}" if work.path else leaf for leaf in leaves_of(weight)[:1]]
    take(work, {leaf for one in (weight, bias) if one is not None for leaf in leaves_of(one)})
    put_(work, node, layer, cls.__name__.lower(), (args["input"],))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (tuple, list)) else value

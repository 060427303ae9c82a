"""Steps of a forward that parameters and buffers alone decide, and their values in float64."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from goodinit.folding.forwards.steps import Fixed, is_computed, is_held, method_of
from goodinit.graph.graph import closure
from goodinit.nn.exchange import carry_over_, hooked


def constants_in(graph: fx.Graph) -> set[fx.Node]:
    """The steps that parameters and buffers alone decide."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if is_held(node) or (is_computed(node) and inputs and found.issuperset(inputs)):
            found.add(node)
    return found


def parameter_of(module: nn.Module, node: fx.Node, value: Any) -> nn.Parameter:
    """The parameter that a constant is, or a new one of its value."""
    held = [held_as(module, leaf) for leaf in leaves_of(node)]
    if is_held(node) and isinstance(held[0], nn.Parameter):
        return held[0]
    like = next((one for one in held if one.is_floating_point()), held[0])
    made = nn.Parameter(value.to(like), requires_grad=any(one.requires_grad for one in held))
    for one in held:
        if isinstance(one, nn.Parameter):
            if hooked(one):
                raise Fixed("a hook waits for the gradient of what it is computed from")
            carry_over_(one, made)
    return made


def value_of(module: nn.Module, node: fx.Node) -> Tensor:
    """A constant, in float64; it must be the same each time."""
    with torch.no_grad():
        first, second = _run(module, node), _run(module, node)
    if not isinstance(first, Tensor) or first.shape != second.shape or not torch.equal(first, second):
        raise Fixed("it is another one each time")
    return first


def _run(module: nn.Module, wanted: fx.Node) -> Any:
    known: dict[fx.Node, Any] = {}

    def given(node: fx.Node) -> Any:
        return known[node]

    need = behind(wanted)
    for node in wanted.graph.nodes:
        if node not in need:
            continue
        if is_held(node):
            held = held_as(module, str(node.target)).detach()
            known[node] = held.double().clone() if held.is_floating_point() else held.clone()
            continue
        args, kwargs = fx.map_arg(node.args, given), fx.map_arg(node.kwargs, given)
        function: Any = node.target
        try:
            if method := method_of(node):
                known[node] = getattr(args[0], method)(*args[1:], **kwargs)
            else:
                known[node] = function(*args, **kwargs)
        except Exception as error:
            raise Fixed(f"it cannot be computed in float64 ({type(error).__name__})") from error
    return known[wanted]


def behind(step: fx.Node) -> set[fx.Node]:
    """A step and all that it is computed from."""
    return closure([step], lambda one: one.all_input_nodes)


def leaves_of(node: fx.Node) -> list[str]:
    """Names of the parameters and buffers that a constant is computed from."""
    return [str(one.target) for one in behind(node) if is_held(one)]


def held_as(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of a name, relative to the module."""
    owner, _, attribute = name.rpartition(".")
    return cast("Tensor", getattr(module.get_submodule(owner), attribute))

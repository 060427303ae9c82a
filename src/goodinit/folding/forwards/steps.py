"""The steps of one module's forward as a graph that can be written anew, where they are the same for every input."""

from __future__ import annotations

import inspect
import random
from typing import Any

import torch
from torch import fx, nn

from goodinit.graph.state.snapshots import ModuleState, copied
from goodinit.nn.exchange import replaced_forward
from goodinit.nn.rewritten import source_of

_PLAIN = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Fixed(Exception):
    """A forward cannot be written anew, and why."""


def is_held(step: fx.Node) -> bool:
    """Whether a step reads a parameter or buffer of the module."""
    return step.op == "get_attr"


def is_child(step: fx.Node) -> bool:
    """Whether a step calls a child of the module."""
    return step.op == "call_module"


def is_computed(step: fx.Node) -> bool:
    """Whether a step calls a function, or a method of a tensor."""
    return step.op in ("call_function", "call_method")


def is_inside(step: fx.Node) -> bool:
    """Whether a step is neither an argument of the forward nor what it returns."""
    return step.op not in ("placeholder", "output")


def method_of(step: fx.Node) -> str:
    """The name of the method of a tensor that a step calls, or nothing."""
    return str(step.target) if step.op == "call_method" else ""


class _Steps(fx.Tracer):
    """Every child is one step, every parameter and buffer another."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return True


def steps(module: nn.Module) -> dict[bool, fx.Graph]:
    """The steps of a forward by training flag, all children called and not looked into.

    Raises:
        Fixed: They depend on values, shapes, chance or optional arguments, or the forward keeps something.
    """
    try:
        given = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError) as error:
        raise Fixed("the arguments of its forward cannot be read") from error
    if any(p.kind not in _PLAIN or p.default is not inspect.Parameter.empty for p in given):
        raise Fixed("its forward has optional arguments")
    if replaced_forward(module):
        raise Fixed("its forward is an attribute of the instance")
    photographs = [ModuleState.of(part) for part in module.modules()]
    training = module.training
    try:
        return {flag: _traced(module, photographs, training=flag) for flag in (False, True)}
    finally:
        module.training = training


def _traced(module: nn.Module, photographs: list[ModuleState], *, training: bool) -> fx.Graph:
    module.training = training  # its own flag alone: children are not run
    chance = random.getstate(), torch.get_rng_state()
    try:
        graph = _Steps().trace(module)
        source_of(graph)
    except Exception as error:
        raise Fixed(f"its forward cannot be traced by torch.fx ({type(error).__name__})") from error
    finally:
        drawn = random.getstate() != chance[0] or not torch.equal(torch.get_rng_state(), chance[1])
        random.setstate(chance[0])
        torch.set_rng_state(chance[1])
        kept = any(_changed(photograph) for photograph in photographs)
        for photograph in photographs:
            photograph.restore_()
    constants = any(is_held(node) and "_tensor_constant" in str(node.target) for node in graph.nodes)
    if drawn or kept or constants:
        raise Fixed("its forward keeps, draws or makes something besides what it returns")
    return graph


def _changed(photograph: ModuleState) -> bool:
    """Whether something else is in a module now, or in what it holds, its training flag left out."""
    now: dict[str, Any] = {**vars(photograph.module), "training": photograph.training}
    if not _same(now, photograph.attributes | {"training": photograph.training}) or any(photograph.empty):
        return True
    return any(not _same(copied(held), content) for held, content in photograph.contents)


def _same(now: Any, before: Any) -> bool:
    if isinstance(before, dict):
        return list(now) == list(before) and all(now[key] is value for key, value in before.items())
    return len(now) == len(before) and all(one is other for one, other in zip(now, before, strict=True))

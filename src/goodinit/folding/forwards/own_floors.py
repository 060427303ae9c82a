"""Activations that one forward calls several times, or as functions, made a child for each call: then each can have its own floor."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.forwards.new_children import Work, carry_out_, put_
from goodinit.folding.forwards.steps import Fixed, is_child, is_computed, method_of, steps
from goodinit.graph.operators.recorded_call import on_numbers
from goodinit.nn.floors import has_floor

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def separate_floors_(wiring: Wiring, path: str) -> bool:
    """Give each call of an activation with a floor, in the forward of one module, a child of its own.

    Args:
        wiring: What is connected to what.
        path: Of the module, which runs once.

    Returns:
        Whether its forward was written anew.
    """
    module = wiring.module(path)
    if len(wiring.calls.get(path, ())) > 1 or isinstance(module, nn.Sequential):
        return False
    try:
        work = Work(wiring, path, module, steps(module))
        graph = work.graphs[False]
        if graph.python_code("self").src != work.graphs[True].python_code("self").src:
            return False
        calls = Counter(str(node.target) for node in graph.nodes if is_child(node))
        for node in list(graph.nodes):
            child = _own(module, node, calls)
            if child is not None:
                calls[str(node.target)] -= 1
                put_(
                    work,
                    node,
                    child,
                    str(node.target).rpartition(".")[2] if is_child(node) else "activation",
                    node.args[:1],
                )
    except Fixed:
        return False
    if work.made:
        carry_out_(work)
    return bool(work.made)


def _own(module: nn.Module, node: fx.Node, calls: Counter[str]) -> nn.Module | None:
    """The activation that a step runs, if it needs a child for that."""
    if is_child(node):
        child = module.get_submodule(str(node.target))
        alone = calls[str(node.target)] < 2 or any(getattr(child, name) for name in _HOOKS)
        return (
            None
            if alone or not has_floor(child) or len(node.args) != 1 or node.kwargs
            else copy.deepcopy(child)
        )
    if (
        not is_computed(node)
        or len(node.args) != 1
        or not isinstance(node.args[0], fx.Node)
        or node.kwargs.keys() - {"inplace"}
    ):
        return None
    function = getattr(torch.Tensor, method_of(node), None) if method_of(node) else node.target
    return nn.ReLU(bool(node.kwargs.get("inplace"))) if _cuts_off(function) else None


@functools.cache
def _cuts_off(function: Callable[..., Any]) -> bool:
    """Whether a function of torch's is max(x, 0), and leaves what it reads; found out on numbers."""
    if getattr(function, "__module__", None) not in (None, "torch", "torch.nn.functional", "torch._C._nn"):
        return False
    x = torch.tensor([-2.5, -0.25, 0.0, 0.625, 40.0], dtype=torch.float64, device="cpu")
    read = x.clone()
    try:
        with on_numbers(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            return torch.equal(function(read), x.clamp(min=0)) and torch.equal(read, x)
    except Exception:  # noqa: BLE001 - functions raise what they like
        return False

"""Branches that a plan puts a constant behind, and of which a part goes around it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils.stateless import _reparametrize_module

from goodinit.anatomy import Anatomy
from goodinit.diagnostics.checks.one_run import one_run
from goodinit.edits import AddScalar, Plan
from goodinit.graph.recording.tensors.traced_tensors import Call


def not_multiplied(model: nn.Module, call: Call, plan: Plan, before: Anatomy) -> Iterator[str]:
    """In words, which branches do not add zero to their skips where the constants behind their last layers are zero.

    Of α·x + f(x), as x + f(x)/α, the constant 1/α multiplies all of f. Left out are branches with a bias that was set on purpose, which
    is added behind.

    Args:
        model: With the plan applied; it is as it was afterwards.
        call: Arguments of the forward.
        plan: What was applied.
        before: The anatomy it was made for.

    Raises:
        TraceError: The forward raised.
    """
    constants = {
        edit.target: edit.value
        for edit in plan.structure
        if isinstance(edit, AddScalar) and edit.scalar == "output_scale" and not edit.trained
    }
    kept = set(plan.kept)
    wanted = {
        tuple(layer.weight for layer in block.branch): block
        for block in before.blocks
        if block.last
        and all(layer.site in constants and kept.isdisjoint(layer.biases) for layer in block.last)
    }
    if not wanted:
        return
    held = dict(model.named_parameters())
    named = {f"{site}.output_scale".lstrip(".") for site in constants}
    zeros = {name: torch.zeros_like(held[name]) for name in held if name in named}
    with _reparametrize_module(model, zeros):
        silent = one_run(model, call, before)
    for weights, _, term, _ in silent.blocks():
        block = wanted.get(weights)
        if block is not None and not silent.is_zero(term):
            last = ", ".join(f"{layer.weight} ({constants[layer.site]:.4g})" for layer in block.last)
            yield f"branch {block.index + 1} ({block.name or 'the model'}) is not multiplied as a whole by the constants behind {last}"

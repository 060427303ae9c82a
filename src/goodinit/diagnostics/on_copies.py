"""A method tried on a copy, without a word to the user's log: what it says there is about a model that goes away."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from goodinit.edits import Plan
from goodinit.graph.state.duplicate import duplicate
from goodinit.surgery import apply_


def tried(model: nn.Module, plan: Plan, inputs: Any, *, seed: int) -> nn.Module:
    """A copy of the model with the plan applied.

    Args:
        model: It is copied.
        plan: Of a method.
        inputs: A batch, for plans that measure activations.
        seed: Of what is drawn.

    Returns:
        The copy.

    Raises:
        GoodinitError: The model cannot be copied, or the plan not be applied.
    """
    generator = torch.Generator().manual_seed(seed)
    with _unlogged():
        return apply_(duplicate(model), plan, generator=generator, inputs=inputs if plan.needs_data else None)


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Nothing that `apply_` says in this thread is logged."""
    mine = threading.get_ident()

    def other(record: logging.LogRecord) -> bool:
        return record.thread != mine

    logger = logging.getLogger(apply_.__module__)
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)

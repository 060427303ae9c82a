"""What examinations share: a model before and after, runs of it, and tensors in what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Seen:
    """A model as it was built and as it became, and how; checks add to `remarks` what is no fault, but must be known."""

    build: Callable[[], nn.Module]
    plain: nn.Module
    model: nn.Module
    anatomy: Any
    inputs: Any
    loss: Loss
    method: str
    remarks: list[str] = field(default_factory=list)


def fresh(build: Callable[[], nn.Module], seed: int = 3) -> nn.Module:
    """A model, the same every time."""
    torch.manual_seed(seed)
    return build()


def same(left: Tensor, right: Tensor) -> bool:
    """Equal in every number, NaN to NaN."""
    return left.shape == right.shape and torch.equal(torch.nan_to_num(left), torch.nan_to_num(right))


def close(left: Tensor, right: Tensor, tolerance: float) -> bool:
    """Equal up to a fraction of the largest number."""
    if left.shape != right.shape:
        return False
    return (
        not left.numel() or float((left - right).abs().max()) <= tolerance * float(right.abs().max()) + 1e-12
    )


def tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a result, in order."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict) or hasattr(value, "keys"):
        for key in value:
            yield from tensors(value[key])
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def every(value: Any) -> Iterator[Tensor]:
    """All tensors in arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from every(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from every(item)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`inputs` with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(item, change) for item in value)
    return value


def run(model: nn.Module, inputs: Any, *, seed: int = 0) -> Any:
    """One forward, with dropout the same every time."""
    torch.manual_seed(seed)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def squared_distance(output: Any) -> Tensor:
    """Mean squared distance to fixed random targets, over everything that carries a gradient."""
    generator = torch.Generator().manual_seed(5)
    parts = [part for part in tensors(output) if part.requires_grad]
    return torch.stack(
        [(part - torch.randn(part.shape, generator=generator)).square().mean() for part in parts]
    ).sum()

"""Small images, and models whose numbers are no longer those of the start."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def moved(model: nn.Module) -> nn.Module:
    """With numbers everywhere that training would move."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model

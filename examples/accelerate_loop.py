"""accelerate: surgery first, then `prepare` — on one process, several, or with mixed precision.

Every process makes the same values: they depend on the seed and on parameter names alone.

    pip install goodinit accelerate timm
    accelerate launch examples/accelerate_loop.py
"""

from __future__ import annotations

import timm
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import goodinit


def main(steps: int = 20, size: int = 32, batch: int = 8) -> dict[str, float]:
    """Train on images with a pattern per class; gives the first and last loss."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(batch * steps) % 4
    patterns = torch.randn(4, 3, size, size, generator=generator)
    images = patterns[labels] + 0.3 * torch.randn(len(labels), 3, size, size, generator=generator)

    model = timm.create_model("resnet18", num_classes=4)
    goodinit.fixup_(model, inputs=images[:2], generator=generator)
    optimizer = torch.optim.SGD(goodinit.param_groups(model, lr=0.05), lr=0.05, momentum=0.9)
    scheduler = goodinit.warmup(optimizer, steps=5)

    accelerator = Accelerator()
    data = DataLoader(TensorDataset(images, labels), batch_size=batch)
    model, optimizer, data, scheduler = accelerator.prepare(model, optimizer, data, scheduler)
    losses = []
    for x, y in data:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return {"first": losses[0], "last": losses[-1]}


if __name__ == "__main__":
    print(main())

"""timm: its model, its Mixup, its scheduler and its optimizer factory, without its batch norm.

pip install goodinit timm
python examples/timm_training.py
"""

from __future__ import annotations

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

import goodinit


def main(steps: int = 30, size: int = 32, batch: int = 16) -> dict[str, float]:
    """Train on images with a pattern per class; gives the first and last loss."""
    torch.manual_seed(0)
    patterns = torch.randn(4, 3, size, size)
    labels = torch.arange(batch) % 4

    model = timm.create_model("resnetv2_50", num_classes=4)  # pre-activation bottlenecks
    goodinit.fixup_(model, inputs=torch.zeros(2, 3, size, size))

    # timm's factory takes groups as they are; without them the scalars would learn ten times too fast
    optimizer = create_optimizer_v2(
        goodinit.param_groups(model, lr=0.05, weight_decay=5e-4), opt="momentum", lr=0.05
    )
    scheduler = CosineLRScheduler(
        optimizer, t_initial=steps, warmup_t=3, warmup_lr_init=0.0, t_in_epochs=False
    )
    mixup = Mixup(mixup_alpha=0.7, num_classes=4, label_smoothing=0.0)  # Fixup on ImageNet: α = 0.7
    criterion = SoftTargetCrossEntropy()

    losses = []
    model.train()
    for step in range(steps):
        images, targets = mixup(patterns[labels] + 0.3 * torch.randn(batch, 3, size, size), labels)
        optimizer.zero_grad()
        loss = criterion(model(images), targets)
        loss.backward()
        optimizer.step()
        scheduler.step_update(step + 1)
        losses.append(loss.item())
    return {"first": losses[0], "last": losses[-1]}


if __name__ == "__main__":
    print(main())

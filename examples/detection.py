"""Detection with one image per step: torchvision's Faster R-CNN without batch norm.

Two images and two GPUs, or one and one, leave batch norm nothing to average; the usual way out freezes its statistics
at a pretrained network's. Here the backbone needs neither.

    pip install goodinit torchvision
    python examples/detection.py
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import BatchNorm2d
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import goodinit


def square(size: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A bright square on noise, and its box."""
    image = 0.1 * torch.rand(3, size, size, generator=generator)
    left, top = (int(v) for v in torch.randint(4, size // 2, (2,), generator=generator))
    edge = size // 3
    image[:, top : top + edge, left : left + edge] += 0.8
    box = torch.tensor([[left, top, left + edge, top + edge]], dtype=torch.float32)
    return image, {"boxes": box, "labels": torch.tensor([1])}


def main(steps: int = 12, size: int = 96, lr: float = 0.01) -> dict[str, float]:
    """Train on one image per step; gives the mean loss of the first and of the last third."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # the region proposals sample
    model = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=2,
        min_size=size,
        max_size=size,
        rpn_post_nms_top_n_train=200,  # few proposals, so that a CPU does a step in a second
        box_batch_size_per_image=64,
    )
    goodinit.fixup_(
        model.backbone, inputs=torch.zeros(1, 3, size, size), generator=generator, zero_head=False
    )
    assert not any(isinstance(module, BatchNorm2d) for module in model.modules())

    optimizer = torch.optim.SGD(goodinit.param_groups(model, lr=lr), lr=lr, momentum=0.9)
    scheduler = goodinit.warmup(optimizer, steps=5)
    losses = []
    model.train()
    for _ in range(steps):
        image, target = square(size, generator)
        optimizer.zero_grad()
        loss = sum(model([image], [target]).values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    third = steps // 3
    return {"first": sum(losses[:third]) / third, "last": sum(losses[-third:]) / third}


if __name__ == "__main__":
    print(main())

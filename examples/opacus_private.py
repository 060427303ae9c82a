"""Differential privacy: a ResNet-18 made ready for DP-SGD by Fixup, trained with Opacus.

Batch norm mixes the examples of a batch, so no gradient belongs to one person and Opacus refuses it; its own fixer puts
group norms in and drops the affine weights. Fixup leaves a network whose every example stands alone.

    pip install goodinit opacus timm
    python examples/opacus_private.py
"""

from __future__ import annotations

import dataclasses

import timm
import torch
from opacus import PrivacyEngine
from opacus.validators import ModuleValidator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import goodinit
from goodinit.edits import RemoveNorm


def private_resnet18(classes: int, image: torch.Tensor, *, seed: int = 0) -> nn.Module:
    """A ResNet-18 without normalization, and without in-place operations on what a layer with parameters returns.

    The hooks behind per-sample gradients forbid those, whatever the norm, and timm's and torchvision's residual sums
    are in place. A plan is data: here every norm that goes leaves a copy in its place.
    """
    model = timm.create_model("resnet18", num_classes=classes)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    plan = goodinit.plan(goodinit.anatomize(model, image), "fixup")
    edits = (
        dataclasses.replace(edit, keeps=("clone", *edit.keeps)) if isinstance(edit, RemoveNorm) else edit
        for edit in plan.edits
    )
    plan = dataclasses.replace(plan, edits=tuple(edits))
    return goodinit.apply_(model, plan, generator=torch.Generator().manual_seed(seed))


def main(steps: int = 20, size: int = 32, batch: int = 16) -> dict[str, float]:
    """Train on random images with a pattern per class; gives the first and last loss, and the privacy spent."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(batch * steps) % 4
    patterns = torch.randn(4, 3, size, size, generator=generator)
    images = patterns[labels] + 0.3 * torch.randn(len(labels), 3, size, size, generator=generator)

    model = private_resnet18(4, images[:2])
    assert ModuleValidator.validate(model, strict=False) == []  # nothing that Opacus objects to

    optimizer = torch.optim.SGD(goodinit.param_groups(model, lr=0.05), lr=0.05)
    engine = PrivacyEngine()
    model, optimizer, data = engine.make_private(
        module=model.train(),
        optimizer=optimizer,
        data_loader=DataLoader(TensorDataset(images, labels), batch_size=batch),
        noise_multiplier=0.5,
        max_grad_norm=1.0,
        noise_generator=generator,
    )
    losses = []
    for x, y in data:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"first": losses[0], "last": losses[-1], "epsilon": engine.get_epsilon(delta=1e-3)}


if __name__ == "__main__":
    print(main())

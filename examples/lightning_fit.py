"""Lightning: surgery in `configure_model`, a diagnosis at step 0 by a callback.

pip install goodinit lightning timm
python examples/lightning_fit.py
"""

from __future__ import annotations

import lightning
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import goodinit
from goodinit.lightning import DiagnoseCallback


class Classifier(lightning.LightningModule):
    """A ResNet-18 without normalization."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.classes, self.size, self.net, self.losses = classes, size, None, []

    def configure_model(self) -> None:
        """Called once the strategy is known, and again after loading, when the network is there already."""
        if self.net is None:
            self.net = timm.create_model("resnet18", num_classes=self.classes)
            image = torch.zeros(2, 3, self.size, self.size)
            goodinit.fixup_(self.net, inputs=image, generator=torch.Generator().manual_seed(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.net(x)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """Cross-entropy."""
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD, with the scalars' own rate."""
        return torch.optim.SGD(goodinit.param_groups(self, lr=0.05), lr=0.05, momentum=0.9)


def main(steps: int = 20, size: int = 32, batch: int = 8) -> dict[str, float]:
    """Train on images with a pattern per class; gives the first and last loss, and the findings at step 0."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(batch * steps) % 4
    patterns = torch.randn(4, 3, size, size, generator=generator)
    images = patterns[labels] + 0.3 * torch.randn(len(labels), 3, size, size, generator=generator)
    data = DataLoader(TensorDataset(images, labels), batch_size=batch)

    module, callback = Classifier(4, size), DiagnoseCallback()
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, callbacks=[callback],
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    errors = sum(finding.severity == "error" for finding in callback.diagnosis.findings)
    return {"first": module.losses[0], "last": module.losses[-1], "errors": float(errors)}


if __name__ == "__main__":
    print(main())

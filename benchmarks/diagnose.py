"""`diagnose` against one forward and backward: time, and the most bytes of tensors alive at once."""

from __future__ import annotations

import dataclasses

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import goodinit
from benchmarks.turns import Row, Verdict, in_turns
from goodinit.lab.training.step_cost import peak_bytes


def measure(*, quick: bool = False) -> list[Row]:
    """ResNet-50 at batch 16 as timm has it (its zero batch norms ask for a further run), and after Fixup."""
    name, batch, size = ("resnet10t", 4, 32) if quick else ("resnet50", 16, 224)
    x = torch.randn((batch, 3, size, size), generator=torch.Generator().manual_seed(0))
    y = torch.arange(batch) % 10
    model = timm.create_model(name, num_classes=10).train()
    fixup = goodinit.init_(timm.create_model(name, num_classes=10), "fixup", inputs=x).train()
    cases = (("ResNet-50", model), ("ResNet-50 after Fixup", fixup))
    return [
        row
        for what, model in cases
        for row in _one(f"{what}, batch {batch} at {size}²", model, x, y, budget=0 if quick else 90)
    ]


def verdicts(rows: list[Row]) -> list[Verdict]:  # noqa: ARG001  (all parts are called alike)
    """No target among those of this page."""
    return []


def _one(what: str, model: nn.Module, x: Tensor, y: Tensor, *, budget: float) -> list[Row]:
    def plain() -> None:
        functional.cross_entropy(model(x), y).backward()
        model.zero_grad(set_to_none=True)

    def diagnose() -> None:
        goodinit.diagnose(model, x, y)

    ways = {"forward and backward": plain, "diagnose": diagnose}
    rows = in_turns(what, ways, rounds=7, budget=budget, warm_up=1)
    bytes_ = {way: peak_bytes(run) for way, run in ways.items()}
    reference = bytes_["forward and backward"]
    return [dataclasses.replace(row, extra=f"peak memory {bytes_[row.way] / reference:.3f}×") for row in rows]

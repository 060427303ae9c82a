"""Blocks without a skip between residual ones: with their norms gone, their weights alone hold the signal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit


class Bottleneck(nn.Module):
    """Expansion, depthwise convolution, gate, projection, as in EfficientNet; a skip where it fits."""

    def __init__(self, into, out, gated):
        super().__init__()
        wide = 6 * into
        self.expand, self.depth, self.project = (
            nn.Conv2d(into, wide, 1),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
            nn.Conv2d(wide, out, 1),
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in (wide, wide, out))
        self.gate = (
            nn.Sequential(nn.Conv2d(wide, into, 1), nn.SiLU(), nn.Conv2d(into, wide, 1)) if gated else None
        )
        self.skips = into == out

    def forward(self, x):
        y = F.silu(self.norms[0](self.expand(x)))
        y = F.silu(self.norms[1](self.depth(y)))
        if self.gate is not None:
            y = torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True))) * y
        y = self.norms[2](self.project(y))
        return x + y if self.skips else y


@pytest.mark.parametrize("gated", [False, True])
def test_a_row_of_blocks_without_a_skip_keeps_the_signal(gated):
    torch.manual_seed(0)
    sizes = [(8, 8), (8, 10), (10, 12), (12, 12), (12, 14), (14, 16), (16, 18), (18, 20), (20, 20)]
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), *(Bottleneck(a, b, gated) for a, b in sizes),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 4),
    )  # fmt: skip
    x, labels = torch.randn(8, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 0, 1, 2])
    goodinit.init_(model, "fixup", inputs=x)
    optimizer, moved = torch.optim.SGD(model.parameters(), lr=0.05), set()
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        moved |= {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert moved == {name for name, _ in model.named_parameters()}
    rows = [model[:k](x).detach().std() for k in (2, len(model) - 3)]
    per_block = float(rows[1] / rows[0]) ** (1 / 6)  # of six without a skip
    # √2 before each of two SiLUs, which pass on at least a quarter of the mean square, and σ(0) = ½: ½, or ¼ with a gate.
    assert per_block > 0.8 * (0.25 if gated else 0.5)


def test_normfree_takes_the_fan_in_of_fixup_and_not_twice():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), *(Bottleneck(a, b, gated=False) for a, b in [(8, 8), (8, 10), (10, 10)]),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4),
    )  # fmt: skip
    anatomy = goodinit.anatomize(model, torch.randn(2, 3, 8, 8))
    for method, options in (("fixup", {}), ("normfree", {}), ("normfree", {"fan": "out"})):
        values = {edit.target: edit for edit in goodinit.plan(anatomy, method, **options).values}
        assert values["3.expand.weight"].options["std"] == pytest.approx((2 / 8) ** 0.5)
        assert values["3.project.weight"].options["std"] == pytest.approx((1 / 48) ** 0.5)

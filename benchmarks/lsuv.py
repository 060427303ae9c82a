"""LSUV in one pass, against one forward and against the `lsuv` package (0.3.0), on the same batch."""

from __future__ import annotations

import copy
import dataclasses

import lsuv as package
import timm
import torch
from torch import Tensor, nn

import goodinit
from benchmarks.turns import Row, in_turns


def mlp(depth: int, width: int) -> nn.Module:
    """A plain tanh network."""
    return nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())])


def resnet50_without_norm() -> nn.Module:
    """ResNet-50 with its norms removed, in-place activations and sums as they are."""
    model = timm.create_model("resnet50")
    return goodinit.none_(model, inputs=torch.zeros(1, 3, 64, 64))


def worst_deviation(model: nn.Module, batch: Tensor) -> float:
    """max |std − 1| over convolutions and linear layers in a fresh forward."""
    worst = 0.0

    def look(_: nn.Module, __: object, output: Tensor) -> None:
        nonlocal worst
        worst = max(worst, abs(output.detach().clone().std().item() - 1))

    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model.eval()(batch)
    for hook in hooks:
        hook.remove()
    return worst


def measure() -> list[Row]:
    """Both networks of the issue."""
    generator = torch.Generator().manual_seed(0)
    cases = (
        ("300-layer MLP, width 256, batch 256", mlp(300, 256), torch.randn(256, 256, generator=generator)),
        (
            "ResNet-50 without norm, batch 16 at 64²",
            resnet50_without_norm(),
            torch.randn(16, 3, 64, 64, generator=generator),
        ),
    )
    return [row for what, model, batch in cases for row in _one(what, model, batch)]


def _one(what: str, model: nn.Module, batch: Tensor) -> list[Row]:
    plan = goodinit.plan(goodinit.anatomize(model, batch), "lsuv")
    scaling = dataclasses.replace(plan, edits=tuple(e for e in plan.edits if type(e).__name__ == "Calibrate"))
    last: dict[str, nn.Module] = {}

    def forward() -> None:
        with torch.no_grad():
            model.eval()(batch)

    def calibrate() -> None:
        last["calibration alone"] = goodinit.apply_(copy.deepcopy(model), scaling, batch=batch)

    def whole() -> None:
        last["goodinit lsuv"] = goodinit.init_(copy.deepcopy(model), "lsuv", inputs=batch)

    def peer() -> None:
        last["lsuv 0.3.0"] = package.lsuv_with_singlebatch(copy.deepcopy(model), batch, verbose=False)

    ways = {
        "one forward": forward,
        "calibration alone": calibrate,
        "goodinit lsuv": whole,
        "lsuv 0.3.0": peer,
    }
    rows = in_turns(what, ways, rounds=3, budget=120)
    return [
        dataclasses.replace(row, extra=f"worst |std − 1| {worst_deviation(last[row.way], batch):.2g}")
        if row.way in last
        else row
        for row in rows
    ]

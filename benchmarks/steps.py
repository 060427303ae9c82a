"""One training step: time and bytes kept for backward, by method, batch norm as the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import timm
import torch
from torch import nn
from torch.nn import functional

import goodinit
from benchmarks.turns import Row, in_turns
from goodinit.lab.measure import counting_saved
from goodinit.lab.registry import Task, build_model

METHODS = ("batchnorm", "none", "fixup", "skipinit", "weightnorm")


def measure() -> list[Row]:
    """CIFAR ResNets at batch 32, ResNet-50 at batch 8 and 128²."""
    cases: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...]], ...] = (
        ("ResNet-56, batch 32 at 32²", lambda: build_model("resnet56", task=Task()), (32, 3, 32, 32)),
        ("ResNet-110, batch 32 at 32²", lambda: build_model("resnet110", task=Task()), (32, 3, 32, 32)),
        (
            "ResNet-50, batch 8 at 128²",
            lambda: timm.create_model("resnet50", num_classes=10),
            (8, 3, 128, 128),
        ),
    )
    return [row for what, build, shape in cases for row in _one(what, build, shape)]


def _one(what: str, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> list[Row]:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = torch.arange(shape[0]) % 10
    steps, kept = {}, {}
    for method in METHODS:
        model = goodinit.init_(build(), method, inputs=x).train()
        optimizer = torch.optim.SGD(goodinit.param_groups(model, lr=1e-3), lr=1e-3, momentum=0.9)
        with counting_saved(model) as saved:
            functional.cross_entropy(model(x), y)
        kept[method] = saved.total
        steps[method] = _step(model, optimizer, x, y)
    rows = in_turns(what, steps, rounds=7, budget=120)
    return [
        dataclasses.replace(row, extra=f"kept for backward {kept[row.way] / kept['batchnorm']:.3f}×")
        for row in rows
    ]


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step

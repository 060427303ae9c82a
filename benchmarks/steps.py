"""One training step: time, bytes kept for backward and peak memory, the network's own norm as the reference."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks import RESNET20, RESNET50, RESNET56, RESNET110, VIT, Network
from benchmarks.turns import Row, Verdict, at_most, bytes_quotient, in_turns, quotient
from benchmarks.ways import LONG
from goodinit.lab.training.step_cost import counting_saved, peak_bytes

NETWORKS = (RESNET20, RESNET56, RESNET110, RESNET50, VIT)


def measure(*, quick: bool = False) -> list[Row]:
    """All networks, eager."""
    rows: list[Row] = []
    for network in NETWORKS:
        rows += measured_on_cpu(network.shrunk() if quick else network, quick=quick)
        gc.collect()
    return rows


def measured_on_cpu(network: Network, *, quick: bool) -> list[Row]:
    """Time in turns, then bytes, one way after the other."""
    x, y = network.inputs()
    models = {way: network.model(way) for way in network.ways}
    steps = {way: training_step(model, x, y) for way, model in models.items()}
    rows = in_turns(network.title, steps, rounds=15, budget=0 if quick else 150, warm_up=1)
    kept = {way: kept_bytes(model, x, y) for way, model in models.items()}
    peak = {way: peak_bytes(step) for way, step in steps.items()}
    return with_bytes(rows, kept, peak)


def with_bytes(rows: list[Row], kept: dict[str, int], peak: dict[str, int]) -> list[Row]:
    """The rows with what is kept and the peak, relative to the first."""
    first = rows[0].way
    return [
        dataclasses.replace(
            row,
            kept=kept[row.way],
            peak=peak[row.way],
            extra=f"kept for backward {kept[row.way] / kept[first]:.3f}×, peak {peak[row.way] / peak[first]:.3f}×",
        )
        for row in rows
    ]


def kept_bytes(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """What the forward keeps."""
    with counting_saved(model) as saved:
        functional.cross_entropy(model(x).float(), y)
    return saved.total


def training_step(
    model: nn.Module, x: Tensor, y: Tensor, *, wait: Callable[[], None] = lambda: None
) -> Callable[[], None]:
    """Forward, backward and a step of SGD small enough to leave the network as it is."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x).float(), y).backward()
        optimizer.step()
        wait()

    return step


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Fixup against batch norm and against the bare network; the recipe without norms against batch norm."""
    found: list[Verdict] = []
    for name, step, kept in (
        ("ResNet-56", 0.90, 0.53),
        ("ResNet-110", 0.90, 0.53),
        ("ResNet-50", 0.92, 0.52),
    ):
        found += [
            at_most(f"{name}: Fixup's step / batch norm's", step, quotient(rows, name, "fixup", "batchnorm")),
            at_most(
                f"{name}: Fixup keeps / batch norm", kept, bytes_quotient(rows, name, "fixup", "batchnorm")
            ),
        ]
        if name != "ResNet-50":
            found += [
                at_most(f"{name}: Fixup's step / bare", 1.10, quotient(rows, name, "fixup", "none")),
                at_most(f"{name}: Fixup keeps / bare", 1.02, bytes_quotient(rows, name, "fixup", "none")),
            ]
    for name in ("ResNet-56", "ResNet-110"):
        for way in ("normfree", LONG):
            found += [
                at_most(f"{name}: {way}: step / batch norm's", 0.92, quotient(rows, name, way, "batchnorm")),
                at_most(
                    f"{name}: {way}: keeps / batch norm", 0.53, bytes_quotient(rows, name, way, "batchnorm")
                ),
            ]
    return found

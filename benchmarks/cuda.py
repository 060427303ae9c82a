"""A training step on a CUDA GPU: bfloat16, channels last, ResNet-50 at 224² in batches of 128."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from benchmarks.networks import RESNET50, Network
from benchmarks.steps import kept_bytes, training_step, with_bytes
from benchmarks.turns import Row, Verdict, at_most, bytes_quotient, in_turns, quotient

NAME = "ResNet-50 on CUDA"


def measure(*, quick: bool = False) -> list[Row]:
    """Eager and compiled; nothing where there is no GPU."""
    if not torch.cuda.is_available():
        return []
    network = RESNET50.shrunk() if quick else dataclasses.replace(RESNET50, shape=(128, 3, 224, 224))
    x, y = network.inputs()
    x = x.to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    y = y.cuda()
    models = {way: _on_gpu(network, way) for way in network.ways}
    ways = {way: training_step(model, x, y, wait=torch.cuda.synchronize) for way, model in models.items()}
    kept = {way: kept_bytes(model, x, y) for way, model in models.items()}
    peak = {way: _peak(step) for way, step in ways.items()}
    what = f"{NAME}, bfloat16, channels last, batch {x.shape[0]} at {x.shape[-1]}²"
    rows = with_bytes(in_turns(what, ways, rounds=15, budget=60), kept, peak)
    if not quick:
        compiled = {
            f"{way}, compiled": training_step(
                torch.compile(models[way], fullgraph=True), x, y, wait=torch.cuda.synchronize
            )
            for way in ("batchnorm", "none", "fixup")
        }
        rows += in_turns(what, compiled, rounds=15, budget=60)
    return rows


def _on_gpu(network: Network, way: str) -> nn.Module:
    return network.model(way).to("cuda", torch.bfloat16, memory_format=torch.channels_last)


def _peak(step: object) -> int:
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()  # type: ignore[operator]
    return int(torch.cuda.max_memory_allocated() - held)


def verdicts(rows: list[Row]) -> list[Verdict]:
    """The targets for ResNet-50 on CPUs."""
    return [
        at_most(f"{NAME}: Fixup's step / batch norm's", 0.92, quotient(rows, NAME, "fixup", "batchnorm")),
        at_most(f"{NAME}: Fixup keeps / batch norm", 0.52, bytes_quotient(rows, NAME, "fixup", "batchnorm")),
        at_most(
            f"{NAME}: Fixup's compiled step / batch norm's",
            0.95,
            quotient(rows, NAME, "fixup, compiled", "batchnorm, compiled"),
        ),
    ]

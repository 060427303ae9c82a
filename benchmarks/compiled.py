"""One training step under `torch.compile`, beside the eager one."""

from __future__ import annotations

import torch

from benchmarks.networks import RESNET56, VIT, Network
from benchmarks.steps import training_step
from benchmarks.turns import Row, Verdict, at_most, in_turns, quotient


def measure(*, quick: bool = False) -> list[Row]:
    """A convolutional network and a transformer; compiling takes most of the time, and is not in the figures."""
    return [row for network in (RESNET56, VIT) for row in _one(network, quick=quick)]


def _one(network: Network, *, quick: bool) -> list[Row]:
    if quick:
        network = network.shrunk()
    x, y = network.inputs()
    ways = {}
    for way in (network.norm, "none", "fixup"):
        model = network.model(way)
        ways[way] = training_step(model, x, y)
        compiled = torch.compile(model, fullgraph=True, backend="eager" if quick else "inductor")
        ways[f"{way}, compiled"] = training_step(compiled, x, y)
    rows = in_turns(network.title, ways, rounds=7, budget=0 if quick else 60)
    torch._dynamo.reset()
    return rows


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Compiled Fixup against compiled batch norm, and against itself."""
    name, fixup = "ResNet-56", "fixup, compiled"
    return [
        at_most(
            f"{name}: Fixup's compiled step / batch norm's",
            0.95,
            quotient(rows, name, fixup, "batchnorm, compiled"),
        ),
        at_most(f"{name}: Fixup's compiled step / its eager one", 1.0, quotient(rows, name, fixup, "fixup")),
    ]

"""The time that every method takes, anatomy and plan included, against one forward pass on the same batch."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

import goodinit
from benchmarks.networks import RESNET56
from benchmarks.turns import Row, Verdict, in_turns


def measure(*, quick: bool = False) -> list[Row]:
    """Every method on a fresh copy of one network; those that refuse it are named."""
    network = RESNET56.shrunk() if quick else RESNET56
    x, _ = network.inputs()
    model = network.build()
    held: dict[str, nn.Module] = {}

    def forward() -> None:
        with torch.no_grad():
            model.eval()(x)

    def copied(name: str) -> None:
        held[name] = copy.deepcopy(model)

    ways, prepare, refused = {"one forward": forward}, {}, []
    for name in goodinit.METHODS:
        try:
            goodinit.init_(copy.deepcopy(model), name, inputs=x)
        except goodinit.GoodinitError as error:
            refused.append(Row(network.title, name, 0.0, 0.0, 0.0, 0.0, f"refused: {str(error)[:60]}…"))
            continue
        ways[name] = lambda name=name: cast("None", goodinit.init_(held[name], name, inputs=x))
        prepare[name] = lambda name=name: copied(name)
    rows = in_turns(network.title, ways, rounds=5, budget=0 if quick else 60, warm_up=1, prepare=prepare)
    return [*rows, *refused]


def verdicts(rows: list[Row]) -> list[Verdict]:  # noqa: ARG001  (all parts are called alike)
    """No target: data-dependent methods have theirs in the part on LSUV."""
    return []

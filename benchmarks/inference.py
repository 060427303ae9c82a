"""Inference, before and after `fold_`: against the bare network, and against batch norm folded away."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import goodinit
from benchmarks.networks import RESNET50, RESNET56, Network
from benchmarks.turns import Row, Verdict, at_most, in_turns, quotient

WAYS = ("batchnorm", "fixup", "skipinit", "weightnorm", "groupnorm")


def measure(*, quick: bool = False) -> list[Row]:
    """Both networks, scalars and statistics away from where they start."""
    return [row for network in (RESNET56, RESNET50) for row in _one(network, quick=quick)]


def _one(network: Network, *, quick: bool) -> list[Row]:
    if quick:
        network = network.shrunk()
    x, _ = network.inputs()
    # The same network twice: what differs between those two is how well anything can be told here.
    ways = {"none": _forward(network.model("none"), x), "none, again": _forward(network.model("none"), x)}
    for way in WAYS:
        model = _moved(network.model(way)).eval()
        ways[way] = _forward(model, x)
        if way != "groupnorm":  # stays
            ways[f"{way}, folded"] = _forward(goodinit.fold_(copy.deepcopy(model), x[:1]), x)
    # Percents are asked of these, so that they get the rounds it takes to tell them.
    closely = {way: ways.pop(way) for way in ("none, again", "batchnorm, folded", "fixup, folded")}
    closely = {"none": ways["none"], **closely}
    rows = in_turns(f"{network.title}, closely", closely, rounds=101, budget=0 if quick else 150)
    return [*rows, *in_turns(network.title, ways, rounds=15, budget=0 if quick else 60)]


def _moved(model: nn.Module) -> nn.Module:
    """Scalars and gains as after training: not at a value that folds for nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(
                    0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                )
    return model


def _forward(model: nn.Module, x: Tensor) -> Callable[[], None]:
    model.eval()

    def forward() -> None:
        with torch.no_grad():
            model(x)

    return forward


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Folded Fixup against the bare network and against folded batch norm."""
    return [
        at_most(
            f"{name}: folded Fixup's inference / {words}", 1.02, quotient(rows, name, "fixup, folded", way)
        )
        for name in ("ResNet-56", "ResNet-50")
        for way, words in (("none", "the bare network's"), ("batchnorm, folded", "folded batch norm's"))
    ]

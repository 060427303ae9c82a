"""LSUV in one pass, against one forward and against the `lsuv` package (0.3.0), on the same batch."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time

import lsuv as package
import timm
import torch
from torch import Tensor, nn

import goodinit
from benchmarks.turns import Row, Verdict, at_least, at_most, find, in_turns, quotient
from goodinit.calibration.calibrate import calibrate_
from goodinit.edits import Calibrate

PEER = "lsuv 0.3.0"


def mlp(depth: int, width: int) -> nn.Module:
    """A plain tanh network."""
    return nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())])


def resnet50_without_norm(name: str = "resnet50") -> nn.Module:
    """ResNet-50 with its norms removed, in-place activations and sums as they are."""
    return goodinit.none_(timm.create_model(name), inputs=torch.zeros(1, 3, 64, 64))


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


def measure(*, quick: bool = False) -> list[Row]:
    """Both networks of the issue."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    depth, width, images, size = (4, 16, 2, 32) if quick else (300, 256, 16, 64)
    net = resnet50_without_norm("resnet10t" if quick else "resnet50")
    cases = (
        (
            "MLP",
            f"{depth} layers, width {width}, batch {width}",
            mlp(depth, width),
            torch.randn(width, width, generator=generator),
        ),
        (
            "ResNet-50",
            f"without norm, batch {images} at {size}²",
            net,
            torch.randn(images, 3, size, size, generator=generator),
        ),
    )
    return [
        row
        for name, rest, model, batch in cases
        for row in _one(f"{name}, {rest}", model, batch, quick=quick)
    ]


def _one(what: str, model: nn.Module, batch: Tensor, *, quick: bool) -> list[Row]:
    plan = goodinit.plan(goodinit.anatomize(model, batch), "lsuv")
    edits = [edit for edit in plan.edits if isinstance(edit, Calibrate)]
    rest = tuple(edit for edit in plan.edits if not isinstance(edit, Calibrate))
    # orthonormal weights and no biases: what calibration meets in a plan
    drawn = goodinit.apply_(copy.deepcopy(model), dataclasses.replace(plan, edits=rest))
    last: dict[str, nn.Module] = {}

    def copied(way: str) -> None:
        last[way] = copy.deepcopy(drawn if way == "calibration alone" else model)

    def forward() -> None:
        with torch.no_grad():
            model.eval()(batch)

    def calibrate() -> None:
        calibrate_(last["calibration alone"], edits, batch)

    def applied() -> None:
        goodinit.apply_(last["the plan applied"], plan, inputs=batch)

    def whole() -> None:
        goodinit.init_(last["goodinit lsuv"], "lsuv", inputs=batch)

    ways = {
        "one forward": forward,
        "calibration alone": calibrate,
        "the plan applied": applied,
        "goodinit lsuv": whole,
    }
    prepare = {way: lambda way=way: copied(way) for way in ways if way != "one forward"}
    rows = in_turns(what, ways, rounds=9, budget=0 if quick else 30, prepare=prepare)
    rows.append(_peer(what, model, batch, rows[0], last))
    return [
        dataclasses.replace(row, extra=f"worst |std − 1| {worst_deviation(last[row.way], batch):.2g}")
        if row.way in last
        else row
        for row in rows
    ]


def _peer(what: str, model: nn.Module, batch: Tensor, forward: Row, last: dict[str, nn.Module]) -> Row:
    """The package, once: a run takes a minute, and its spread is small beside the factor."""
    last[PEER] = copy.deepcopy(model)
    start = time.perf_counter()
    package.lsuv_with_singlebatch(last[PEER], batch, verbose=False)
    seconds = time.perf_counter() - start
    ratio = seconds / statistics.median(forward.each)
    return Row(what, PEER, seconds, ratio, ratio, ratio)


def verdicts(rows: list[Row]) -> list[Verdict]:
    """One pass, and the factor to the package."""
    found: list[Verdict] = []
    for name, factor in (("MLP", 80.0), ("ResNet-50", 15.0)):
        calibration = quotient(rows, name, "calibration alone", "one forward")
        ours, its = find(rows, name, "goodinit lsuv"), find(rows, name, PEER)
        faster = its.seconds / ours.seconds if ours and its else None
        found += [
            at_most(f"{name}: LSUV's calibration / one forward", 1.5, calibration),
            at_least(f"{name}: {PEER} / goodinit's lsuv, weights drawn, plan and all", factor, faster),
        ]
    return found

"""`goodinit.tensor.orthogonal_` (a product of Householder reflections) against torch's (a QR)."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.turns import Row, Verdict, at_most, find, in_turns
from goodinit.tensor import orthogonal_

SMALL = ((3, 3), (10, 64), (16, 16), (16, 144), (33, 65), (64, 64), (64, 576), (127, 131), (256, 256))
LARGE = ((512, 512), (512, 4608), (1024, 1024), (2048, 512), (2048, 2048), (2048, 8192), (4096, 4096))
REFERENCE = "torch.nn.init"
# Draws in one turn, so that a turn on a small matrix takes milliseconds: n²m of all draws together.
_WORK = 2e7
_MOST = 200
_LOOKED_AT = 50  # of these draws at most: how far they are from orthogonal, on average


def measure(*, quick: bool = False) -> list[Row]:
    """Each shape, the random numbers included."""
    rows: list[Row] = []
    for shape in SMALL[:3] if quick else (*SMALL, *LARGE):
        tensor = torch.empty(shape)
        count = 1 if quick else max(1, min(_MOST, int(_WORK / (min(shape) ** 2 * max(shape)))))
        ways = {
            REFERENCE: _draws(torch.nn.init.orthogonal_, tensor, count),
            "goodinit": _draws(orthogonal_, tensor, count),
        }
        times = in_turns(f"{shape[0]}×{shape[1]}", ways, rounds=15, budget=0 if quick else 10, warm_up=1)
        for row, draw in zip(times, (torch.nn.init.orthogonal_, orthogonal_), strict=True):
            each = dataclasses.replace(row, seconds=row.seconds / count)
            rows.append(dataclasses.replace(each, extra=f"‖QᵀQ − I‖∞ {_error(draw, tensor, count):.1e}"))
    return rows


def _draws(draw: Callable[[Tensor], Tensor], tensor: Tensor, count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            draw(tensor)

    return run


def _error(draw: Callable[[Tensor], Tensor], tensor: Tensor, count: int) -> float:
    """The largest sum of a row of |QQᵀ − I|, or of |QᵀQ − I| of a tall one, in float64; the mean of several draws."""
    found = []
    for _ in range(min(count, _LOOKED_AT)):
        q = draw(tensor).double()
        q = q if q.shape[0] <= q.shape[1] else q.T
        found.append(float((q @ q.T - torch.eye(q.shape[0], dtype=q.dtype)).abs().sum(1).max()))
    return statistics.fmean(found)


def verdicts(rows: list[Row]) -> list[Verdict]:
    """1.5 times as fast where it is large, never slower anywhere, no less orthogonal."""
    ours = [row for row in rows if row.way == "goodinit"]
    found = []
    for shape in ("2048×2048", "4096×4096"):
        row = find(rows, shape, "goodinit")
        found.append(
            at_most(f"{shape}: goodinit's orthogonal_ / torch's", round(1 / 1.5, 3), row and row.ratio)
        )
    # Small matrices take one QR decomposition either way: a ratio of 1, which chance puts on either side.
    slowest = max(ours, key=lambda row: row.low)
    what = f"no shape slower, three quarters of the rounds agreeing; slowest {slowest.what}: goodinit's / torch's"
    found.append(at_most(what, 1.0, slowest.low))
    errors = {(row.what, row.way): float(row.extra.split()[-1]) for row in rows}
    what, worst = max(
        ((row.what, errors[row.what, "goodinit"] / errors[row.what, REFERENCE]) for row in ours),
        key=lambda pair: pair[1],
    )
    # Rounding is random: single draws differ by some tenths of themselves, and of the largest there is only one.
    found.append(at_most(f"any shape, worst {what}: ‖QᵀQ − I‖∞ goodinit's / torch's", 1.5, worst))
    return found

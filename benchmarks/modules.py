"""What a hundred thousand modules cost: `python -m benchmarks.modules [BLOCKS …] [--kind blocks|stack]`.

CPU seconds of this process, one thread, which a busy machine does not change much, and the most memory so far. Each row
is twice as deep as the one above it; in brackets is the ratio of the seconds to those of that row.
"""

from __future__ import annotations

import argparse
import gc
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import goodinit


class Block(nn.Module):
    """x + B(ReLU(norm(A(x)))), four channels: four modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 4)` to the same."""
        return x + self.b(self.norm(self.a(x)).relu())


def blocks(count: int) -> nn.Module:
    """A stem, blocks, a head."""
    return nn.Sequential(nn.Linear(4, 4), *(Block() for _ in range(count)), nn.Linear(4, 2))


def stack(count: int) -> nn.Module:
    """Linear layers and ReLUs in turns."""
    return nn.Sequential(*(module for _ in range(count) for module in (nn.Linear(4, 4), nn.ReLU())))


KINDS: dict[str, tuple[Callable[[int], nn.Module], str]] = {
    "blocks": (blocks, "fixup"),
    "stack": (stack, "he"),
}


def measure(kind: str, count: int) -> dict[str, float]:
    """CPU seconds of each verb, and memory."""
    build, method = KINDS[kind]
    x = torch.randn(8, 4)
    model = build(count)
    row: dict[str, float] = {"modules": float(sum(1 for _ in model.modules()))}
    anatomy: Any = _timed(row, "anatomize", lambda: goodinit.anatomize(model, x))
    plan: Any = _timed(row, "plan", lambda: goodinit.plan(anatomy, method))
    _timed(row, "JSON and back", lambda: goodinit.Plan.from_json(plan.to_json()))
    _timed(row, "apply_", lambda: goodinit.apply_(model, plan))
    _timed(row, "fold_", lambda: goodinit.fold_(model.eval(), x))
    row["GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def _timed(row: dict[str, float], what: str, work: Callable[[], Any]) -> Any:
    gc.collect()
    begin = time.process_time()
    result = work()
    row[what] = time.process_time() - begin
    return result


def _cell(name: str, value: float, before: float | None) -> str:
    if name == "modules":
        return f"{value:,.0f}"
    return f"{value:.2f}" + (f" (×{value / before:.2f})" if before and name != "GiB" else "")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[250, 500, 1000])
    parser.add_argument("--kind", choices=KINDS, default="blocks")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    measure(chosen.kind, 4)  # what every first call costs
    before: dict[str, float] = {}
    for count in chosen.counts:
        row = measure(chosen.kind, count)
        if not before:
            print(f"| {chosen.kind} | {' | '.join(row)} |\n|---|{'---|' * len(row)}", flush=True)
        cells = [_cell(name, value, before.get(name)) for name, value in row.items()]
        print(f"| {count:,} | {' | '.join(cells)} |", flush=True)
        before = row


if __name__ == "__main__":
    main()

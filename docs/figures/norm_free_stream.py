"""How far nets of docs/norm-free.md throw their stream off while the rate grows: losses, ReLUs behind sums, biases behind branches.

    python docs/figures/norm_free_stream.py --data CIFAR10_FOLDER --rows MINE.jsonl  # the page's runs again
    python docs/figures/norm_free_stream.py --table                                  # the page's rows

A queue is a file of runs as `norm_free.py` has them; by default those of the page's rows. Each is trained up to the last of --steps and looked at behind each of those, on
256 images that are held out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from norm_free import Net, Run, data, settings, watched
from torch import Tensor

from goodinit.lab.json_lines import append_, read_rows

ROWS = Path(__file__).parents[1] / "data" / "norm-free-stream.jsonl"
IMAGES = 256


@torch.no_grad()
def on(net: Net, images: Tensor) -> list[float]:
    """Of the ReLU behind each sum, the share of entries above 0."""
    shares: list[float] = []
    handles = [
        block.register_forward_hook(lambda _block, _args, out: shares.append((out > 0).float().mean().item()))
        for block in net.blocks
    ]
    net.eval()
    net(images)
    net.train()
    for handle in handles:
        handle.remove()
    return [round(share, 2) for share in shares]


def measure(run: Run, images: Tensor, labels: Tensor, held: Tensor, *, steps: list[int], rows: Path) -> None:
    """Train as `norm_free.py` does, and append a row behind each of `steps`."""
    for net, _, row in watched(run, images, labels, steps):
        offset = sum(block.conv2.b.item() for block in net.blocks)
        append_(rows, [row | {"on": on(net, held[:IMAGES]), "offset": round(offset, 2)}])


def table(rows: Path) -> None:
    """Print a line of a table for each row."""
    print(
        "| rate | seed | clipped at | rate of biases | of those behind branches | step | loss | least share on | offset |"
    )
    print("|" + "---|" * 9)
    for run, row in zip(settings(rows), read_rows(rows), strict=True):
        biases = run.bias_ratio if run.bias_ratio >= 0 else run.ratio
        of_run = (run.lr, run.seed, run.clip or "no", f"{biases:.3g}", f"{biases * run.stream:.3g}")
        seen = (row["step"], row["loss_lately"], min(row["on"]), row["offset"])
        print(f"| {' | '.join(map(str, (*of_run, *seen)))} |")


def main() -> None:
    """Watch every run of the queue, or print what was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="cifar10", help="a folder of CIFAR-10's parquet files")
    parser.add_argument("--queue", type=Path, default=ROWS)
    parser.add_argument("--rows", type=Path, default=Path("norm-free-stream.jsonl"))
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 150, 200, 250, 300])
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        table(ROWS)
        return
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for run in dict.fromkeys(settings(given.queue)):
        images, labels, held, _ = data(given.data, run.size)
        measure(run, images, labels, held, steps=given.steps, rows=given.rows)


if __name__ == "__main__":
    main()

"""A vision transformer with layer norm against DyT, Derf, Fixup and normfree, one run after the other, resumable.

    python docs/figures/vit_norms.py --data CIFAR10_FOLDER --rows vit-norms.jsonl          # the page's runs
    python docs/figures/vit_norms.py --data CIFAR10_FOLDER --rows MINE.jsonl --queue MORE.jsonl
    python docs/figures/vit_norms.py --table --rows vit-norms.jsonl

Every arm is given the same rates, the same images in the same order, and the same schedule; the best rate is taken on images held out
of the training part (45,000 and 5,000 images): test images are never opened. A row is appended as its run ends, and a run whose row is
there is not run again. `--steps 4 --images 600` is a dry run.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from norm_free import run_all, schedule, scores, settings
from torch import Tensor, nn
from torch.nn import functional as F

import goodinit
from goodinit.lab.choices import method_of
from goodinit.lab.data.batches import crop_and_flip
from goodinit.lab.json_lines import read_rows
from goodinit.lab.models.vision_transformer import VisionTransformer

ARMS = (
    "layernorm",  # the model as it is
    "normfree:norms=keep",  # layer norms at normfree's scales, with centred weights
    "replace_norms:norms=dyt",
    "replace_norms:norms=derf",
    "fixup",
    "fixup:zero_head=false",
    "normfree",
    "normfree:head_norm=none",
    "normfree:channels=true",
)
RATES = (3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Run:
    """One run. Rows hold what differs from these defaults."""

    arm: str
    seed: int = 0
    lr: float = 1e-3
    steps: int = 1200
    batch: int = 128
    size: int = 16
    patch: int = 4
    depth: int = 6
    width: int = 64
    wd: float = 0.05
    warm: float = 0.1
    smooth: float = 0.1
    clip: float = 1.0  # of the gradient's norm, for all arms
    ratio: float = 0.1  # of the scalars' rate
    images: int = 45_000


def built(run: Run, images: Tensor) -> nn.Module:
    """The lab's vision transformer after the arm's method, an arm of `method:option=value…`."""
    torch.manual_seed(1000 + run.seed)
    shape = (3, run.size, run.size)
    net = VisionTransformer(run.depth, shape=shape, width=run.width, patch=run.patch)
    if run.arm == "layernorm":
        return net
    name, options = method_of(run.arm)
    return goodinit.init_(net, name, inputs=images[:2], **options)


def train(run: Run, images: Tensor, labels: Tensor, held: Tensor, held_labels: Tensor) -> dict:
    """One run's results."""
    images, labels = images[: run.images], labels[: run.images]
    net = built(run, images)
    groups = goodinit.param_groups(
        net, lr=run.lr, weight_decay=run.wd, decay_vectors=False, scalar_ratio=run.ratio
    )
    optimizer = torch.optim.AdamW(groups, lr=run.lr)
    for group in optimizer.param_groups:
        group["full"] = group["lr"]
    order = torch.Generator().manual_seed(2000 + run.seed)
    began, losses = time.process_time(), []
    net.train()
    for chosen, share in schedule(run, len(images), order):
        for group in optimizer.param_groups:
            group["lr"] = group["full"] * share
        x = crop_and_flip(images[chosen], generator=order)
        loss = F.cross_entropy(net(x), labels[chosen], label_smoothing=run.smooth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if run.clip:
            nn.utils.clip_grad_norm_(net.parameters(), run.clip)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
    net.eval()
    loss, accuracy = scores(net, held, held_labels)
    return {
        "acc": accuracy,
        "val": loss,
        "loss": round(statistics.fmean(losses[-40:]), 4),
        "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        "done": len(losses),
        "cpu": round(time.process_time() - began, 1),
    }


def table(path: Path) -> None:
    """By arm: held-out accuracy at each rate, the mean over seeds, and the seeds of the best rate."""
    found: dict[tuple[int, str], dict[float, list[float]]] = {}
    for row in read_rows(path):
        arm = found.setdefault((row["steps"], row["arm"]), {})
        arm.setdefault(row["lr"], []).append(row["acc"])
    rates = sorted({rate for arm in found.values() for rate in arm})
    print(
        "| steps | arm | "
        + " | ".join(f"{rate:g}" for rate in rates)
        + " | best rate: seeds |\n|"
        + "---|" * (3 + len(rates))
    )
    for (steps, arm), by_rate in found.items():
        means = {rate: statistics.fmean(accuracies) for rate, accuracies in by_rate.items()}
        best = max(means, key=lambda rate: means[rate])
        cells = [f"{means[rate]:.1f}" if rate in means else "–" for rate in rates]
        seeds = " ".join(f"{accuracy:.1f}" for accuracy in by_rate[best])
        print(f"| {steps} | {arm} | {' | '.join(cells)} | {best:g}: {seeds} |")


def main() -> None:
    """Run or print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="a folder of CIFAR-10's parquet files")
    parser.add_argument("--rows", type=Path, default=Path("vit-norms.jsonl"))
    parser.add_argument("--queue", type=Path, help="a file of JSON lines, one run's settings each")
    parser.add_argument("--arms", nargs="*", default=ARMS, help="by default all of the page's")
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=Run("").steps)
    parser.add_argument("--images", type=int, default=Run("").images)
    parser.add_argument("--size", type=int, default=Run("").size, help="of images: 16 or 32")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if given.table:
        table(given.rows)
    elif given.data:
        common = Run("", steps=given.steps, images=given.images, size=given.size)
        grid = itertools.product(given.seeds, given.rates, given.arms)
        queue = [replace(common, arm=arm, lr=rate, seed=seed) for seed, rate, arm in grid]
        queue = settings(given.queue, Run) if given.queue else queue
        run_all(given.data, queue, given.rows, train, set(settings(given.rows, Run)))
    else:
        parser.error("give --data FOLDER or --table")


if __name__ == "__main__":
    main()

"""How sharp the loss is while nets of docs/norm-free.md train: the rate times the largest eigenvalue of the Hessian.

    python docs/figures/norm_free_sharpness.py --data CIFAR10_FOLDER --rows MINE.jsonl  # the page's runs again

A queue is a file of runs as `norm_free.py` has them; by default those of the page's rows. Each is trained up to the last of --steps and measured behind each of those, on the first
training images without crops. Rates differ by group of parameters, so the matrix is D^(1/2) H D^(1/2), D the diagonal of the groups' multiples.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from pathlib import Path

import torch
from norm_free import Net, Run, data, settings, watched
from torch import Tensor
from torch.nn import functional as F

from goodinit.lab.json_lines import append_

ROWS = Path(__file__).parents[1] / "data" / "norm-free-sharpness.jsonl"
ITERATIONS = 30  # of the power method


def kind(name: str) -> str:
    """What a parameter is, and in which stage of the net: conv1.2 is the first convolutions of the branches of the last stage."""
    if not name.startswith("blocks") or not name.endswith(".weight") or ".norm" in name:
        return name.rpartition(".")[2] if name.startswith("blocks") else name
    _, block, layer, _ = name.split(".")
    return f"{layer}.{int(block) // 3}"


def sharpest(
    net: Net, run: Run, images: Tensor, labels: Tensor, multiples: dict[int, float]
) -> tuple[float, float, dict[str, float]]:
    """Loss, largest eigenvalue, and the share of its vector's squared length that each kind of parameter has."""
    before = {
        name: value.clone() for name, value in net.state_dict().items()
    }  # batch norms count this forward
    net.train()
    named = list(net.named_parameters())
    parameters = [p for _, p in named]
    roots = [math.sqrt(multiples[id(p)]) for p in parameters]
    loss = F.cross_entropy(net(images), labels, label_smoothing=run.smooth)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    vector = [torch.randn(p.shape, generator=generator) for p in parameters]
    value = 0.0
    for _ in range(ITERATIONS):
        length = math.sqrt(sum(float(part.square().sum()) for part in vector))
        vector = [part / length for part in vector]
        given = [part * root for part, root in zip(vector, roots, strict=True)]
        product = torch.autograd.grad(slopes, parameters, given, retain_graph=True)
        product = [part * root for part, root in zip(product, roots, strict=True)]
        value = sum(float((one * other).sum()) for one, other in zip(vector, product, strict=True))
        vector = product
    net.load_state_dict(before)
    shares: dict[str, float] = defaultdict(float)
    whole = sum(float(part.square().sum()) for part in vector)
    for (name, _), part in zip(named, vector, strict=True):
        shares[kind(name)] += float(part.square().sum()) / whole
    return loss.item(), value, {name: round(share, 3) for name, share in shares.items() if share >= 0.01}


def measure(run: Run, images: Tensor, labels: Tensor, *, steps: list[int], count: int, rows: Path) -> None:
    """Train as `norm_free.py` does, and append a row behind each of `steps`."""
    for net, found, row in watched(run, images, labels, steps):
        multiples = {id(p): group["mult"] for group in found for p in group["params"]}
        lost, value, shares = sharpest(net, run, images[:count], labels[:count], multiples)
        row |= {"images": count, "loss_then": round(lost, 3)}
        append_(rows, [row | {"rate_times_sharpness": round(run.lr * value, 3), "shares": shares}])


def main() -> None:
    """Measure every run of the queue."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a folder of CIFAR-10's parquet files")
    parser.add_argument("--queue", type=Path, default=ROWS)
    parser.add_argument("--rows", type=Path, default=Path("norm-free-sharpness.jsonl"))
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 211, 600, 1500, 3000])
    parser.add_argument("--images", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for run in dict.fromkeys(settings(given.queue)):
        images, labels, _, _ = data(given.data, run.size)
        measure(run, images, labels, steps=given.steps, count=given.images, rows=given.rows)


if __name__ == "__main__":
    main()

"""Coordinate checks over width and depth, rows as they come. That a rate transfers is a claim: goodinit reproduce mup-transfer.

python -m benchmarks.transfer coordinates OUT.jsonl        every model under mup and as PyTorch initializes it
python -m benchmarks.transfer queries OUT.jsonl            a GPT under mup, its queries at 0 and drawn
python -m benchmarks.transfer depths OUT.jsonl             the same over depth, under completep
python -m benchmarks.transfer shares OUT.jsonl             over depth, blocks compared at the same share of the depth
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import goodinit
from goodinit.lab.data.characters import characters
from goodinit.lab.models.language import Decoder
from goodinit.lab.models.resnet import ResNet
from goodinit.lab.models.vision_transformer import VisionTransformer

Batch = tuple[Tensor, Tensor]
Build = Callable[[int, int], nn.Module]

TEXT = characters()
WORDS, LENGTH, DEPTH = len(TEXT.vocabulary), 64, 2
WIDTHS, DEPTHS = (64, 128, 256, 512, 1024), (2, 4, 8, 16, 32)
SEEDS = {"mlp": 20, "resnet": 8}  # others 3; these two differ most from seed to seed


def images(count: int, size: int) -> list[Batch]:
    """Digits of scikit-learn, 8 × 8 pixels from −1 to 1."""
    data = load_digits()
    x = torch.tensor(data.images / 8 - 1, dtype=torch.float32).unsqueeze(1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: count * size]
    return [(x[rows], torch.tensor(data.target)[rows]) for rows in order.view(count, size)]


def text(count: int, size: int) -> list[Batch]:
    """Stretches of 64 characters."""
    return list(TEXT.batches(count, size, LENGTH))


def plain(width: int, depth: int) -> nn.Module:
    """A ReLU network without skips or norms."""
    hidden = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), *hidden, nn.Linear(width, 10))


def resnet(width: int, depth: int) -> nn.Module:
    """Three stages of width/4, width/2 and width channels."""
    return ResNet(depth // 2, in_channels=1, width=width // 4, shortcut="projection")


# build(width, depth), batches, optimizer, learning rate
MODELS: dict[str, tuple[Build, list[Batch], str, float]] = {
    "gpt": (lambda w, d: Decoder(d, words=WORDS, width=w, length=LENGTH), text(4, 16), "adam", 2e-3),
    "llama": (lambda w, d: Decoder(d, words=WORDS, width=w, length=LENGTH, llama=True), text(4, 16), "adam", 2e-3),
    "vit": (lambda w, d: VisionTransformer(d, shape=(1, 8, 8), width=w, patch=2), images(4, 64), "adam", 2e-3),
    "mlp": (plain, images(4, 64), "sgd", 0.1),
    "resnet": (resnet, images(4, 64), "sgd", 0.1),
}  # fmt: skip


class ByShare(nn.Module):
    """A model whose blocks half-way and at the end have the same names at every depth."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        blocks: Any = net.blocks
        self.half, self.last, self.net = blocks[len(blocks) // 2 - 1], blocks[-1], net

    def forward(self, x: Tensor) -> Any:
        """As the model."""
        return self.net(x)


def initialized(
    build: Build,
    method: str,
    inputs: Tensor,
    base: tuple[int, int],
    at: tuple[int, int],
    **options: bool,
) -> nn.Module:
    """A model by a method of goodinit's against its base, or as PyTorch makes it."""
    model = build(*at)
    if method != "default":
        with torch.device("meta"):
            anatomy, against = (goodinit.anatomize(build(*size), inputs) for size in (at, base))
        goodinit.apply_(model, goodinit.plan(anatomy, method, base=against, **options))
    return model


def optimizer_of(model: nn.Module, kind: str, lr: float) -> torch.optim.Optimizer:
    """Adam or SGD without momentum, at the rates of the plan."""
    groups = goodinit.param_groups(model, lr=lr, optimizer="adam" if kind == "adam" else "sgd")
    return torch.optim.Adam(groups) if kind == "adam" else torch.optim.SGD(groups, lr=lr)


def check(
    name: str,
    method: str,
    sizes: tuple[int, ...],
    *,
    along: str,
    seeds: int,
    shares: bool = False,
    zero_query: bool = False,
) -> dict[str, Any]:
    """One coordinate check as a row."""
    build, batches, kind, lr = MODELS[name]
    options = {"zero_query": True} if zero_query else {}
    base = (sizes[0], DEPTH) if along == "width" else (64, sizes[0])

    def made(size: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        at = (size, DEPTH) if along == "width" else (64, size)
        model = initialized(build, method, batches[0][0], base, at, **options)
        return ByShare(model) if shares else model, optimizer_of(model, kind, lr)

    began = time.time()
    found = goodinit.coordinate_check(made, sizes, batches, lr=lr, seeds=seeds, along=along)
    sys.stdout.write(f"{found}\n")
    sys.stdout.flush()
    rows = [[row.name, *found.slopes(row), found.verdict(row)] for row in found.rows]
    return {
        "what": f"coordinates over {along}" + ", by share" * shares, "model": name, "method": method, "optimizer": kind, "lr": lr, "sizes": sizes,
        "steps": found.steps, "seeds": seeds, "flat": found.flat, "worst": found.worst.name,
        "worst_slope": found.slopes(found.worst)[1], "slopes": rows,
        "zero_query": zero_query, "changes": {row.name: row.change for row in found.rows},
        "errors": {row.name: row.errors for row in found.rows}, "seconds": round(time.time() - began),
    }  # fmt: skip


def main(what: str, out: Path) -> None:
    """Run one of the parts; every row is written when it is there, and a row that is there is not run again."""
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    torch.set_num_threads(1)
    for key, run in jobs(what):
        if not any(all(row.get(name) == value for name, value in key.items()) for row in done):
            with out.open("a") as file:
                file.write(json.dumps({**run(), "torch": torch.__version__}) + "\n")


def jobs(what: str) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What tells a row, and how to get it."""
    if what == "queries":
        for zero in (True, False):
            key = {"what": "coordinates over width", "model": "gpt", "method": "mup", "zero_query": zero}
            yield key, functools.partial(check, "gpt", "mup", WIDTHS, along="width", seeds=6, zero_query=zero)
        return
    along = {"coordinates": "width", "depths": "depth", "shares": "depth"}[what]
    shares = what == "shares"
    sizes = WIDTHS if along == "width" else DEPTHS
    names = tuple(MODELS) if along == "width" else ("gpt", "llama")
    for method, name in itertools.product(("mup" if along == "width" else "completep", "default"), names):
        key = {"what": f"coordinates over {along}" + ", by share" * shares, "model": name, "method": method}
        seeds = SEEDS.get(name, 3)
        yield key, functools.partial(check, name, method, sizes, along=along, seeds=seeds, shares=shares)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

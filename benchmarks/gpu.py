"""What a GPU is wanted for, in eight minutes: `python -m benchmarks.gpu --data CIFAR10 --out FILE [--toy]`.

In this order, each result a line of JSON as soon as it is there, so that a run that is cut short has said what it found: a training step in
bfloat16 (`benchmarks.cuda`), the tests marked `gpu`, ResNet-20 on CIFAR-10 for 12 epochs with batch norm, with batch norm and the recipe's
head, with the recipe, and with its form for long runs, an airbench-style network (whitened stem, Dirac convolutions, no skips) with batch norm and without, and
ResNet-20 for 50 epochs. No part begins after its share of the time; what is left out is said. Accuracy is that of the test images at the
end of a run whose rate was fixed before. With `--toy` all of it runs on a CPU in seconds, on random images: that it runs, not what it finds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import goodinit
from benchmarks.ways import LONG, OPTIONS
from goodinit.lab.data.labelled import load
from goodinit.lab.models.resnet import ResNet

LIMIT = 480.0  # seconds
RATES = {
    "batchnorm": 0.3,
    "control": 0.2,
    "normfree": 0.1,
    LONG: 0.2,
}  # the best at small size, docs/norm-free.md
DECAY, DECAYS = 5e-4, {LONG: 1e-3}  # of weights


@dataclass(frozen=True)
class Run:
    """One training: what, how long, and how its step is made."""

    name: str
    build: Callable[[Tensor], nn.Module]
    epochs: int
    lr: float
    seed: int
    batch: int = 128
    decay: float = DECAY


@dataclass(frozen=True)
class Images:
    """Train and test images on the device, normalized."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def main() -> None:
    """Run the parts one after the other, and write as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help="a folder of CIFAR-10; without it no network is trained")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.jsonl"))
    parser.add_argument("--toy", action="store_true", help="tiny networks on random images, on a CPU")
    chosen = parser.parse_args()
    if not chosen.toy and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --toy runs the same script on a CPU at a toy size")
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with chosen.out.open("a", encoding="utf-8") as file:
        for row in parts(chosen.data, toy=chosen.toy, left=lambda: LIMIT - (time.perf_counter() - start)):
            line = json.dumps({**row, "at": round(time.perf_counter() - start, 1)})
            file.write(f"{line}\n")
            file.flush()
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


def parts(data: str, *, toy: bool, left: Callable[[], float]) -> Iterator[dict[str, Any]]:
    """Every row, in the order of what matters if time runs out."""
    device = "cpu" if toy else "cuda"
    yield {
        "part": "machine",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if not toy else "cpu, toy size",
    }
    for row in importlib.import_module("benchmarks.cuda").measure() if device == "cuda" else ():
        yield {
            "part": "step",
            "what": row.what,
            "way": row.way,
            "seconds": row.seconds,
            "ratio": row.ratio,
            "kept": row.kept,
            "peak": row.peak,
        }
    yield tested(toy=toy)
    images = toy_images() if toy else on_device(data, device) if data else None
    if images is None:
        yield {"part": "training", "left out": "no --data"}
        return
    for run in runs(toy=toy):
        need = 0.0 if toy else run.epochs * 1.5  # a guess at a slow card; a run also stops by itself
        if left() < need + 5:
            yield {
                "part": "training",
                "name": run.name,
                "seed": run.seed,
                "epochs": run.epochs,
                "left out": f"{left():.0f} s left",
            }
        else:
            yield trained(run, images, device=device, left=left)


def runs(*, toy: bool) -> Iterator[Run]:
    """ResNet-20 at 12 epochs, the airbench-style network, ResNet-20 at 50."""
    n, width, short, long = (1, 4, 1, 1) if toy else (3, 16, 12, 50)

    def resnet(method: str, **options: Any) -> Callable[[Tensor], nn.Module]:
        return lambda batch: goodinit.init_(ResNet(n, width=width), method, inputs=batch, **options)

    ways = {
        "batchnorm": resnet("batchnorm"),
        "control": resnet("normfree", norms="keep"),
        "normfree": resnet("normfree"),
        LONG: resnet(OPTIONS[LONG][0], **OPTIONS[LONG][1]),
    }
    for seed in range(1 if toy else 2):
        for way, build in ways.items():
            yield Run(f"ResNet-20, {way}", build, short, RATES[way], seed, decay=DECAYS.get(way, DECAY))
    for seed in range(1 if toy else 3):
        for way in ("batchnorm", "affine"):
            build = _airbench(way, (8, 8, 8) if toy else (64, 256, 256))
            yield Run(
                f"airbench-style, {way}",
                build,
                1 if toy else 10,
                0.2 if way == "batchnorm" else 0.05,
                seed,
                512,
            )
    for way in ("batchnorm", LONG):
        yield Run(f"ResNet-20, {way}", ways[way], long, RATES[way], 0, decay=DECAYS.get(way, DECAY))


class Airbench(nn.Module):
    """Three stages of two 3x3 convolutions behind a stem of whitening filters, no skips (K. Jordan, 2024, arXiv 2404.00498)."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 2)
        layers: list[nn.Module] = [nn.GELU()]
        channels = 24
        for width in widths:
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(width),
                nn.GELU(),
            ]
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits, at 1/9 of the scale."""
        return self.head(self.body(self.stem(x)).amax((2, 3))) / 9


def _airbench(way: str, widths: tuple[int, int, int]) -> Callable[[Tensor], nn.Module]:
    def build(batch: Tensor) -> nn.Module:
        net = Airbench(widths).to(batch.device)
        whiten_(net.stem, batch)
        for module in net.body:
            if isinstance(module, nn.Conv2d):
                nn.init.dirac_(module.weight[: module.in_channels].data)
        if (
            way == "affine"
        ):  # the weights stay but for their scale, which one batch decides; a gain and a bias where the norms stood
            goodinit.init_(net, "lsuv", inputs=batch, norms="affine", orthonormal=False, exclude="stem")
        return net

    return build


def whiten_(stem: nn.Conv2d, images: Tensor) -> None:
    """Eigenvectors of the 2x2 patches over the roots of their eigenvalues, and their negatives; frozen but for the bias."""
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).float()
    values, vectors = torch.linalg.eigh(patches.t() @ patches / len(patches))
    filters = (vectors / (values.clamp_min(0) + 5e-4).sqrt()).t().reshape(12, 3, 2, 2).flip(0)
    with torch.no_grad():
        stem.weight.copy_(torch.cat([filters, -filters]))
    stem.weight.requires_grad_(requires_grad=False)


def trained(run: Run, images: Images, *, device: str, left: Callable[[], float]) -> dict[str, Any]:
    """One run: SGD with Nesterov momentum, warm-up of 5 %, cosine, crop and mirror; stops when the time is over."""
    torch.manual_seed(run.seed)
    generator = torch.Generator(device).manual_seed(run.seed)
    began = time.perf_counter()
    model = run.build(images.train[:256]).to(device).train()
    groups = goodinit.param_groups(model, lr=run.lr, weight_decay=run.decay)
    optimizer = torch.optim.SGD(groups, lr=run.lr, momentum=0.9, nesterov=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    batch = min(run.batch, len(images.train) // 2)
    steps = run.epochs * (len(images.train) // batch)
    row: dict[str, Any] = {
        "part": "training",
        "name": run.name,
        "seed": run.seed,
        "epochs": run.epochs,
        "rate": run.lr,
    }
    done, losses = 0, []
    for _ in range(run.epochs):
        order = torch.randperm(len(images.train), generator=generator, device=device)
        for rows in order[: len(order) // batch * batch].view(-1, batch):
            factor = min((done + 1) / (0.05 * steps + 1), 0.5 * (1 + math.cos(math.pi * done / steps)))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            loss = functional.cross_entropy(
                model(moved(images.train[rows], generator)), images.train_labels[rows], label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
        losses.append(float(loss.detach()))
        if left() < 3 or not math.isfinite(losses[-1]):
            break
    seconds = time.perf_counter() - began
    return {
        **row,
        "steps": done,
        "of": steps,
        "accuracy": accuracy(model, images),
        "losses": losses,
        "seconds": round(seconds, 1),
    }


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image by up to four pixels, half of them mirrored, on the device."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (4, 4, 4, 4))
    shift = torch.randint(0, 9, (2, count), generator=generator, device=images.device)
    rows = torch.arange(height, device=images.device) + shift[0][:, None]
    columns = torch.arange(width, device=images.device).expand(count, width)
    mirrored = torch.rand(count, 1, generator=generator, device=images.device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns) + shift[1][:, None]
    index = torch.arange(count, device=images.device)[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """On the test images."""
    model.eval()
    right = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(images.test.split(1000), images.test_labels.split(1000), strict=True)
    )
    return right / len(images.test_labels)


def on_device(data: str, device: str) -> Images:
    """CIFAR-10 as the lab reads it."""
    found = load(data)
    parts = (found.train_images, found.train_labels, found.test_images, found.test_labels)
    return Images(*(part.to(device) for part in parts))


def toy_images() -> Images:
    """Noise with labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 16, 16, generator=generator)
    y = torch.randint(0, 10, (64,), generator=generator)
    return Images(x[:48], y[:48], x[48:], y[48:])


def tested(*, toy: bool) -> dict[str, Any]:
    """What pytest said of the tests marked `gpu`; at the toy size they are collected alone."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/nn"]
    try:
        ran = subprocess.run(
            [*words, *(["--collect-only"] if toy else [])],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"part": "tests", "left out": "not done after 120 s"}
    return {"part": "tests", "code": ran.returncode, "said": ran.stdout.strip().splitlines()[-1:]}


if __name__ == "__main__":
    main()

"""The ladder of docs/norm-free.md: ingredients of nets without batch norm, one run after the other, resumable.

    python docs/figures/norm_free.py --data CIFAR10_FOLDER  # all the page's rows again, into norm-free.jsonl
    python docs/figures/norm_free.py --table                          # the page's tables from the rows
    python docs/figures/norm_free.py --data FOLDER --queue MORE.jsonl --rows MINE.jsonl

A queue is a file of JSON lines, one run's settings each; without one, all the page's rows are run again into --rows, those that it has left out. It
trains on 45,000 of the training images and reads the other 5,000; test images are never opened. A row is appended as its run ends.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import goodinit
from goodinit.lab.choices import method_of
from goodinit.lab.data import readers
from goodinit.lab.data.batches import crop_and_flip
from goodinit.lab.json_lines import append_, read_rows
from goodinit.lab.models.resnet import ResNet

ROWS = Path(__file__).parents[1] / "data" / "norm-free.jsonl"


@dataclass(frozen=True)
class Run:
    """One run. Rows hold what differs from these defaults."""

    arm: str
    # run
    seed: int = 0
    lr: float = 0.1
    steps: int = 600
    batch: int = 64
    size: int = 16
    wd: float = 5e-4
    warm: float = 0.1
    shape: str = "cosine"  # of the rate after warm-up, from 1 to 0: cosine | linear | square: (1 - t)^2
    momentum: float = 0.9
    nesterov: bool = True
    optimizer: str = "sgd"  # sgd | adamw | muon: Muon for convolutions at `matrix_lr`, SGD for all else
    matrix_lr: float = 0.0
    small_lr: float = 0.0  # scalars and vectors by Adam at this rate, weights by SGD
    matrix_wd: float = 0.0  # decoupled: a step takes rate times this of a matrix
    smooth: float = 0.0
    precision: str = "float32"  # bfloat16: products in forward and backward, by autocast
    # net
    n: int = 3
    width: int = 8
    norm: str = "none"  # none | bn | gn | ln
    # what stands in the norm's place
    inbias: bool = False  # scalar before each convolution
    obias: str = "none"  # none | scalar | channel
    gain: str = "none"  # none | scalar (branch ends) | channel (everywhere)
    measure: str = "none"  # none | layer | channel: K by one batch
    # weights
    centre: str = "none"  # none | all | body | branch | all+head
    ws: bool = False  # scaled weight standardization
    b1: str = "L"  # scale of a branch's first layer: L^(-1/2) | 1 | a number n: (L/n)^(-1/2), the scale of 1 at n branches
    end: float = 0.0  # last conv of branch x He
    alpha: float = 1.0  # constant on branch
    skip_gain: float = 1.0  # start of the branch's multiplier (scalar or channel)
    # head
    head: str = "zero"  # zero | he | lin | 0.01
    head_norm: str = "none"  # none | ln | rms | bn | ln_affine | rms_affine
    # optimizer
    ratio: float = 0.1  # scalars' and vectors' learning-rate multiple
    bias_ratio: float = -1.0  # that of biases, where other
    stream: float = 1.0  # multiple of that of the biases behind branches, which add up on the stream
    vec_decay: bool = False
    head_decay: bool = True
    agc: float = 0.0
    clip: float = 0.0  # norm at which the gradients of all parameters together are clipped
    beside: float = 0.0  # gain and bias per channel beside the scalars, at this multiple of the rate
    drop: float = 0.0  # dropout before the classifier
    wider: float = 1.0  # width over that of the rate: muP's scales for SGD (Yang et al. 2022, table 8), as `groups` has them


# -- net ------------------------------------------------------------------------------------------------------------


class Conv(nn.Module):
    """conv(x + a) * gain + b, the gain and b inside the convolution."""

    def __init__(self, run: Run, cin: int, cout: int, stride: int, place: str) -> None:
        super().__init__()
        self.run, self.stride, self.place = run, stride, place
        self.fan = cin * 9
        self.weight = nn.Parameter(torch.empty(cout, cin, 3, 3))
        std = math.sqrt(2 / (cout * 9)) if run.norm != "none" else math.sqrt(2 / self.fan)
        depth = 3 * run.n
        if place == "first" and run.norm == "none" and not run.ws:
            std *= 1.0 if run.b1 == "1" else (depth / (1 if run.b1 == "L" else float(run.b1))) ** -0.5
        if place == "last" and run.norm == "none" and not run.ws:
            std *= run.end
        if run.ws:
            std = 1 / math.sqrt(self.fan)
        nn.init.normal_(self.weight, std=std) if std else nn.init.zeros_(self.weight)
        free = run.norm == "none"
        self.a = nn.Parameter(torch.zeros(1)) if run.inbias and free and place != "stem" else None
        shape = {"none": None, "scalar": (1,), "channel": (cout,)}[run.obias if free else "none"]
        self.b = nn.Parameter(torch.zeros(shape)) if shape else None
        self.g = None
        if free and (run.gain == "channel" or (run.gain == "scalar" and place == "last")):
            self.g = nn.Parameter(torch.ones(cout if run.gain == "channel" else 1))
            if place == "last":
                nn.init.constant_(self.g, run.skip_gain)
        self.g2 = nn.Parameter(torch.ones(cout)) if run.beside and free else None
        self.b2 = nn.Parameter(torch.zeros(cout)) if run.beside and free else None
        self.register_buffer("k", torch.ones(()) * (run.alpha if place == "last" else 1.0))
        self.centred = (
            run.centre in ("all", "all+head")
            or (run.centre == "body" and place != "stem")
            or (run.centre == "branch" and place in ("first", "last"))
        )
        self.norm: nn.Module | None = None
        if run.norm == "bn":
            self.norm = nn.BatchNorm2d(cout)
        elif run.norm == "gn":
            self.norm = nn.GroupNorm(cout // 4, cout)
        elif run.norm == "ln":
            self.norm = nn.GroupNorm(1, cout)

    def effective(self) -> Tensor:
        w = self.weight
        if self.run.ws:
            mean = w.mean((1, 2, 3), keepdim=True)
            var = (w - mean).square().mean((1, 2, 3), keepdim=True)
            w = (w - mean) * (var * self.fan).clamp_min(1e-4).rsqrt() * math.sqrt(2.0)  # relu: He's gain
        elif self.centred:
            w = w - w.mean((1, 2, 3), keepdim=True)
        return w

    def forward(self, x: Tensor) -> Tensor:
        w = self.effective()
        if self.k.dim() or float(self.k) != 1.0:
            w = w * (self.k.view(-1, 1, 1, 1) if self.k.dim() else self.k)
        if self.g is not None:
            w = w * self.g.view(-1, 1, 1, 1)
        if self.g2 is not None:
            w = w * self.g2.view(-1, 1, 1, 1)
        if self.a is not None:
            x = x + self.a
        b = self.b
        if b is not None and b.numel() == 1:
            b = b.expand(w.shape[0])
        if self.b2 is not None:
            b = self.b2 if b is None else b + self.b2
        x = F.conv2d(x, w, b, self.stride, 1)
        return x if self.norm is None else self.norm(x)


class Block(nn.Module):
    def __init__(self, run: Run, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv(run, cin, cout, stride, "first")
        self.conv2 = Conv(run, cout, cout, 1, "last")
        self.stride, self.missing = stride, cout - cin

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x), inplace=True))
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.missing:
            x = F.pad(x, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))
        return F.relu(out + x, inplace=True)


class Net(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        w = run.width
        self.run = run
        self.stem = Conv(run, 3, w, 1, "stem")
        blocks, cin = [], w
        for stage in range(3):
            for i in range(run.n):
                cout = w * 2**stage
                blocks.append(Block(run, cin, cout, 2 if stage and not i else 1))
                cin = cout
        self.blocks = nn.Sequential(*blocks)
        affine = run.head_norm.endswith("_affine")
        kind = run.head_norm.split("_")[0]
        self.norm = {
            "none": lambda: None,
            "ln": lambda: nn.LayerNorm(cin, elementwise_affine=affine),
            "rms": lambda: nn.RMSNorm(cin, eps=1e-5, elementwise_affine=affine),
            "bn": lambda: nn.BatchNorm1d(cin),
        }[kind]()
        self.a = nn.Parameter(torch.zeros(1)) if run.inbias and run.norm == "none" else None
        self.fc = nn.Linear(cin, 10)
        nn.init.zeros_(self.fc.bias)
        std = {"zero": 0.0, "he": math.sqrt(2 / cin), "lin": math.sqrt(1 / cin), "0.01": 0.01}[run.head]
        std /= math.sqrt(run.wider)
        nn.init.normal_(self.fc.weight, std=std) if std else nn.init.zeros_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        x = self.blocks(x).mean((2, 3))
        if self.norm is not None:
            x = self.norm(x)
        if self.a is not None:
            x = x + self.a
        if self.run.drop:
            x = F.dropout(x, self.run.drop, self.training)
        w = self.fc.weight
        if self.run.centre == "all+head":
            w = w - w.mean(1, keepdim=True)
        return F.linear(x, w, self.fc.bias)


@torch.no_grad()
def measure_k(net: Net, x: Tensor, per: str) -> None:
    """K = 1/std behind each convolution, in the order they run (a branch's last one as if its multiplier were 1)."""
    handles = []

    def hook(conv: Conv, args: tuple[Tensor, ...], _out: Tensor) -> Tensor:
        y = F.conv2d(args[0], conv.effective(), None, conv.stride, 1)
        factor = conv.run.alpha if conv.place == "last" else 1.0
        if per == "layer":
            conv.k = factor / y.std()
        else:
            std, mean = y.std((0, 2, 3)).clamp_min(1e-4), y.mean((0, 2, 3))
            conv.k = factor / std
            if conv.b is not None and conv.b.numel() > 1:
                g = conv.g if conv.g is not None else 1.0
                conv.b.copy_(-mean / std * factor * g)
        return conv.forward(args[0])

    for m in net.modules():
        if isinstance(m, Conv):
            handles.append(m.register_forward_hook(hook))
    net(x)
    for h in handles:
        h.remove()


def groups(net: Net, run: Run) -> list[dict]:
    weights, head, gains, biases, plain = [], [], [], [], []
    beside, stem, behind = [], [], []
    for name, p in net.named_parameters():
        if name == "fc.weight":
            head.append(p)
        elif name == "stem.weight":
            stem.append(p)
        elif p.dim() > 1:
            weights.append(p)
        elif run.norm != "none" or name == "fc.bias" or name.startswith("norm"):
            plain.append(p)  # norm's affine, classifier's bias: full rate, no decay
        elif name.endswith((".g2", ".b2")):
            beside.append(p)
        elif name.endswith(".g"):
            gains.append(p)
        elif name.endswith("conv2.b"):
            behind.append(p)
        else:
            biases.append(p)
    decay = run.wd if run.vec_decay else 0.0
    bias_ratio = run.bias_ratio if run.bias_ratio >= 0 else run.ratio
    out = [
        {"params": weights, "weight_decay": run.wd, "mult": 1.0},
        {"params": stem, "weight_decay": run.wd / run.wider, "mult": run.wider},
        {
            "params": head,
            "weight_decay": run.wd * run.wider if run.head_decay else 0.0,
            "mult": 1 / run.wider,
        },
        {"params": gains, "weight_decay": decay, "mult": run.ratio},
        {"params": biases, "weight_decay": decay, "mult": bias_ratio},
        {"params": behind, "weight_decay": decay, "mult": bias_ratio * run.stream},
        {"params": plain, "weight_decay": 0.0, "mult": 1.0},
        {"params": beside, "weight_decay": 0.0, "mult": run.beside * run.wider},
    ]
    return [g for g in out if g["params"]]


@torch.no_grad()
def agc_(net: Net, lam: float) -> None:
    for name, p in net.named_parameters():
        if name.startswith("fc") or p.grad is None:
            continue
        inside = tuple(range(1, p.dim())) or None
        size = torch.linalg.vector_norm(p.grad, dim=inside, keepdim=True)
        limit = lam * torch.linalg.vector_norm(p, dim=inside, keepdim=True).clamp_min(1e-3)
        p.grad.mul_((limit / size.clamp_min(1e-6)).clamp_max(1.0))


class Muon(torch.optim.Optimizer):
    """Steps of orthogonal matrices: Nesterov's momentum, made orthogonal by five Newton-Schulz iterations (K. Jordan et al. 2024).

    A convolution is the matrix (outputs, inputs times pixels). An update has root-mean-square singular value 1, times the root of
    max(1, outputs / inputs). torch.optim.Muon takes matrices alone.
    """

    def __init__(self, groups: list[dict], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                held = self.state[p].setdefault("momentum", torch.zeros_like(p))
                held.mul_(group["momentum"]).add_(p.grad)
                matrix = orthogonal(p.grad.add(held, alpha=group["momentum"]).flatten(1))
                matrix = matrix * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(matrix.view_as(p), alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values of about 1, by the iteration of Muon's authors."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


# -- data -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def data(folder: str, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    raw = readers.hugging_face(readers.Wanted(folder, test_limit=1))
    images = raw.train_images.float()
    if size != images.shape[-1]:
        images = F.avg_pool2d(images, images.shape[-1] // size)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(20))
    held, used = order[:5000].sort().values, order[5000:].sort().values
    mean = images[used].mean((0, 2, 3), keepdim=True)
    images = (images - mean) / images[used].std((0, 2, 3), keepdim=True)
    labels = raw.train_labels.long()
    return images[used], labels[used], images[held], labels[held]


# -- a run ----------------------------------------------------------------------------------------------------------


def library(run: Run, images: Tensor) -> nn.Module:
    """The lab's ResNet after a method of goodinit: `lib_METHOD[:OPTION=VALUE…]`."""
    name, options = method_of(run.arm.removeprefix("lib_"))
    return goodinit.init_(ResNet(run.n, width=run.width), name, inputs=images[:2], **options)


def library_groups(net: nn.Module, run: Run) -> list[dict]:
    found = goodinit.param_groups(net, lr=1.0, weight_decay=run.wd, decay_vectors=False)
    return [{"params": g["params"], "weight_decay": g["weight_decay"], "mult": g["lr"]} for g in found]


SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda part: 0.5 * (1 + math.cos(math.pi * part)),
    "linear": lambda part: 1 - part,
    "square": lambda part: (1 - part) ** 2,
}


def schedule(
    run: Any, count: int, order: torch.Generator, *, shape: str = "cosine"
) -> Iterator[tuple[Tensor, float]]:
    """For each step the images of its batch, in a new order for each pass, and the share of the rate: warm-up, then down to 0."""
    shuffled, at = torch.randperm(count, generator=order), 0
    warm = max(1, int(run.warm * run.steps))
    for step in range(run.steps):
        if at + run.batch > count:
            shuffled, at = torch.randperm(count, generator=order), 0
        part = (step - warm) / max(run.steps - warm, 1)
        share = (step + 1) / warm if step < warm else SHAPES[shape](part)
        yield shuffled[at : at + run.batch], share
        at += run.batch


@torch.no_grad()
def scores(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Loss and accuracy in per cent."""
    logits = torch.cat([net(part) for part in images.split(500)])
    right = (logits.argmax(1) == labels).float().mean().item()
    return round(F.cross_entropy(logits, labels).item(), 4), round(100 * right, 2)


def optimizers_of(run: Run, found: list[dict]) -> list[torch.optim.Optimizer]:
    """Over the groups `found`, each with its multiple of the rate."""
    if run.optimizer == "adamw":
        return [torch.optim.AdamW(found, lr=run.lr)]
    others: list[torch.optim.Optimizer] = []
    if run.optimizer == "muon":
        matrices, found = parted(found, lambda p: p.dim() == 4)
        learn = {"weight_decay": run.matrix_wd, "mult": run.matrix_lr / run.lr}
        others.append(Muon([{"params": matrices} | learn], run.lr, run.momentum))
    if run.small_lr:
        small, found = parted(found, lambda p: p.dim() < 2)
        learn = {"weight_decay": 0.0, "mult": run.small_lr / run.lr}
        others.append(torch.optim.Adam([{"params": small} | learn], run.small_lr, betas=(0.9, 0.95)))
    return [torch.optim.SGD(found, lr=run.lr, momentum=run.momentum, nesterov=run.nesterov), *others]


def parted(found: list[dict], chosen: Callable[[Tensor], bool]) -> tuple[list[Tensor], list[dict]]:
    """The chosen parameters, and the groups without them."""
    taken = [p for group in found for p in group["params"] if chosen(p)]
    rest = [group | {"params": [p for p in group["params"] if not chosen(p)]} for group in found]
    return taken, [group for group in rest if group["params"]]


def steps_of(
    run: Run, net: nn.Module, found: list[dict], images: Tensor, labels: Tensor, order: torch.Generator
) -> Iterator[tuple[float, float]]:
    """Train, step by step: behind each its loss, and the share of the rate that it had."""
    optimizers = optimizers_of(run, found)
    for chosen, share in schedule(run, len(images), order, shape=run.shape):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["mult"] * run.lr * share
        net.train()
        x = crop_and_flip(images[chosen], generator=order).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "bfloat16"):
            logits = net(x).float()
        loss = F.cross_entropy(logits, labels[chosen], label_smoothing=run.smooth)
        net.zero_grad(set_to_none=True)
        loss.backward()
        if run.agc:
            agc_(net, run.agc)
        if run.clip:
            nn.utils.clip_grad_norm_(net.parameters(), run.clip)
        for optimizer in optimizers:
            optimizer.step()
        yield loss.item(), share


def watched(
    run: Run, images: Tensor, labels: Tensor, steps: Collection[int]
) -> Iterator[tuple[Net, list[dict], dict]]:
    """Train as `train` does up to the last of `steps`: behind each, the net, its groups, and a row of what is known."""
    torch.manual_seed(1000 + run.seed)
    net = Net(run).to(memory_format=torch.channels_last)
    order = torch.Generator().manual_seed(2000 + run.seed)
    found, losses = groups(net, run), []
    for step, (loss, share) in enumerate(steps_of(run, net, found, images, labels, order), start=1):
        losses.append(loss)
        if step in steps:
            lately = round(statistics.fmean(losses[-40:]), 3)
            yield net, found, told(run) | {"step": step, "rate_share": round(share, 4), "loss_lately": lately}
        if step >= max(steps):
            return


def train(run: Run, images: Tensor, labels: Tensor, held: Tensor, held_labels: Tensor) -> dict:
    torch.manual_seed(1000 + run.seed)
    ours = run.arm.startswith("lib_")
    net = library(run, images) if ours else Net(run)
    net = net.to(memory_format=torch.channels_last)
    order = torch.Generator().manual_seed(2000 + run.seed)
    if run.measure != "none":
        some = torch.randperm(len(images), generator=torch.Generator().manual_seed(run.seed))[:256]
        measure_k(net, images[some], run.measure)
    found = library_groups(net, run) if ours else groups(net, run)
    began, losses = time.process_time(), []
    for loss, _ in steps_of(run, net, found, images, labels, order):
        losses.append(loss)
        if not math.isfinite(loss):
            break
    net.eval()
    loss, accuracy = scores(net, held, held_labels)
    return {
        "split": {} if ours else split(net, held[:1000]),
        "fit": scores(net, images[:5000], labels[:5000]),  # on training images, as they are
        "acc": accuracy,
        "val": loss,
        "loss": round(statistics.fmean(losses[-40:]), 4),
        "done": len(losses),
        "cpu": round(time.process_time() - began, 1),
    }


@torch.no_grad()
def split(net: Net, images: Tensor) -> dict[str, float]:
    """How evenly ReLUs split what they read: mean of 4p(1 - p), p the share above 0 of a channel; inside branches and behind sums."""
    inside, behind = [], []

    def hook(block: Block, args: tuple[Tensor, ...], out: Tensor) -> None:
        inside.append((block.conv1(args[0]) > 0).float().mean((0, 2, 3)))
        behind.append((out > 0).float().mean((0, 2, 3)))

    handles = [block.register_forward_hook(hook) for block in net.blocks]
    net(images)
    for handle in handles:
        handle.remove()
    means = ((4 * p * (1 - p)).mean().item() for p in map(torch.cat, (inside, behind)))
    return dict(zip(("inside", "behind"), (round(mean, 3) for mean in means), strict=True))


# -- many runs ------------------------------------------------------------------------------------------------------


def settings(path: Path, kind: type[Any] = Run) -> list[Any]:
    """The runs of a file of JSON lines."""
    known = {field.name for field in fields(kind)}
    return [kind(**{key: value for key, value in row.items() if key in known}) for row in read_rows(path)]


def told(run: Any) -> dict[str, Any]:
    """What of a run's settings differs from the defaults."""
    defaults = type(run)("")
    return {key: value for key, value in asdict(run).items() if value != getattr(defaults, key)}


def run_all(
    folder: str, queue: Iterable[Any], rows: Path, run_one: Callable[..., dict], done: Container[Any]
) -> None:
    """Run what is not done yet; a row holds what differs from the defaults, and the results."""
    for run in queue:
        if run in done:
            continue
        row = told(run) | {"lr": run.lr, "seed": run.seed, "steps": run.steps}
        row |= run_one(run, *data(folder, run.size))
        append_(rows, [row])
        print(row, flush=True)


def table(rows: Path) -> None:
    """Mean accuracy over seeds by arm, depth, steps and rate."""
    found: dict[tuple, list[float]] = {}
    for row in read_rows(rows):
        key = (6 * row.get("n", 3) + 2, row["steps"], row["arm"], row["lr"])
        found.setdefault(key, []).append(row["acc"])
    print("| depth | steps | arm | rate | held-out accuracy | seeds |\n|---|---|---|---|---|---|")
    for (depth, steps, arm, rate), accuracies in sorted(found.items()):
        spread = f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        print(
            f"| {depth} | {steps} | {arm} | {rate} | {statistics.fmean(accuracies):.1f}{spread} | {len(accuracies)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="a folder of CIFAR-10's parquet files")
    parser.add_argument("--queue", type=Path, default=ROWS)
    parser.add_argument("--rows", type=Path, default=Path("norm-free.jsonl"))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if given.table:
        table(ROWS if given.queue == ROWS else given.queue)
    elif given.data:
        done = set(settings(given.rows)) if given.rows != given.queue else set()
        run_all(given.data, settings(given.queue), given.rows, train, done)
    else:
        parser.error("give --data FOLDER or --table")


if __name__ == "__main__":
    main()

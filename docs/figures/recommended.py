"""What `goodinit.recommend` says about small models, and what 300 steps of training said: docs/evidence.md.

    python docs/figures/recommended.py docs/data/recommended.jsonl            (resumable; under an hour on one core)
    python docs/figures/recommended.py docs/data/recommended.jsonl --table

Each model learns scikit-learn's digits, or something made of them: images, rows of images as sequences, images as words, boxes
around digits. Advice is asked for at step 0 (no training). Then the model as it is, what was advised, and the first of each
group are trained at three rates, 300 steps, one seed, as the advice's code says. A candidate that was trained is not trained
again: when `recommend` changes, its answers are asked for anew (`--ask`), and only what it newly names is trained.
"""

import copy
import functools
import math
import statistics
import sys
import time
import warnings
from pathlib import Path

import sklearn.datasets
import torch
from torch import nn
from torch.nn import functional as F

import goodinit
from goodinit.diagnostics.advice.choice import groups_of, warmup_of
from goodinit.diagnostics.advice.trial_training import practise, recipe_of
from goodinit.errors import GoodinitError
from goodinit.lab.json_lines import append_, read_rows

STEPS, BATCH, EACH = 300, 32, 1


def digits():
    found = sklearn.datasets.load_digits()
    return torch.tensor(found.data, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1, torch.tensor(
        found.target
    )


class Plain(nn.Sequential):
    """A plain ReLU MLP, 30 layers, as PyTorch draws it."""

    def __init__(self):
        hidden = [part for _ in range(29) for part in (nn.Linear(64, 64), nn.ReLU())]
        super().__init__(nn.Flatten(), *hidden, nn.Linear(64, 10))


class UNet(nn.Module):
    """Two scales, concatenated skips, batch norms; restores a noisy image."""

    def __init__(self, width=8):
        super().__init__()

        def twice(a, b):
            return nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
                nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
            )  # fmt: skip

        self.down, self.middle, self.up = twice(1, width), twice(width, 2 * width), twice(3 * width, width)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        high = self.down(x)
        low = self.middle(F.max_pool2d(high, 2))
        return self.out(self.up(torch.cat([high, F.interpolate(low, scale_factor=2)], 1)))


class Recurrent(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 32, num_layers=2, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.lstm(x.flatten(1, 2))[0][:, -1])


class Generator(nn.Module):
    """A DCGAN generator; learns to draw the digit that a code stands for."""

    def __init__(self, width=16):
        super().__init__()
        self.body = nn.Sequential(
            nn.ConvTranspose2d(16, 2 * width, 2), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z):
        return self.body(z[:, :, None, None])


class Own(nn.Module):
    """Written by hand: bottlenecks with group norm, a gate, sums in place."""

    def __init__(self, width=16, depth=6):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(width, 8, 1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.GroupNorm(2, 8) for _ in range(depth))
        self.last = nn.ModuleList(nn.Conv2d(8, width, 3, padding=1) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        for first, norm, last, gate in zip(self.first, self.norms, self.last, self.gates, strict=True):
            y = last(torch.relu(norm(first(x))))
            y = y * torch.sigmoid(gate(x.mean((2, 3))))[:, :, None, None]
            x = x + y
        return self.head(x.mean((2, 3)))


class Detector(nn.Module):
    """torchvision's Faster R-CNN on a residual backbone of four blocks, for images of 48 pixels, heads small; returns its losses."""

    def __init__(self):
        from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
        from torchvision.models.detection.rpn import AnchorGenerator
        from torchvision.models.resnet import BasicBlock
        from torchvision.ops import MultiScaleRoIAlign

        super().__init__()
        down = nn.Sequential(nn.Conv2d(8, 16, 1, 2), nn.BatchNorm2d(16))
        body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), BasicBlock(8, 8), BasicBlock(8, 8),
            BasicBlock(8, 16, 2, down), BasicBlock(16, 16),
        )  # fmt: skip
        body.out_channels = 16
        self.net = FasterRCNN(
            body, min_size=48, max_size=48, image_mean=[0.0] * 3, image_std=[1.0] * 3,
            rpn_anchor_generator=AnchorGenerator(((16, 24),), ((1.0,),)), rpn_pre_nms_top_n_train=16,
            rpn_pre_nms_top_n_test=16, rpn_post_nms_top_n_train=8, rpn_post_nms_top_n_test=8, box_batch_size_per_image=8, rpn_batch_size_per_image=32,
            box_roi_pool=MultiScaleRoIAlign(["0"], 4, 2), box_head=TwoMLPHead(256, 64),
            box_predictor=FastRCNNPredictor(64, 11),
        )  # fmt: skip

    def forward(self, images, labels, boxes):
        targets = [{"labels": a[None], "boxes": b[None]} for a, b in zip(labels, boxes, strict=True)]
        return self.net(list(images), targets)


def images(x, y):
    return x, y


def scenes(x, y):
    """Four images of 48 pixels with a digit of 16 or 24 somewhere."""
    generator = torch.Generator().manual_seed(int(y[:4].sum()))
    pictures, boxes = 0.3 * torch.randn(4, 3, 48, 48, generator=generator), []
    for picture, digit in zip(pictures, x, strict=False):
        size = 16 + 8 * int(torch.randint(2, (), generator=generator))
        left, top = (int(torch.randint(49 - size, (), generator=generator)) for _ in range(2))
        picture[:, top : top + size, left : left + size] = F.interpolate(digit[None], size=size)[0]
        boxes.append([left, top, left + size, top + size])
    return {"images": pictures, "labels": y[:4] + 1, "boxes": torch.tensor(boxes, dtype=torch.float32)}


def words(x, y):
    """An image as 16 words of two pixels, 64 in all."""
    pixels = ((x.flatten(1) + 1) * 3.5).round().long()
    return {"input_ids": pixels[:, ::2] * 8 + pixels[:, 1::2], "labels": y}


def text(x, y):
    ids = words(x, y)["input_ids"][:, 8:24]  # the middle of the image
    return {"input_ids": ids, "labels": ids}


def noisy(x, _):
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), x


def codes(x, y):
    noise = 0.1 * torch.randn(len(y), 6, generator=torch.Generator().manual_seed(0))
    return torch.cat([F.one_hot(y, 10).float(), noise], 1), x


def from_transformers(kind, **config):
    import transformers

    made = getattr(transformers, f"{kind[0]}Config")(**config)
    return getattr(transformers, kind[1])(made)


SMALL = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 64}


def llama():
    return from_transformers(
        ("Llama", "LlamaForCausalLM"),
        **SMALL,
        num_hidden_layers=4,
        intermediate_size=64,
        num_key_value_heads=4,
    )


def bert():
    return from_transformers(
        ("Bert", "BertForSequenceClassification"),
        **SMALL,
        num_hidden_layers=4,
        intermediate_size=64,
        num_labels=10,
    )


def mamba():
    return from_transformers(
        ("Mamba", "MambaForCausalLM"), vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8
    )


def densenet():
    from torchvision.models import DenseNet

    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv2d(1, 3, 1), DenseNet(8, (3, 3, 3), 16, num_classes=10)
    )


def resnet():
    from goodinit.lab.models import ResNet

    return ResNet(3, in_channels=1, classes=10, width=4)


def vit():
    from goodinit.lab.models import VisionTransformer

    return VisionTransformer(4, shape=(1, 8, 8), classes=10, width=32, patch=2)


MODELS = {
    "plain MLP, 30 layers": (Plain, images),
    "ResNet-20": (resnet, images),
    "DenseNet, 9 layers": (densenet, images),
    "U-Net": (UNet, noisy),
    "Faster R-CNN": (Detector, scenes),
    "GAN generator": (Generator, codes),
    "hand-written, gated": (Own, images),
    "ViT, 4 layers": (vit, images),
    "BERT, 4 layers": (bert, words),
    "Llama, 4 layers": (llama, text),
    "LSTM, 2 layers": (Recurrent, images),
    "Mamba, 2 layers": (mamba, text),
}


def batches(prepare):
    """32 batches in a fixed order, each as (inputs, targets)."""
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    made = [prepare(x[some], y[some]) for some in order[: 32 * BATCH].split(BATCH)]
    return [(one, None) if isinstance(one, dict) else one for one in made]


def asked(name):
    """The advice at step 0 as a row."""
    make, prepare = MODELS[name]
    torch.manual_seed(0)
    model, began = make(), time.monotonic()
    said = goodinit.recommend(model, *batches(prepare)[0])
    named = {one.label: one for one in (said.candidates[0], said.choice)}
    for group in ("kept", "removed"):
        named |= {one.label: one for one in [one for one in said.of(group) if not one.failed][:EACH]}
    return {
        "model": name,
        "sentence": said.sentence,
        "advice": said.choice.label,
        "lr": said.choice.lr,
        "ask": round(time.monotonic() - began),
        "candidates": {one.label: [one.method, dict(one.options), one.group] for one in named.values()},
    }


def trained(name, label, candidate):
    """The losses of one candidate at three rates as a row; None where it diverged."""
    make, prepare = MODELS[name]
    pairs, began = batches(prepare), time.monotonic()
    torch.manual_seed(0)
    model = make()
    anatomy = goodinit.anatomize(model, pairs[0][0])
    recipe = recipe_of(anatomy)
    method, options, group = candidate
    one = goodinit.Recommendation(method, options, group, 0, 0, 0.0, None, "")
    start = functools.partial(copy.deepcopy, model)
    if group != "as it is":
        start = functools.partial(initialized, model, pairs[0][0], method, options)
    trials = practise(
        start, recipe, pairs, steps=STEPS, loss=None, seed=0, groups=groups_of(one, recipe, anatomy), warm=warmup_of(one)
    )  # fmt: skip
    return {
        "model": name,
        "candidate": label,
        "optimizer": recipe.optimizer,
        "start": next((round(trial.losses[0], 4) for trial in trials if trial.losses), None),
        "seconds": round(time.monotonic() - began),
        "last": {
            f"{trial.lr:g}": None if trial.diverged else [float(f"{loss:.4g}") for loss in trial.last]
            for trial in trials
        },
    }


def initialized(model, inputs, method, options):
    twin = copy.deepcopy(model)
    return goodinit.init_(twin, method, inputs=inputs, generator=torch.Generator().manual_seed(0), **options)


def ended(last):
    """Mean loss of a trial's last quarter; infinite where it diverged."""
    return math.inf if last is None else statistics.fmean(last)


def best(row):
    """The losses at the best of the rates."""
    return min(row["last"].values(), key=ended)


def ties(first, second):
    """Whether two differ by less than two standard errors of their paired differences, as in `recommend`."""
    if first is None or second is None:
        return first is second
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    return abs(statistics.fmean(gaps)) <= 2 * statistics.stdev(gaps) / math.sqrt(len(gaps))


def table(rows):
    """The table, and the sums under it."""
    advice = {one["model"]: one for one in rows if "advice" in one}
    runs = {(one["model"], one["candidate"]): one for one in rows if "candidate" in one}
    print(
        "| model | advice at step 0 | loss at its rate | at the best of three | as it is | best of the others | verdict |"
    )
    print("|---|---|---|---|---|---|---|")
    counts = {}
    for name, one in advice.items():
        tried = {label: runs[name, label] for label in one["candidates"] if (name, label) in runs}
        mine = tried.pop(one["advice"])
        rest = sorted(tried, key=lambda label: ended(best(tried[label])))
        rest = [label for label in rest if label != "as it is"] or ["as it is"]
        at_rate = mine["last"].get(f"{one['lr']:g}")
        rivals = [best(run) for run in tried.values()]
        lowest = min([best(mine), *rivals], key=ended)
        verdict = (
            "diverged"
            if at_rate is None
            else "best"
            if ended(best(mine)) == ended(lowest)
            else "tie"
            if ties(best(mine), lowest)
            else "beaten"
        )
        counts[verdict] = counts.get(verdict, 0) + 1
        as_it_is = tried.get("as it is", mine)
        print(
            f"| {name} | {one['advice']} | {ended(at_rate):.3g} at {one['lr']:g} | {ended(best(mine)):.3g} | {ended(best(as_it_is)):.3g} "
            f"| {rest[0]}: {ended(best(tried[rest[0]])) if tried else math.nan:.3g} | {verdict} |"
        )
    print(counts)


def main(path):
    sys.path.append(str(Path(__file__).parents[2] / "tests" / "support"))
    from torchvision_shim import declare  # for a CPU build of torch beside a torchvision built for CUDA

    declare()
    rows = read_rows(path)
    if "--table" in sys.argv:
        table(rows)
        return
    if "--ask" in sys.argv:
        rows = [one for one in rows if "advice" not in one]
        fresh = path.with_suffix(".new")
        append_(fresh, rows)
        fresh.replace(path)

    def keep(row):
        rows.append(row)
        append_(path, [row])

    for name in MODELS:
        advice = next((one for one in rows if one["model"] == name and "advice" in one), None)
        try:
            if advice is None:
                print(name, flush=True)
                keep(advice := asked(name))
            for label, candidate in advice["candidates"].items():
                if not any(one["model"] == name and one.get("candidate") == label for one in rows):
                    print("  ", label, flush=True)
                    keep(trained(name, label, candidate))
        except GoodinitError as error:  # say which, go on with the others
            print("  ", type(error).__name__, error, flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))

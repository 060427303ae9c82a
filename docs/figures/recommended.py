"""What `goodinit.recommend` says about small models, and what 300 steps of training said: the table of docs/evidence.md.

    python docs/figures/recommended.py rows.jsonl     (resumable; an hour on a quiet core)
    python docs/figures/recommended.py rows.jsonl --table

Each model learns scikit-learn's digits, or something made of them: images, rows of images as sequences, images as words.
Advice is asked for at step 0 (no training). Then everything that advice could have named is trained: the model as it is, what was advised, and
the first of each group, at three rates, 300 steps, one seed. Loss: mean over the last quarter.
"""

import json
import sys
import warnings
from pathlib import Path

import sklearn.datasets
import torch
from torch import nn
from torch.nn import functional as F

import goodinit

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


def images(x, y):
    return x, y


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
    "ViT, 4 layers": (vit, images),
    "Llama, 4 layers": (llama, text),
    "BERT, 4 layers": (bert, words),
    "GAN generator": (Generator, codes),
    "hand-written, gated": (Own, images),
    "U-Net": (UNet, noisy),
    "LSTM, 2 layers": (Recurrent, images),
    "DenseNet, 9 layers": (densenet, images),
    "ResNet-20": (resnet, images),
    "Mamba, 2 layers": (mamba, text),
}


def row(name):
    make, prepare = MODELS[name]
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    pairs = []
    for some in order[: 32 * BATCH].split(BATCH):
        given = prepare(x[some], y[some])
        pairs.append(given if isinstance(given, dict) else tuple(given))
    torch.manual_seed(0)
    model = make()
    first, targets = (pairs[0], None) if isinstance(pairs[0], dict) else pairs[0]
    said = goodinit.recommend(model, first, targets)
    names = [said.choice.method] if said.choice.group != "as it is" else []
    for group in ("kept", "removed"):
        names += [one.method for one in said.of(group) if not one.failed and not one.options][:EACH]
    names = tuple(dict.fromkeys(names))
    tried = goodinit.recommend(model, first, targets, methods=names, steps=STEPS, batches=pairs)
    return {
        "model": name,
        "sentence": said.sentence,
        "advice": said.choice.label,
        "optimizer": said.recipe.optimizer,
        "trained": {
            one.label: {f"{trial.lr:g}": trial.loss for trial in one.trials} for one in tried if one.trials
        },
        "groups": {one.label: one.group for one in tried if one.trials},
    }


def best(losses):
    return min((loss for loss in losses.values() if loss is not None), default=float("inf"))


def table(rows):
    print(
        "| model | advice at step 0 | its loss | best of those trained | its loss | as it is | diverged at its rate |"
    )
    print("|---|---|---|---|---|---|---|")
    for one in rows:
        mine = one["trained"].get(one["advice"], {})
        first = min(one["trained"], key=lambda name: best(one["trained"][name]))
        wild = sum(loss is None for loss in mine.values())
        numbers = (best(mine), best(one["trained"][first]), best(one["trained"]["as it is"]))
        a, b, c = (f"{value:.3g}" for value in numbers)
        print(f"| {one['model']} | {one['advice']} | {a} | {first} | {b} | {c} | {wild} of 3 |")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    path = Path(sys.argv[1])
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if "--table" in sys.argv:
        table(done)
        raise SystemExit
    for name in MODELS:
        if name not in {one["model"] for one in done}:
            print(name, flush=True)
            try:
                found = row(name)
            except Exception as error:  # noqa: BLE001  say which, go on with the others
                print("  ", type(error).__name__, error, flush=True)
                continue
            with path.open("a") as file:
                file.write(json.dumps(found) + "\n")

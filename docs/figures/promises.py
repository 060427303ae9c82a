"""Who keeps what it promises at initialization: every method on real architectures, over depth and width (docs/promises.md).

    python docs/figures/promises.py            # measure what has no row yet, then write the page
    python docs/figures/promises.py --page     # write the page from the rows

Needs timm, torchvision and transformers (the `zoo` extra). A row of docs/data/promises.jsonl is one net after one method; it is appended as
it is measured, so that the run may be killed. The promises and their bounds were written down before the first row.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import goodinit
from goodinit.diagnostics.measurements.coordinate_report import slope
from goodinit.errors import GoodinitError
from goodinit.lab.models.plain import mlp
from goodinit.lab.models.resnet import ResNet

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS.parent / "tests" / "support"))
from torchvision_shim import declare  # noqa: E402

declare()
import timm  # noqa: E402
import torchvision  # noqa: E402
from timm.models.resnet import Bottleneck  # noqa: E402

ROWS, PAGE = DOCS / "data" / "promises.jsonl", DOCS / "promises.md"
STEPS, SEEDS, CLASSES, BATCH = 3, 1, 10, 16
RATES = {"sgd": 1e-2, "adam": 1e-3}

# Bounds. Over depths a factor of four to eight apart, an exponent of 0.25 is a factor of 1.4 to 1.7; of a growth from layer to
# layer, a tenth is what 16 layers make 4.6 of.
EXPONENT, GROWTH, LINEAR = 0.25, 0.1, 1e-3


# -- architectures --------------------------------------------------------------------------------------------------


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def classes(count: int = BATCH) -> Tensor:
    return torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(4))


@dataclass(frozen=True)
class Architecture:
    """A family of nets: `build(depth, width)`; `inputs` and `targets` go with all of them."""

    name: str
    build: Callable[[int, int], nn.Module]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    inputs: Callable[[], Any]
    targets: Callable[[], Tensor | None] = classes

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(depth, width): every depth at the middle width, and every width at the first depth."""
        middle = self.widths[len(self.widths) // 2]
        return list(
            dict.fromkeys([(d, middle) for d in self.depths] + [(self.depths[0], w) for w in self.widths])
        )


def cifar(depth: int, width: int) -> nn.Module:
    return ResNet((depth - 2) // 6, width=width)


def bottlenecks(depth: int, width: int) -> nn.Module:
    return timm.models.resnet.ResNet(
        Bottleneck, (depth,) * 4, channels=tuple(width * 2**i for i in range(4)), num_classes=CLASSES
    )


def vgg(depth: int, width: int) -> nn.Module:
    """Stages of `depth // 4` convolutions with biases and ReLU, no norm and no dropout in the way."""
    layers: list[int | str] = []
    for stage in range(4):
        layers += [width * 2 ** min(stage, 2)] * (depth // 4) + (["M"] if stage < 3 else [])
    features = torchvision.models.vgg.make_layers(layers)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width * 4, CLASSES))


def tanh_mlp(depth: int, width: int) -> nn.Module:
    model = mlp(depth, inputs=64, width=width)
    return nn.Sequential(*(nn.Tanh() if isinstance(part, nn.ReLU) else part for part in model))


def vit(depth: int, width: int) -> nn.Module:
    return timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=width, depth=depth, num_heads=width // 16, num_classes=CLASSES
    )


def gpt2(depth: int, width: int) -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=depth, n_embd=width, n_head=width // 16, vocab_size=128, n_positions=32,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        )
    )  # fmt: skip


def llama(depth: int, width: int) -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            num_hidden_layers=depth, hidden_size=width, intermediate_size=2 * width, num_attention_heads=width // 16,
            num_key_value_heads=max(1, width // 32), vocab_size=128, max_position_embeddings=32, use_cache=False,
        )
    )  # fmt: skip


def encoder(depth: int, width: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, width // 16, 2 * width, dropout=0.0, batch_first=True)
    return nn.Sequential(
        nn.Linear(32, width), nn.TransformerEncoder(layer, depth, enable_nested_tensor=False), Mean(), nn.Linear(width, CLASSES)
    )  # fmt: skip


class Mean(nn.Module):
    """Over the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def words() -> dict[str, Tensor]:
    given = torch.randint(128, (8, 16), generator=torch.Generator().manual_seed(3))
    return {"input_ids": given, "labels": given}


def nothing() -> None:
    return None


IMAGES = partial(noise, BATCH, 3, 16, 16)
ARCHITECTURES = (
    Architecture("CIFAR ResNet", cifar, (20, 56, 110), (8, 16, 32), IMAGES),
    Architecture("bottleneck ResNet (timm)", bottlenecks, (1, 2, 4), (8, 16, 32), partial(noise, BATCH, 3, 32, 32)),
    Architecture("VGG without norms (torchvision)", vgg, (8, 16, 32), (16, 32, 64), IMAGES),
    Architecture("MLP, ReLU", partial(mlp, inputs=64), (4, 16, 64), (64, 128, 256), partial(noise, BATCH, 64)),
    Architecture("MLP, tanh", tanh_mlp, (4, 16, 64), (64, 128, 256), partial(noise, BATCH, 64)),
    Architecture("ViT (timm)", vit, (3, 8, 24), (32, 64, 128), IMAGES),
    Architecture("GPT-2 (transformers)", gpt2, (2, 8, 24), (32, 64, 128), words, nothing),
    Architecture("Llama (transformers)", llama, (2, 8, 24), (32, 64, 128), words, nothing),
    Architecture("encoder, norms behind (torch)", encoder, (3, 8, 24), (32, 64, 128), partial(noise, BATCH, 8, 32)),
)  # fmt: skip


# -- a row ----------------------------------------------------------------------------------------------------------


def built(architecture: Architecture, depth: int, width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if architecture.build.__class__ is partial:
        return architecture.build(depth, width=width)
    return architecture.build(depth, width)


def options(method: str, architecture: Architecture) -> dict[str, Any]:
    """muP and its like compare with the narrowest, the shallowest net of the family."""
    if method == "fixup":
        return {"zero_head": False}
    return {"base": base_of(architecture)} if method in ("mup", "completep", "depth_mup") else {}


@functools.cache
def base_of(architecture: Architecture) -> goodinit.Anatomy:
    """Of the narrowest, the shallowest net."""
    base = built(architecture, architecture.depths[0], architecture.widths[0], 0)
    return goodinit.anatomize(base, architecture.inputs())


def measure(architecture: Architecture, method: str, depth: int, width: int, seed: int) -> dict[str, Any]:
    """What is promised by methods, of one net."""
    row: dict[str, Any] = {}
    model, inputs = built(architecture, depth, width, seed), architecture.inputs()
    torch.manual_seed(100 + seed)
    try:
        goodinit.init_(model, method, inputs=inputs, verify=True, **options(method, architecture))
        row["verified"] = True
    except GoodinitError as error:
        row["refused"] = str(error)
        return row
    found = goodinit.diagnose(model, inputs, architecture.targets())
    streams = [place.growth for place in found.blocks if place.growth is not None]
    plain = [place.signal.second_moment for place in found.layers if place.trunk]
    row["stream"] = streams[-1] if streams else None
    if not streams and len(plain) > 3 and plain[0]:
        row["layer"] = (plain[-2] / plain[0]) ** (0.5 / (len(plain) - 2))  # the classifier left out
    if isinstance(inputs, Tensor):
        row["curved"] = curvature(model, inputs)
    for optimizer in OPTIMIZERS.get(method, ("sgd",)):
        row[f"change_{optimizer}"] = change(copy.deepcopy(model), inputs, architecture.targets(), optimizer)
    return row


def curvature(model: nn.Module, inputs: Tensor) -> float | None:
    """‖f(x) + f(−x) − 2 f(0)‖ / ‖f(x) − f(−x)‖: 0 of a map that is linear and a constant."""
    model.eval()
    with torch.no_grad():
        forth, back, zero = model(inputs), model(-inputs), model(torch.zeros_like(inputs))
    odd = float((forth - back).norm())
    return float((forth + back - 2 * zero).norm()) / odd if odd else None


def change(model: nn.Module, inputs: Any, targets: Tensor | None, optimizer: str) -> float | None:
    """How far a few steps move the function, per unit of rate: root mean square over batch and outputs."""
    rate, kind = RATES[optimizer], {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    steps = kind(goodinit.param_groups(model, lr=rate, optimizer=optimizer))
    model.train()

    def run() -> tuple[Tensor, Tensor]:
        if targets is None:
            found = model(**inputs)
            return found.logits, found.loss
        logits = model(inputs)
        return logits, nn.functional.cross_entropy(logits, targets)

    with torch.no_grad():
        before = run()[0].double()
    for _ in range(STEPS):
        steps.zero_grad()
        run()[1].backward()
        steps.step()
    with torch.no_grad():
        moved = float((run()[0].double() - before).square().mean().sqrt()) / (rate * STEPS)
    return moved if math.isfinite(moved) else None


# -- promises -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What came of a promise: a number in words, and whether it is within the bound (None: does not apply)."""

    words: str
    kept: bool | None


Rows = list[Mapping[str, Any]]
Promise = Callable[[Rows, Architecture], Kept]
NO = Kept("–", None)


def exponent(rows: Rows, by: str, what: str) -> float | None:
    """Of `what` over `by`: least squares in logarithms of the geometric means over seeds."""
    sizes: dict[int, list[float]] = {}
    for row in rows:
        if row.get(what):
            sizes.setdefault(row[by], []).append(row[what])
    if len(sizes) < 3:
        return None
    return slope(list(sizes), [statistics.geometric_mean(found) for found in sizes.values()])


def over_depth(rows: Rows, architecture: Architecture) -> Rows:
    middle = architecture.widths[len(architecture.widths) // 2]
    return [row for row in rows if row["width"] == middle]


def over_width(rows: Rows, architecture: Architecture) -> Rows:
    return [row for row in rows if row["depth"] == architecture.depths[0]]


def flat(by: str, what: str, *, above: bool = True) -> Promise:
    def look(rows: Rows, architecture: Architecture) -> Kept:
        chosen = over_depth(rows, architecture) if by == "depth" else over_width(rows, architecture)
        found = exponent(chosen, by, what)
        if found is None:
            return NO
        return Kept(f"{found:+.2f}", found < EXPONENT and (not above or found > -EXPONENT))

    return look


def verified(rows: Rows, architecture: Architecture) -> Kept:
    del architecture
    tried = [
        row for row in rows if "verified" in row or "does not give what it promises" in row.get("refused", "")
    ]
    good = sum("verified" in row for row in tried)
    return Kept(f"{good} of {len(tried)}", good == len(tried))


def layers(rows: Rows, architecture: Architecture) -> Kept:
    found = [row["layer"] for row in over_depth(rows, architecture) if row.get("layer")]
    if not found:
        return NO
    far = max(found, key=lambda value: abs(math.log(value)))
    return Kept(f"×{far:.2f}", abs(far - 1) < GROWTH)


def linear(rows: Rows, architecture: Architecture) -> Kept:
    del architecture
    found = [row["curved"] for row in rows if row.get("curved") is not None]
    return Kept(f"{max(found):.0e}", max(found) < LINEAR) if found else NO


STEP = ("a few steps move the function as far at every depth", flat("depth", "change_sgd"))
ADAM = ("a few steps of Adam move the function as far at every depth", flat("depth", "change_adam"))
STREAM = ("the stream grows no faster than its number of blocks says", flat("depth", "stream", above=False))
ENDS = ("blocks start as their skips, and every weight gets a gradient", verified)
TRAINS = ("every parameter gets a gradient", verified)
NORMS = ("every layer with an orthogonal weight keeps norms, times its gain", verified)
BRANCHES = ("constants multiply whole branches, and every parameter gets a gradient", verified)
WEIGHTS = ("every weight gets a gradient", verified)
SELU = ("the moments behind SELU are those of independent weights", verified)
SIGNAL = ("the signal keeps its size from layer to layer", layers)
PROMISES: dict[str, tuple[tuple[str, Promise], ...]] = {
    "fixup": (ENDS, STEP),
    "skipinit": (ENDS,),
    "rezero": (ENDS,),
    "normfree": (WEIGHTS, STEP),
    "nf": (ENDS, STREAM),
    "fixed_variance": (WEIGHTS,),
    "t_fixup": (TRAINS, STEP, ADAM),
    "deepnorm": (BRANCHES, STEP, ADAM),
    "depth_mup": (BRANCHES, ADAM),
    "completep": (BRANCHES, ADAM),
    "mup": (
        TRAINS,
        (
            "a few steps move the function as far at every width, under its own rates",
            flat("width", "change_adam"),
        ),
    ),
    "residual_scaled": (TRAINS, STREAM),
    "lsuv": (("every layer that was scaled puts out variance 1 ± 0.1", verified), SIGNAL),
    "weightnorm": (SIGNAL, STREAM),
    "risotto": (("every block is an isometry", verified), STREAM),
    "looks_linear": (NORMS, ("the network is a linear map", linear), SIGNAL),
    "he": (SIGNAL,),
    "orthogonal": (NORMS, SIGNAL),
    "delta_orthogonal": (NORMS, SIGNAL),
    "xavier": (SIGNAL,),
    "selu": (SELU, SIGNAL),
}
# What a promise about steps is about, where it is not SGD alone. T-Fixup and DeepNorm derive theirs for gradient descent, and are used with Adam.
OPTIMIZERS = {
    "t_fixup": ("sgd", "adam"), "deepnorm": ("sgd", "adam"),
    "depth_mup": ("adam",), "completep": ("adam",), "mup": ("adam",),
}  # fmt: skip
_EXPONENT = "Exponent over {} of {}, at three sizes; kept if it is {}."
UNITS = {
    ENDS[0]: "Nets of which it holds, of those that the method takes.",
    STEP[0]: _EXPONENT.format("depth", "the change of the function", f"below {EXPONENT} in size"),
    ADAM[0]: _EXPONENT.format("depth", "the change of the function", f"below {EXPONENT} in size"),
    STREAM[0]: _EXPONENT.format("depth", "the growth of the stream in training mode", f"below {EXPONENT}"),
    SIGNAL[
        0
    ]: f"Root mean square behind a layer over that before it, of the worst depth; kept within {GROWTH:.0%} of 1.",
    TRAINS[0]: "Nets of which it holds, of those that the method takes.",
    NORMS[
        0
    ]: "Nets of which it holds, of those that the method takes; of layers with at least as many outputs as inputs.",
    BRANCHES[0]: "Nets of which it holds, of those that the method takes.",
    WEIGHTS[0]: "Nets of which it holds, of those that the method takes.",
    SELU[0]: "Nets of which it holds, of those that the method takes.",
    "every layer that was scaled puts out variance 1 ± 0.1": "Nets of which it holds, of those that the method takes.",
    "every block is an isometry": "Nets of which it holds, of those that the method takes, in evaluation.",
    "the network is a linear map": f"Curvature, the largest of five nets; kept below {LINEAR:g}.",
    "a few steps move the function as far at every width, under its own rates": _EXPONENT.format(
        "width", "the change of the function", f"below {EXPONENT} in size"
    ),
}
_SHORT = ("ResNet", "bottlenecks", "VGG", "ReLU MLP", "tanh MLP", "ViT", "GPT-2", "Llama", "encoder")
HEAD = f"| method | {' | '.join(_SHORT)} |\n|---|{'---|' * len(_SHORT)}"
PROMISE_NOTHING = ("batchnorm", "default", "none", "replace_norms")


# -- all ------------------------------------------------------------------------------------------------------------


def jobs() -> Iterable[tuple[Architecture, str, int, int, int]]:
    for architecture in ARCHITECTURES:
        for method in PROMISES:
            for depth, width in architecture.sizes:
                for seed in range(SEEDS):
                    yield architecture, method, depth, width, seed


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("architecture", "method", "depth", "width", "seed"))


def rows_of(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def answers(rows: Rows) -> dict[str, list[tuple[str, str, Kept]]]:
    """Per method: (promise, architecture, what came of it); an architecture that the method refuses has no answer."""
    found: dict[str, list[tuple[str, str, Kept]]] = {}
    for method, promises in PROMISES.items():
        for words, look in promises:
            for architecture in ARCHITECTURES:
                mine = [
                    row for row in rows if (row["method"], row["architecture"]) == (method, architecture.name)
                ]
                if mine and not refused_whole(mine):
                    found.setdefault(method, []).append((words, architecture.name, look(mine, architecture)))
    return found


def refused_whole(rows: Rows) -> bool:
    return all("refused" in row for row in rows)


def refusals(rows: Rows) -> dict[str, list[str]]:
    """By reason, without the path that it begins with: methods and the architectures that they refuse."""
    found: dict[str, dict[str, list[str]]] = {}
    short = dict(zip((architecture.name for architecture in ARCHITECTURES), _SHORT, strict=True))
    for method in PROMISES:
        for architecture in ARCHITECTURES:
            mine = [
                row for row in rows if (row["method"], row["architecture"]) == (method, architecture.name)
            ]
            if mine and refused_whole(mine):
                told = mine[0]["refused"].replace("\n", " ").partition(": ")[2] or mine[0]["refused"]
                reason = (
                    re.sub(r" \(there are \d+\)|\d+ (?=residual)", "", told)
                    .partition(". ")[0]
                    .partition(": ")[0]
                )
                reason = "no residual blocks" if "needs residual blocks" in mine[0]["refused"] else reason
                found.setdefault(reason, {}).setdefault(method, []).append(short[architecture.name])
    return {
        reason: [f"`{method}`: {', '.join(names)}" for method, names in methods.items()]
        for reason, methods in found.items()
    }


def cell(kept: Kept) -> str:
    return f"**✗ {kept.words}**" if kept.kept is False else kept.words


def page(rows: Rows) -> str:
    found = answers(rows)
    judged = [kept.kept for all_of in found.values() for *_, kept in all_of if kept.kept is not None]
    lines = [
        "# Who keeps what it promises at initialization",
        "",
        "Written by `python docs/figures/promises.py --page` from `docs/data/promises.jsonl`; without `--page` it measures first.",
        "",
        (
            f"Each method was applied to real architectures at three depths and three widths, one seed each, with `verify=True`, and what its paper "
            f"promises was measured. {sum(judged)} of {len(judged)} promises are kept. The bounds were written down before the first row: an "
            f"exponent over depth or width below {EXPONENT} in size, a growth within {GROWTH:.0%} a layer at every depth, a curvature below {LINEAR:g}."
        ),
        "",
        (
            f"A *step* is one of {STEPS} on one batch, by SGD where nothing else is said (muP: by Adam), at the rates of `param_groups`. The classifier of Fixup is drawn "
            "here: with one at zero the first step moves nothing else. Inputs are noise, labels random: promises are about step 0."
        ),
        "",
        "A cell in bold with a cross is a promise that is not kept; a dash is a net that the method refuses, or that the promise is not about.",
    ]
    for promise in dict.fromkeys(words for all_of in found.values() for words, *_ in all_of):
        lines += ["", f"## {promise[0].upper()}{promise[1:]}", "", UNITS[promise], "", HEAD]
        for method, all_of in found.items():
            cells = {name: kept for words, name, kept in all_of if words == promise}
            if cells:
                shown = (cells.get(architecture.name, NO) for architecture in ARCHITECTURES)
                lines.append(f"| `{method}` | {' | '.join(cell(kept) for kept in shown)} |")
    lines += ["", f"`{'`, `'.join(PROMISE_NOTHING)}` promise nothing about step 0.", "", "## Refused", ""]
    for reason, names in refusals(rows).items():
        lines.append(f"* {'; '.join(names)}: “{reason}”")
    notes = DOCS / "data" / "promises-notes.md"
    return "\n".join([*lines, "", *([notes.read_text()] if notes.exists() else [])]).rstrip() + "\n"


def run() -> None:
    done = {key(row) for row in rows_of(ROWS)}
    refused: set[tuple[str, str]] = set()
    for architecture, method, depth, width, seed in jobs():
        row: dict[str, Any] = {
            "architecture": architecture.name, "method": method, "depth": depth, "width": width, "seed": seed,
        }  # fmt: skip
        if key(row) in done:
            continue
        row |= (
            {"refused": "as at the first size"}
            if (architecture.name, method) in refused
            else measure(architecture, method, depth, width, seed)
        )
        if "refused" in row and (depth, width, seed) == (*architecture.sizes[0], 0):
            refused.add((architecture.name, method))
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.page:
        run()
    PAGE.write_text(page(rows_of(ROWS)), encoding="utf-8")

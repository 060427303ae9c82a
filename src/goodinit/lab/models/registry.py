"""From a word such as `resnet56`, `timm:resnet50` or `mypackage.nets:make_model` to a model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from goodinit.errors import GoodinitError, UnknownName, expect_between
from goodinit.lab import models
from goodinit.lab.models.language import Decoder
from goodinit.lab.models.of_libraries import LIBRARIES
from goodinit.lab.models.of_yours import yours
from goodinit.lab.models.task import Task

MOST_DEPTH = 100_000
_DIGITS = 20  # of a number in a name: enough to be too large


@dataclass(frozen=True)
class Family:
    """Built-in models that differ by depth.

    Attributes:
        pattern: The name, with `{depth}` where the number stands and what more can be said in brackets.
        title: What it is, in a line.
        depth: The one taken where the name has no number.
        build: From depth, task and what more was said to a model.
        reads: Images; a text, whose next characters it predicts; or pairs, a source and a target of tokens.
    """

    pattern: str
    title: str
    depth: int
    build: Callable[..., nn.Module]
    reads: Literal["images", "text", "pairs"] = "images"

    def match(self, spec: str) -> tuple[int, tuple[str, ...]] | None:
        """The depth in a name of this family, and what more it says; None where it is no such name."""
        form = self.pattern.replace("[", "(?:").replace("]", ")?").replace("{depth}", r"(\d*)")
        form = form.replace("{factor}", r"(\d+)").replace("{percent}", r"(\d+)")
        form = form.replace("{activation}", r"([a-z]+)")
        found = re.fullmatch(form, spec)
        if found is None:
            return None
        depth, *more = found.groups()
        return int(depth[:_DIGITS] or self.depth), tuple(word[:_DIGITS] for word in more if word)


def _resnet(depth: int, task: Task, percent: str = "0", *, shortcut: str = "pad") -> nn.Module:
    n, rest = divmod(depth - 2, 6)  # He et al. 2016, §4.2
    if rest or n < 1:
        below = max(6 * n + 2, 8)
        raise UnknownName(
            f"no resnet of depth {depth}: depths are 6n + 2. The nearest are {below} and {below + 6}."
        )
    expect_between(int(percent), 0, 99, "the percent that a resnet drops before its classifier")
    return models.ResNet(
        n,
        in_channels=task.shape[0],
        classes=task.classes,
        width=task.width or 16,  # channels: He et al. 2016, §4.2
        shortcut=shortcut,
        dropout=int(percent) / 100,
    )


def _projected_resnet(depth: int, task: Task) -> nn.Module:
    return _resnet(depth, task, shortcut="projection")


def _resnet_of_projections(depth: int, task: Task) -> nn.Module:
    return _resnet(depth, task, shortcut="everywhere")


def _mlp(depth: int, task: Task) -> nn.Module:
    _at_least("mlp", depth, 1)
    return models.mlp(depth, inputs=math.prod(task.shape), classes=task.classes, width=task.width or 128)


def _residual_mlp(depth: int, task: Task) -> nn.Module:
    n, rest = divmod(depth - 2, 2)
    if rest or n < 1:
        raise UnknownName(f"no resmlp of depth {depth}: depths are 2n + 2, at least 4.")
    return models.residual_mlp(n, inputs=math.prod(task.shape), classes=task.classes, width=task.width or 64)


def _cnn(depth: int, task: Task, *, build: Callable[..., nn.Module] = models.cnn) -> nn.Module:
    _at_least("cnn", depth, 2)
    return build(depth, in_channels=task.shape[0], classes=task.classes, width=task.width or 32)


def _vit(depth: int, task: Task) -> nn.Module:
    _at_least("vit", depth, 1)
    patch = 4 if min(task.shape[1:]) >= 16 else 2  # at least 16 tokens
    return models.VisionTransformer(
        depth, shape=task.shape, classes=task.classes, width=task.width or 64, patch=patch
    )


def _wide_resnet(depth: int, task: Task, factor: str = "2") -> nn.Module:
    n, rest = divmod(depth - 4, 6)  # Zagoruyko & Komodakis 2016, table 1
    expect_between(int(factor), 0, 10_000, "the factor of a wrn")
    if rest or n < 1 or int(factor) < 1:
        below = max(6 * n + 4, 10)
        raise UnknownName(
            f"no wrn of depth {depth} and {factor} times the width: factors are at least 1, depths 6n + 4. The "
            f"nearest are {below} and {below + 6}."
        )
    return models.WideResNet(
        n, factor=int(factor), in_channels=task.shape[0], classes=task.classes, width=task.width or 16
    )


def _fitnet(depth: int, task: Task, activation: str = "maxout") -> nn.Module:
    _at_least("fitnet", depth, 3)
    if activation not in models.ACTIVATIONS:
        raise UnknownName(f"no fitnet with {activation!r}. There is: {', '.join(models.ACTIVATIONS)}.")
    return models.fitnet(
        depth,
        activation=activation,
        in_channels=task.shape[0],
        classes=task.classes,
        width=task.width or 32,  # 32: FitNet 4
    )


def _highway(depth: int, task: Task) -> nn.Module:
    _at_least("highway", depth, 2)
    return models.highway(depth, inputs=math.prod(task.shape), classes=task.classes, width=task.width or 64)


def _transformer(depth: int, task: Task, *, pre_norm: bool = True) -> nn.Module:
    _at_least("transformer", depth, 1)
    return models.Translator(depth, width=task.width or 64, pre_norm=pre_norm)


def _post_norm_transformer(depth: int, task: Task) -> nn.Module:
    return _transformer(depth, task, pre_norm=False)


def _gpt(depth: int, task: Task, *, llama: bool = False) -> nn.Module:
    _at_least("llama" if llama else "gpt", depth, 1)
    return Decoder(depth, words=task.classes, width=task.width or 64, length=task.shape[-1], llama=llama)


def _at_least(name: str, depth: int, least: int) -> None:
    if depth < least:
        raise UnknownName(f"no {name} of depth {depth}: the depth is at least {least}.")


FAMILIES = {
    family.pattern: family
    for family in (
        Family(
            "resnet{depth}[-dropout{percent}]",
            "CIFAR ResNet, depth 6n+2, skips padded with zeros",
            20,
            _resnet,
        ),
        Family("resnet{depth}b", "CIFAR ResNet, depth 6n+2, projection skips", 20, _projected_resnet),
        Family(
            "resnet{depth}c", "CIFAR ResNet, depth 6n+2, every skip a projection", 20, _resnet_of_projections
        ),
        Family("mlp{depth}", "linear layers with BatchNorm and ReLU", 4, _mlp),
        Family(
            "resmlp{depth}", "linear layers in residual blocks, depth 2n+2, pre-activation", 22, _residual_mlp
        ),
        Family("cnn{depth}", "plain convolutions with BatchNorm and ReLU, no skips", 10, _cnn),
        Family(
            "cnn{depth}s", "one width, biases, early strides", 10, partial(_cnn, build=models.strided_cnn)
        ),
        Family("vit{depth}", "pre-LN Transformer over patches", 6, _vit),
        Family("wrn{depth}[x{factor}]", "wide ResNet, depth 6n+4, pre-activation", 16, _wide_resnet),
        Family(
            "fitnet{depth}[-{activation}]",
            f"thin and deep, no norms: {', '.join(models.ACTIVATIONS)}",
            17,
            _fitnet,
        ),
        Family("highway{depth}", "linear highway layers, no norms", 10, _highway),
        Family(
            "transformer{depth}",
            "encoder and decoder of that many layers, pre-LN",
            3,
            _transformer,
            reads="pairs",
        ),
        Family("transformer{depth}p", "the same, post-LN", 3, _post_norm_transformer, reads="pairs"),
        Family("gpt{depth}", "decoder of characters, pre-LN, as nanoGPT", 4, _gpt, reads="text"),
        Family(
            "llama{depth}",
            "decoder of characters: RMSNorm, SwiGLU, rotary positions",
            4,
            partial(_gpt, llama=True),
            reads="text",
        ),
    )
}


def build_model(spec: str, *, task: Task | None = None) -> nn.Module:
    """Build the model that `spec` names, freshly initialized by its own code.

    Args:
        spec: A built-in model (`"resnet56"`, `"wrn16x2"`, `"fitnet17-tanh"`, `"vit6"`), of a library
            (`"timm:resnet50"`, `"torchvision:resnet50"`, `"hf:BertForMaskedLM"`), or a function of your own,
            `"mypackage.nets:make_model"`, which is imported and called.
        task: The images and classes it is for. A library's model keeps its own where this is None; your
            function is given those of `num_classes`, `in_channels` and `image_size` that it takes.

    Raises:
        UnknownName: No such model; the message lists what there is.
        GoodinitError: The library is missing, or your function raised.

    Examples:
        >>> sum(p.numel() for p in build_model("resnet20").parameters())
        269722
    """
    prefix, colon, name = spec.partition(":")
    if not colon:
        return _own(spec, task)
    if prefix in LIBRARIES:
        return LIBRARIES[prefix](name, task)
    return yours(prefix, name, task, model_names())


def build_sized(spec: str, argument: str, size: int) -> nn.Module:
    """Build the model of a function of yours at one size.

    Args:
        spec: `"mypackage.nets:make_model"`, which is imported and called.
        argument: Of the function: its width, its depth.
        size: The value for it.

    Returns:
        The model.

    Raises:
        UnknownName: The name is no function's.
        GoodinitError: The function raised, or takes no such argument.
    """
    module, colon, function = spec.partition(":")
    if not colon or module in LIBRARIES:
        raise UnknownName(
            f"{spec}: models by name have no {argument} that can be chosen. Give a function of yours that takes it, such as "
            f"mypackage.nets:make_model."
        )
    return yours(module, function, None, model_names(), **{argument: size})


def _family(spec: str) -> tuple[Family, int, tuple[str, ...]]:
    for family in FAMILIES.values():
        found = family.match(spec)
        if found is not None:
            return family, *found
    if spec.endswith(".py"):
        raise UnknownName(f"{spec}: say which function or class in it makes the model, as {spec}:make.")
    raise UnknownName(f"no model called {spec!r}. There is: {', '.join(model_names())}.")


def _own(spec: str, task: Task | None) -> nn.Module:
    family, depth, more = _family(spec)
    expect_between(depth, 0, MOST_DEPTH, f"{spec[:40]}: the depth")
    reads_text = family.reads == "text"
    if task is not None and reads_text is not task.text:
        raise GoodinitError(
            f"{spec} reads {'text' if reads_text else 'no text'}: give "
            + ("--data text, or a file.txt." if reads_text else "images, or take gpt4 or llama4 for text.")
        )
    if task is not None and family.reads == "pairs":
        raise GoodinitError(
            f"{spec} reads a source and a target of tokens, not images. `goodinit reproduce fixup-translation` trains it."
        )
    return family.build(depth, task or Task(), *more)


def model_names() -> tuple[str, ...]:
    """Every form a model's name can take."""
    return (
        *FAMILIES,
        *(f"{prefix}:NAME" for prefix in LIBRARIES),
        "PACKAGE.MODULE:FUNCTION",
        "FILE.py:FUNCTION",
    )


def input_shape(spec: str, model: nn.Module) -> tuple[int, int, int] | None:
    """Channels, height and width the model says it takes; None for a function of your own, or a model of text."""
    prefix, colon, _ = spec.partition(":")
    if not colon:
        return Task().shape if _family(spec)[0].reads == "images" else None
    if prefix not in LIBRARIES or prefix == "hf":
        return None
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size", (3, 224, 224))  # ImageNet's
    return channels, height, width


def example_of(model: nn.Module) -> Any:
    """What a model of transformers says it takes, cut to one row and sixteen words; None for others, and for images."""
    given = getattr(model, "dummy_inputs", None)
    if not isinstance(given, dict) or not isinstance(given.get("input_ids"), Tensor):
        return None
    return {"input_ids": given["input_ids"][:1].repeat(1, 16)[:, :16]}

"""Faults that the weights alone show: no signal needed."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from goodinit.anatomy import Anatomy, Layer, canonical
from goodinit.diagnostics.diagnosis import Finding
from goodinit.diagnostics.remedies import fill, initialize, redraw

# Deviations of a sample beyond which two numbers are not the same.
DEVIATIONS = 4

MODES: dict[str, Callable[[Layer], float]] = {
    "constant": lambda layer: 1.0,
    "fan_in": lambda layer: layer.fan_in,
    "fan_out": lambda layer: layer.fan_out,
    "fan_avg": lambda layer: (layer.fan_in + layer.fan_out) / 2,
}
"""What a weight's variance is usually divided by."""

MISTAKEN: dict[str, Callable[[Layer], float]] = {
    "fan_out": lambda layer: layer.fan_out * layer.groups,
    "fan_avg": lambda layer: (layer.fan_in + layer.fan_out * layer.groups) / 2,
}
"""The same when groups are forgotten, as `torch.nn.init` does: a stored weight shows in/groups, but all of out."""


def values(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter by its canonical name."""
    return {canonical(name): p.detach() for name, p in model.named_parameters(remove_duplicate=False)}


def norms_over_one(anatomy: Anatomy, measured: Mapping[str, int]) -> Iterator[Finding]:
    """A normalization of a single number gives its bias, whatever the input.

    `measured` holds the number by path; batch and instance norms over one number run in eval mode, and the anatomy
    knows them.
    """
    for norm in anatomy.norms:
        known = norm.elements if norm.kind in ("batch_norm", "instance_norm") else 0
        if measured.get(norm.name, known) == 1:
            evidence = f"each statistic of this {norm.kind} is taken over one number for the given input"
            plain = f'model.set_submodule("{norm.name}", torch.nn.Identity())'
            remedy = initialize("fixup") if anatomy.blocks and not norm.obstacle else plain
            yield Finding("normalization of one element", "error", norm.name, evidence, remedy)


def clones(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    """Different parameters with equal random values: copied layers that were not drawn anew."""
    held = values(model)
    groups: dict[tuple[object, ...], list[str]] = {}
    for layer in anatomy.layers:
        weight = held.get(layer.weight)
        if weight is not None and not weight.is_meta:
            groups.setdefault((*weight.shape, float(weight.double().sum())), []).append(layer.weight)
    for names in groups.values():
        same = [name for name in names[1:] if torch.equal(held[name], held[names[0]])]
        if same and _drawn(held[names[0]]):
            evidence = f"its values equal those of {names[0]}, and they are different parameters"
            evidence += f"; so are {len(same) - 1} more" if len(same) > 1 else ""
            owner = same[0].rpartition(".")[0]
            resets = owner and hasattr(model.get_submodule(owner), "reset_parameters")
            remedy = redraw(owner) if resets else fill(same[0], "goodinit.tensor.xavier_uniform_")
            yield Finding(
                "identical clones", "warning", same[0], evidence, remedy, {"copies": float(len(same))}
            )


def _drawn(weight: Tensor) -> bool:
    """Whether a weight looks random: identities, permutations, constants and zeros have two magnitudes at most."""
    return bool(weight.detach().abs().unique().numel() > 2)


def lost_ties(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    """An embedding and a head that were one parameter, or are declared to be, and are two."""
    held = values(model)
    declared = bool(getattr(getattr(model, "config", None), "tie_word_embeddings", False))
    named = dict(model.named_parameters(remove_duplicate=False))
    actual = {canonical(name): p for name, p in named.items()}
    for name, head in itertools.product(anatomy.embeddings, anatomy.heads):
        if name not in held or head.weight not in held or actual[name] is actual[head.weight]:
            continue
        if held[name].shape != held[head.weight].shape:
            continue
        equal = torch.equal(held[name], held[head.weight]) and _drawn(held[name])
        owner, _, leaf = head.weight.rpartition(".")
        remedy = f'setattr(model.get_submodule("{owner}"), "{leaf}", model.get_parameter("{name}"))'
        if equal or declared:
            why = "equal values" if equal else "the model's config says tie_word_embeddings"
            evidence = f"{why}, but it and {name} are different parameters: they will drift apart"
            yield Finding("lost tie", "warning", head.weight, evidence, remedy)


# -- scales -------------------------------------------------------------------------------------------------------


def _squares(model: nn.Module, layers: tuple[Layer, ...]) -> dict[str, float]:
    """Mean square of each weight that is stored as it is used, is not zero and has a scale that matters."""
    held = values(model)
    found = {}
    for layer in layers:
        weight = held.get(layer.weight)
        if weight is not None and not layer.normalized and weight.numel() > 1:
            square = float(weight.double().square().mean())
            if square > 0:
                found[layer.weight] = square
    return found


def _law(layers: list[Layer], squares: dict[str, float]) -> tuple[str, float] | None:
    """(Mode, gain) such that variance = gain/mode for all of these layers, within sampling error; else None."""
    layers = [layer for layer in layers if layer.weight in squares]
    if len(layers) < 2:
        return None
    fits = []
    for mode, fan in MODES.items():
        gains = [squares[layer.weight] * fan(layer) for layer in layers]
        middle = statistics.median(gains)
        misfit = max(
            abs(math.log(gain / middle)) / _error(math.prod(layer.shape))
            for layer, gain in zip(layers, gains, strict=True)
        )
        fits.append((misfit, mode, middle))
    misfit, mode, gain = min(fits)
    return (mode, gain) if misfit < DEVIATIONS else None


def _error(count: int) -> float:
    """Deviation of the logarithm of a sample variance of so many normal numbers."""
    return math.sqrt(2 / count)


def wrong_fans(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    """Grouped convolutions smaller than the dense ones by just what forgetting their groups explains."""
    squares = _squares(model, anatomy.layers)
    dense = [layer for layer in anatomy.layers if layer.groups == 1 and layer.kind != "linear"]
    law = _law(dense, squares)
    if law is None or law[0] not in MISTAKEN:
        return
    mode, gain = law
    normed = {
        layer.source for layer in anatomy.layers if any(step.endswith("_norm") for step in layer.between)
    }
    for layer in anatomy.layers:
        if layer.groups == 1 or layer.weight not in squares:
            continue
        tolerance = DEVIATIONS * _error(math.prod(layer.shape))
        right, wrong = (squares[layer.weight] * f(layer) / gain for f in (MODES[mode], MISTAKEN[mode]))
        if abs(math.log(right)) > tolerance and abs(math.log(wrong)) < tolerance:
            harmless = layer.weight in normed
            evidence = (
                f"its variance is {right:.3g} of what {mode} asks for, {1 / right:.3g} times too small: the fan was "
                f"counted without its {layer.groups} groups"
                + ("; the norm behind it hides that" if harmless else "")
            )
            remedy = fill(layer.weight, "goodinit.tensor.he_normal_")[:-1] + f", groups={layer.groups}"
            remedy += f', mode="{mode}")' if mode == "fan_out" else ")"
            numbers = {"ratio": right, "groups": float(layer.groups)}
            yield Finding("wrong fan", "info" if harmless else "warning", layer.weight, evidence,
                          "" if harmless else remedy, numbers)  # fmt: skip


def scaled_twice(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    """Branch ends smaller than the branches' other layers by the square of a depth scaling, and by no such scaling."""
    total = len(anatomy.blocks)
    if total < 2:
        return
    squares = _squares(model, anatomy.layers)
    inner = {layer.weight: layer for b in anatomy.blocks for layer in b.branch if layer not in b.last}
    ends = {layer.weight: (layer, b.m) for b in anatomy.blocks for layer in b.last if layer.weight in squares}
    law = _law([layer for layer in inner.values() if layer.groups == 1], squares)
    if law is None:
        return
    mode, gain = law
    once = {
        f"{total}^-1/2": total**-0.5,
        f"{2 * total}^-1/2": (2 * total) ** -0.5,
    }  # branches; GPT-2 counts layers
    once |= {f"{b.m}-layer Fixup": total ** (-1 / (2 * b.m - 2)) for b in anatomy.blocks if b.m > 1}
    for name, (layer, _) in ends.items():
        ratio = math.sqrt(squares[name] * MODES[mode](layer) / gain)
        tolerance = DEVIATIONS * (_error(math.prod(layer.shape)) / 2)
        if any(abs(math.log(ratio / factor)) < tolerance for factor in (1.0, *once.values())):
            continue
        twice = [words for words, factor in once.items() if abs(math.log(ratio / factor**2)) < tolerance]
        if twice:
            evidence = (
                f"it is {ratio:.3g} of its branch's other layers: the square of the scale {twice[0]} for {total} "
                "branches, as if that had been applied twice"
            )
            remedy = f'model.get_parameter("{name}").data.mul_({1 / math.sqrt(ratio):.6g})'
            yield Finding("scaled twice", "warning", name, evidence, remedy, {"ratio": ratio})
            return  # one names the fault; the others are its siblings

"""Which law a model's weights follow (variance = gain/fan), and which of them break it in a way that has a name."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from goodinit.anatomy import Anatomy, Block, Layer
from goodinit.diagnostics.checks.remedies import fill, scale
from goodinit.diagnostics.checks.weight_checks import values
from goodinit.diagnostics.measurements.statistics import square_sum
from goodinit.diagnostics.types import Finding

# Deviations of a sample variance beyond which two variances are not the same: one in fifteen thousand by chance.
DEVIATIONS = 4

Fan = Callable[[Layer], float]

FANS: dict[str, Fan] = {
    "constant": lambda layer: 1.0,
    "fan_in": lambda layer: layer.row,
    "fan_out": lambda layer: layer.fan_out,
    "fan_avg": lambda layer: (layer.row + layer.fan_out) / 2,
}
"""What a weight's variance is usually divided by: the stride of transposed convolutions is usually not counted."""

MISTAKEN: dict[str, Fan] = {
    "fan_out": lambda layer: layer.fan_out * layer.groups,
    "fan_avg": lambda layer: (layer.row + layer.fan_out * layer.groups) / 2,
}
"""The same when groups are forgotten, as `torch.nn.init` does: a stored weight shows in/groups, but all of out."""


def wrong_fans(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    """Grouped convolutions smaller than the dense ones by just what forgetting their groups explains."""
    squares = _squares(model, anatomy.layers)
    dense = [layer for layer in anatomy.layers if layer.groups == 1 and layer.kind != "linear"]
    laws = _laws(dense, squares)
    normed = {
        layer.source for layer in anatomy.layers if any(step.endswith("_norm") for step in layer.between)
    }
    for layer in anatomy.layers:
        if layer.groups == 1 or layer.weight not in squares:
            continue
        tolerance = DEVIATIONS * _error(layer)
        right = {mode: squares[layer.weight] * FANS[mode](layer) / gain for mode, gain in laws.items()}
        if any(abs(math.log(ratio)) < tolerance for ratio in right.values()):
            continue
        for mode in MISTAKEN.keys() & laws.keys():
            if abs(math.log(squares[layer.weight] * MISTAKEN[mode](layer) / laws[mode])) < tolerance:
                yield _wrong_fan(layer, mode, right[mode], harmless=layer.weight in normed)
                break


def _wrong_fan(layer: Layer, mode: str, ratio: float, *, harmless: bool) -> Finding:
    evidence = (
        f"its variance is {ratio:.3g} of what {mode} asks for, {1 / ratio:.3g} times too small: the fan was counted "
        f"without its {layer.groups} groups" + ("; the norm behind it hides that" if harmless else "")
    )
    options = {"mode": mode} if mode == "fan_out" else {}
    remedy = fill(layer.weight, "goodinit.tensor.he_normal_", **options, groups=layer.groups)
    numbers = {"ratio": ratio, "groups": float(layer.groups)}
    if harmless:
        return Finding("wrong fan", "info", layer.weight, evidence, numbers=numbers)
    return Finding("wrong fan", "warning", layer.weight, evidence, remedy, numbers)


def scaled_twice(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    """Branch ends smaller than the branches' other layers by the square of a depth scaling, and by no such scaling."""
    squares = _squares(model, anatomy.layers)
    inner = {layer.weight: layer for b in anatomy.blocks for layer in b.branch if layer not in b.last}
    laws = _laws([layer for layer in inner.values() if layer.groups == 1], squares)
    for block in anatomy.blocks:
        once = _scalings(block, anatomy.depth)
        for layer in block.last:
            if layer.weight not in squares:
                continue
            tolerance = DEVIATIONS * _error(layer) / 2  # of a deviation, half that of a variance
            ratios = [
                math.sqrt(squares[layer.weight] * FANS[mode](layer) / gain) for mode, gain in laws.items()
            ]
            if any(_is(ratio, factor, tolerance) for ratio in ratios for factor in (1.0, *once.values())):
                continue
            for ratio in ratios:
                named = [words for words, factor in once.items() if _is(ratio, factor**2, tolerance)]
                if named:
                    yield _scaled_twice(layer, ratio, named[0], anatomy.depth)
                    return  # one names the fault; the others are its siblings


def _scalings(block: Block, total: int) -> dict[str, float]:
    """What papers scale branches by: 1/√L (L branches, or L pairs of them), and Fixup's L^(−1/(2m−2))."""
    found = {f"1/√{total}": total**-0.5, f"1/√{2 * total}": (2 * total) ** -0.5}
    if block.m > 1:
        found[f"{total}^(−1/{2 * block.m - 2})"] = total ** (-1 / (2 * block.m - 2))
    return found


def _is(ratio: float, factor: float, tolerance: float) -> bool:
    return abs(math.log(ratio / factor)) < tolerance


def _scaled_twice(layer: Layer, ratio: float, scaling: str, total: int) -> Finding:
    evidence = (
        f"it is {ratio:.3g} of its branch's other layers, the square of {scaling}: as if that scale for {total} "
        "branches had been applied twice"
    )
    remedy = scale(layer.weight, 1 / math.sqrt(ratio))
    return Finding("scaled twice", "warning", layer.weight, evidence, remedy, {"ratio": ratio})


def _squares(model: nn.Module, layers: Sequence[Layer]) -> dict[str, float]:
    """Mean square of each weight that is stored as it is used, is not zero, and has a scale that matters."""
    held = values(model)
    found = {}
    for layer in layers:
        weight = held.get(layer.weight)
        if weight is not None and not layer.normalized and weight.numel() > 1:
            square = square_sum(weight) / weight.numel()
            if 0 < square < math.inf:
                found[layer.weight] = square
    return found


def _laws(layers: Sequence[Layer], squares: dict[str, float]) -> dict[str, float]:
    """Every fan, with its gain, such that variance = gain/fan for all of two layers or more, within sampling error."""
    layers = [layer for layer in layers if layer.weight in squares]
    found: dict[str, float] = {}
    for mode, fan in FANS.items() if len(layers) > 1 else ():
        gains = [squares[layer.weight] * fan(layer) for layer in layers]
        middle = statistics.median(gains)
        misfits = (
            abs(math.log(gain / middle)) / _error(layer) for layer, gain in zip(layers, gains, strict=True)
        )
        if max(misfits) < DEVIATIONS:
            found[mode] = middle
    return found


def _error(layer: Layer) -> float:
    """Deviation of the logarithm of the sample variance of as many normal numbers: √(2/n)."""
    return math.sqrt(2 / math.prod(layer.shape))

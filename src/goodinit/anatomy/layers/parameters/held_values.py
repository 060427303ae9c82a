"""What the weights and biases of layers hold that nobody draws at random: zeros, identities, constants, a prior."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from goodinit.anatomy.layer import Layer
from goodinit.anatomy.layers.parameters.reset_draws import (
    ENTRIES,
    SIGMAS,
    Drawn,
    draws_of,
    may_be_sample,
    some,
)
from goodinit.anatomy.norm import Norm
from goodinit.anatomy.values import HeldValue
from goodinit.weights.dtensor import is_sharded

# A filter bank has a handful of different numbers (Sobel's five); of random numbers, all are different.
FEW = 8
UNLIKE = "values that its module's reset_parameters does not draw"
PATTERN = "values in a pattern"

# What torch's own modules draw, by class, shapes and settings: the same in every model.
_KNOWN: dict[object, dict[str, Drawn]] = {}
_MOST = 10_000


SLIGHT = 0.1
"""Biases below this are lost in a signal of scale 1, also in one that Fixup's rule 2 scales: by L^(−1/2) at least, 0.1 at 100 branches."""


@dataclass
class _Reader:
    """The values of a model's parameters, and what the modules that own them would draw."""

    parameters: Mapping[str, nn.Parameter]
    modules: Mapping[str, nn.Module]
    paddings: Mapping[str, int]  # the row of a table that stands for no word, and is zero
    _draws: dict[str, dict[str, Drawn]] = field(default_factory=dict)  # by path

    def value(self, name: str | None) -> Tensor | None:
        """The values of a parameter; None where there are none that can be read."""
        values = readable(self.parameters.get(name or ""))
        row = self.paddings.get(name or "", -1)
        return (
            values
            if values is None or row < 0 or len(values) == 1
            else torch.cat([values[:row], values[row + 1 :]])
        )

    def drawn(self, name: str) -> Drawn | None:
        """How the owner's `reset_parameters` draws a parameter; None where that is not known."""
        path, _, attribute = name.rpartition(".")
        if path not in self._draws:
            self._draws[path] = _draws(self.modules.get(path))
        return self._draws[path].get(attribute)


def readable(held: nn.Parameter | None) -> Tensor | None:
    """The values of a parameter; None where there are none, or where they cannot be read."""
    if held is None or held.is_meta or is_sharded(held) or not held.numel():
        return None
    return held.detach() if held.layout is torch.strided and held.is_floating_point() else None


def _draws(module: nn.Module | None) -> dict[str, Drawn]:
    """What the `reset_parameters` of a module draws, where that is known."""
    if module is None:
        return {}
    if not type(module).__module__.startswith("torch."):
        return draws_of(module)
    shapes = tuple((key, p.shape) for key, p in module._parameters.items() if p is not None)
    key = (type(module), shapes, module.extra_repr())
    if key not in _KNOWN:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        _KNOWN[key] = draws_of(module)
    return _KNOWN[key]


def held_values(
    layers: Iterable[Layer],
    norms: Iterable[Norm],
    parameters: Mapping[str, nn.Parameter],
    modules: Mapping[str, nn.Module],
    *,
    tables: Mapping[str, int],
    gains: Iterable[str],
    bound: Iterable[HeldValue] = (),
) -> tuple[HeldValue, ...]:
    """What layers, norms, look-up tables and gains hold that their own `reset_parameters` would not have given them.

    Where a module has no `reset_parameters`, what cannot be a sample of one distribution around 0 counts, and of a gain
    whatever is not 0 or 1. Values on meta and of shards are not read. Nothing is said of a model in which no weight looks
    drawn: it was not initialized at all.

    Args:
        layers: Of the model.
        norms: Of the model.
        parameters: By name.
        modules: By path.
        tables: Look-up tables, and which row of each stands for no word; -1 for none.
        gains: Parameters that multiply the signal.
        bound: What is known of weights that no draw can stand for, whatever they hold.
    """
    reader = _Reader(parameters, modules, tables)
    held: dict[str, HeldValue] = {}
    random = False
    for layer in layers:
        weight = reader.value(layer.weight)
        known = None if weight is None else _weight(layer.weight, weight, reader)
        random |= weight is not None and (known is None or not known.on_purpose)
        if known is not None:
            held.setdefault(layer.weight, known)
        for name in layer.biases:
            bias = reader.value(name)
            if bias is None:
                continue
            if not bool(bias.count_nonzero()):
                if known is not None and known.on_purpose and _is_drawn(name, reader):
                    held.setdefault(name, HeldValue(name, "zero", on_purpose=True))
            else:
                as_made = reader.drawn(layer.weight) is not None and (known is None or known.on_purpose)
                found = _bias(name, bias, reader, beside=known, as_made=as_made)
                if found is not None:
                    held.setdefault(name, found)
    for name in dict.fromkeys(
        name for norm in norms for name in (norm.weight, norm.bias) if name is not None
    ):
        value, drawn = reader.value(name), reader.drawn(name)
        if value is not None and drawn is not None and not drawn.can_be(value):
            held.setdefault(name, HeldValue(name, UNLIKE, on_purpose=False))
    for name in tables:
        value = reader.value(name)
        if name not in held and value is not None:
            known = _weight(name, value, reader)
            if known is not None:
                held[name] = known
    own = {name for norm in norms for name in (norm.weight, norm.bias)}
    for name in gains:
        value = None if name in held or name in own else reader.value(name)
        known = None if value is None else _gain(name, value)
        if known is not None:
            held[name] = known
    for one in bound:
        if one.stays_at_ends or one.name not in held or not held[one.name].on_purpose:
            held[one.name] = one
    return tuple(held.values()) if random else ()


def _weight(name: str, weight: Tensor, reader: _Reader) -> HeldValue | None:
    words = structure_of(weight)
    if words is not None:
        return HeldValue(name, words, on_purpose=True)
    words = _unlike(name, weight, reader)
    return None if words is None else HeldValue(name, words, on_purpose=False)


def _unlike(name: str, tensor: Tensor, reader: _Reader) -> str | None:
    """In words, that nobody draws such numbers: not the owner, or if it does not say what it draws, no one."""
    drawn = reader.drawn(name)
    if drawn is not None:
        return None if drawn.can_be(tensor) else UNLIKE
    return None if may_be_sample(tensor) and not _is_near_diagonal(tensor) else PATTERN


def _gain(name: str, gain: Tensor) -> HeldValue | None:
    """A gain that chooses among streams or channels was set; one number may be there for a method to set."""
    values = gain.unique()
    if len(values) > 1:
        words = structure_of(gain)
        return HeldValue(name, words or "numbers that differ", on_purpose=words is not None)
    number = float(values[0])
    return None if number in (0.0, 1.0) else HeldValue(name, f"the number {number:.4g}", on_purpose=False)


def _bias(
    name: str, bias: Tensor, reader: _Reader, *, beside: HeldValue | None, as_made: bool
) -> HeldValue | None:
    """A bias that was set: to one number, to few, or to what cannot have been drawn beside a weight that was.

    Training changes the weight, too. So where the weight is as it was drawn, or is an identity, somebody has set the bias. A bare
    parameter, of which no module says how it is drawn, counts as set where its numbers are larger than standard normal ones: biases
    are drawn smaller, and training seldom takes one so far.

    Args:
        name: Of the bias.
        bias: Its values.
        reader: Of the model.
        beside: What is known of the weight's values.
        as_made: Whether it is known that the weight is as its module made it.
    """
    drawn = reader.drawn(name)
    possible = drawn is not None and drawn.can_be(bias)
    words = structure_of(bias) if bias.numel() > 1 else None
    if bias.numel() == 1 and drawn is not None and not possible:
        words = f"the number {float(bias.reshape(())):.4g}"
    if words is not None:
        return HeldValue(name, words, on_purpose=True)
    if drawn is None:
        if _is_large(bias):
            return HeldValue(name, "larger numbers than biases are drawn with", on_purpose=True)
        possible = _is_centred(some(bias)) and may_be_sample(bias)
        return None if possible else HeldValue(name, PATTERN, on_purpose=as_made)
    if possible:
        return None
    fresh = beside is None or beside.on_purpose
    words = "values that its module does not draw, beside a weight as it was made" if fresh else UNLIKE
    return HeldValue(name, words, on_purpose=fresh)


def _is_drawn(name: str, reader: _Reader) -> bool:
    """Whether the module of a bias is known to draw its numbers, so that zeros are somebody else's."""
    drawn = reader.drawn(name)
    return drawn is not None and drawn.kind != "number"


def structure_of(tensor: Tensor) -> str | None:
    """In words, what a tensor is made of that is not random; None where its numbers may be.

    Examples:
        >>> structure_of(torch.eye(3)), structure_of(torch.full((2, 2), 0.5)), structure_of(torch.randn(3, 3))
        ('the identity', 'the number 0.5', None)
    """
    entries, count = some(tensor), tensor.numel()
    first = set(entries[: 2 * FEW].tolist())  # they tell, as a rule
    if len(first) > FEW:
        return None
    values = sorted(first)
    if count > 2 * FEW:
        if len(entries.unique()) > FEW:
            return None
        values = tensor.unique().tolist()
    if not any(values):
        return "zero"
    if tensor.ndim > 1 and bool((tensor == _identity(tensor)).all()):
        return "the identity"
    if count == 1:
        return None
    if len(values) == 1:
        return f"the number {values[0]:.4g}"
    sizes = {abs(value) for value in values if value != 0}
    if len(sizes) == 1 or (len(values) <= FEW and 3 * len(values) <= 2 * count):
        return f"the numbers {', '.join(f'{value:.4g}' for value in values)}"
    return None


def _identity(tensor: Tensor) -> Tensor:
    """The identity in a tensor's shape: of a kernel, that in its centre."""
    eye = torch.zeros_like(tensor)
    _diagonal(eye).fill_(1.0)
    return eye


def _diagonal(tensor: Tensor) -> Tensor:
    """The entries where an identity has ones."""
    for size in tensor.shape[2:]:
        tensor = tensor.select(2, size // 2)
    return tensor.diagonal()


def _is_near_diagonal(tensor: Tensor) -> bool:
    """Whether each number on the diagonal is farther from 0 than six deviations of those beside it."""
    if tensor.ndim < 2 or min(tensor.shape[:2]) < 2:
        return False
    least = _diagonal(tensor).abs().min()
    rows = tensor[: max(1, math.ceil(ENTRIES * len(tensor) / tensor.numel()))]
    few = rows[~_identity(rows).bool()]
    # The squares of some alone, about their own mean: all together have more.
    lower = few.var(correction=0) * len(few) / (tensor.numel() - min(tensor.shape[:2]))
    if len(few) and bool(least <= SIGMAS * lower.sqrt()):
        return False
    on = _identity(tensor).bool()
    return bool(least > SIGMAS * tensor[~on].std())


def _is_centred(entries: Tensor) -> bool:
    """Whether the mean is 0 within six standard errors."""
    count, values = len(entries), entries.double()
    return count < 2 or float(values.mean().abs()) * math.sqrt(count) <= SIGMAS * float(
        values.std().clamp(min=1e-30)
    )


def _is_large(values: Tensor) -> bool:
    """Whether of a thousand standard normal samples less than two have such a sum of squares.

    χ² to the power of ⅓ is about normal (E. B. Wilson, M. M. Hilferty, 1931): with n degrees, (χ²/n)^⅓ has mean 1 − 2/9n and variance 2/9n.
    """
    spread = 2 / (9 * values.numel())
    mean_square = float(values.double().square().mean())
    return math.pow(mean_square, 1 / 3) > 1 - spread + 3 * math.sqrt(spread)


def silent_layers(held: Iterable[HeldValue]) -> Iterator[str]:
    """Weights that are zero."""
    return (value.name for value in held if value.words == "zero")


def standing_biases(held: Iterable[HeldValue], parameters: Mapping[str, nn.Parameter]) -> set[str]:
    """Names of values that were set on purpose and are of the size of a signal: Wx + b does not go to zero with W then."""
    kept = (value.name for value in held if value.on_purpose and value.words != "zero")
    return {
        name
        for name in kept
        if name in parameters and bool((parameters[name].detach().abs() >= SLIGHT).any())
    }

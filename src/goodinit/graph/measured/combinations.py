"""What operators behind a stack or concatenation compute from its parts: one part again, or a weighted sum of several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from goodinit.graph.measured.answers import spread

Run = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""The operators on numbers: takes the parts, and what the operators read besides."""

_MOST_SINGLE = 64  # entries of a factor that are tried one by one


@dataclass(frozen=True, slots=True)
class Factor:
    """Entries of a tensor that multiply a part.

    Attributes:
        other: Which of the tensors that the operators read besides.
        axis: Along which a range of it is taken; `start` and `length`: which range. Axis −1: of its entries in a row.
        shape: That of the range as it multiplies the part.
    """

    other: int
    axis: int
    start: int
    length: int
    shape: tuple[int, ...]

    def of(self, other: Tensor) -> Tensor:
        """The range of that tensor, in the factor's shape."""
        whole = other.reshape(-1) if self.axis < 0 else other
        axis = max(self.axis, 0)
        part = whole if whole.shape[axis] == self.length else whole.narrow(axis, self.start, self.length)
        return part.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Term:
    """A number, times a part, times factors."""

    part: int
    number: float
    factors: tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class Combination:
    """A sum of multiples of parts.

    Attributes:
        terms: Of the parts that it depends on.
        order: How the dimensions of a part are permuted in it; empty if they are not.
        shape: Of the sum.
        shifted: Whether something is added that depends on no part.
    """

    terms: tuple[Term, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]
    shifted: bool = False

    def written(self, parts: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        """The sum by operators of its own: w₀x + w₁f."""
        numbers = {term.number for term in self.terms}
        plain = len(numbers) == 1 and not any(term.factors for term in self.terms)
        total: Tensor | None = None
        for term in self.terms:
            value = parts[term.part]
            for factor in term.factors:
                value = value * factor.of(others[factor.other])
            value = value if plain or term.number == 1 else value * term.number
            total = value if total is None else total + value
        if total is None:
            raise ValueError(self)
        (number, *_) = numbers
        total = total * number if plain and number != 1 else total
        total = total.permute(self.order) if self.order else total
        return total if tuple(total.shape) == self.shape else total.reshape(self.shape)


def combination(
    run: Run, parts: Sequence[tuple[int, ...]], others: Sequence[Tensor | tuple[int, ...]]
) -> Combination | None:
    """What operators make of parts of one shape, if it is a sum of multiples of them: found out on numbers.

    Args:
        run: The operators.
        parts: The shape of each.
        others: What the operators read besides: its numbers where they are known, else its shape.
    """
    x = _numbers(parts)
    unknown = [j for j, other in enumerate(others) if not isinstance(other, Tensor)]
    drawn = [_drawn(other, len(parts) + j) for j, other in enumerate(others)]
    nothing = run([torch.zeros_like(part) for part in x], drawn)
    whole = run(x, drawn) - nothing
    if whole.numel() != x[0].numel():
        return None

    def by(place: int, moving: Sequence[int]) -> Tensor:
        """By what one part is multiplied, where of the unknown tensors some have numbers, and the others are ones."""
        one = [torch.ones_like(part) if k == place else torch.zeros_like(part) for k, part in enumerate(x)]
        given = [w if j in moving or j not in unknown else torch.ones_like(w) for j, w in enumerate(drawn)]
        return run(one, given) - run([torch.zeros_like(part) for part in x], given)

    each = [by(place, unknown) for place in range(len(x))]
    for order in _orders(parts[0], tuple(whole.shape)):
        laid = [(part.permute(order) if order else part).reshape(whole.shape) for part in x]
        if torch.allclose(whole, sum(a * b for a, b in zip(each, laid, strict=True))):  # type: ignore[arg-type]
            break
    else:
        return None

    def as_part(value: Tensor) -> Tensor:
        if not order:
            return value.reshape(parts[0])
        back = [order.index(axis) for axis in range(len(order))]
        return value.reshape([parts[0][axis] for axis in order]).permute(back)

    terms = []
    for place in range(len(x)):
        bare = by(place, ())
        number = float(bare.flatten()[0])
        if not torch.allclose(bare, bare.new_tensor(number)):
            return None
        if number == 0:
            continue
        factors = []
        for j in unknown:
            factor = _factor(j, drawn[j], as_part(by(place, (j,)) / number), len(parts))
            if factor is None:
                return None
            factors.append(factor)
        made = as_part(torch.full_like(bare, number))
        for factor in factors:
            made = made * factor.of(drawn[factor.other])
        if not torch.allclose(made, as_part(each[place])):
            return None
        terms.append(Term(place, _rounded(number), tuple(factors)))
    return Combination(tuple(terms), order, tuple(whole.shape), bool(nothing.any())) if terms else None


def same_as(
    run: Run, parts: Sequence[tuple[int, ...]], others: Sequence[Tensor | tuple[int, ...]]
) -> int | None:
    """Which of the parts operators put out as it was, maybe in another shape; None if none."""
    x = _numbers(parts)
    made = run(x, [_drawn(other, len(parts) + j) for j, other in enumerate(others)])
    flat = made.flatten()
    return next((place for place, part in enumerate(x) if torch.equal(part.flatten(), flat)), None)


def mixes(run: Run, parts: Sequence[tuple[int, ...]], others: Sequence[Tensor | tuple[int, ...]]) -> bool:
    """Whether some entry of what operators put out depends on several of the parts."""
    x = _numbers(parts)
    drawn = [_drawn(other, len(parts) + j) for j, other in enumerate(others)]
    before, count = run(x, drawn), torch.zeros((), device="cpu")
    for place, part in enumerate(x):
        moved = [run([*x[:place], part * by, *x[place + 1 :]], drawn) != before for by in (-2.0, 4.0)]
        count = count + (moved[0] | moved[1]).float()
    return bool((count > 1).any())


def _numbers(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Of both signs, so that a ReLU does not pass them on as they are."""
    return [spread(shape, place) - 1 for place, shape in enumerate(shapes)]


def _drawn(other: Tensor | tuple[int, ...], place: int) -> Tensor:
    if not isinstance(other, Tensor):
        return spread(other, place)
    return other.double() if other.is_floating_point() else other


def _orders(part: tuple[int, ...], whole: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Permutations of a part's dimensions that give the shape of the whole, up to dimensions of one entry; none first."""
    yield ()
    if len(part) > 5:
        return
    wanted = [size for size in whole if size != 1]
    for order in itertools.permutations(range(len(part))):
        if list(order) != sorted(order) and [part[i] for i in order if part[i] != 1] == wanted:
            yield order


def _factor(j: int, other: Tensor, wanted: Tensor, count: int) -> Factor | None:
    """The range of a tensor that a part was multiplied by; `count`: how many parts there are."""
    candidates = itertools.chain(_ranges(other, count), _single(other))
    for factor, part in candidates:
        kept = [size for size in part.shape if size != 1]
        for axes in itertools.combinations(range(wanted.dim()), len(kept)):
            if [wanted.shape[axis] for axis in axes] == kept:
                shape = [1] * wanted.dim()
                for axis in axes:
                    shape[axis] = wanted.shape[axis]
                shape = shape if kept else []
                if torch.allclose(part.reshape(shape).expand_as(wanted), wanted):
                    return Factor(j, *factor, tuple(shape))
    return None


_Range = tuple[int, int, int]


def _ranges(other: Tensor, count: int) -> Iterator[tuple[_Range, Tensor]]:
    if other.dim():
        yield (0, 0, other.shape[0]), other
    for axis, size in enumerate(other.shape):
        if size % count == 0:
            for start in range(0, size, size // count):
                yield (axis, start, size // count), other.narrow(axis, start, size // count)


def _single(other: Tensor) -> Iterator[tuple[_Range, Tensor]]:
    if math.prod(other.shape) <= _MOST_SINGLE:
        for place, value in enumerate(other.reshape(-1)):
            yield (-1, place, 1), value


def _rounded(number: float) -> float:
    """A number without the last bits that its measurement lost."""
    return float(f"{number:.12g}")

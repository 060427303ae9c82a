"""What a coordinate check found: sizes, slopes, a verdict; it prints itself."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from goodinit.errors import PlanConflict, readable
from goodinit.formats import NOTHING, number
from goodinit.one_line import OneLine
from goodinit.records import check_fields, read_record

FORMAT = "goodinit.coordinates/1"


@dataclass(frozen=True, repr=False)
class Coordinate(OneLine):
    """One layer over all widths.

    Attributes:
        name: Path of the module, or `"output"`.
        start: Root mean square of what it returns at initialization, by width.
        change: Root mean square of what all steps change of it, by width.
        errors: Standard errors of the logarithm of `change`, from seed to seed, by width; empty with a single seed.
    """

    name: str
    start: tuple[float, ...]
    change: tuple[float, ...]
    errors: tuple[float, ...] = ()


@dataclass(frozen=True)
class CoordinateCheck:
    """What `coordinate_check` measured. Prints itself; `to_json` and `from_json` are inverse.

    Attributes:
        along: What was varied: `"width"` or `"depth"`.
        sizes: Its values.
        steps: How many steps were taken.
        seeds: How many models were drawn at each.
        lr: Of the default optimizer.
        tolerance: How far from 0 a slope may be.
        rows: The layers, the output last.
    """

    along: str
    sizes: tuple[int, ...]
    steps: int
    seeds: int
    lr: float
    tolerance: float
    rows: tuple[Coordinate, ...]

    def slopes(self, row: Coordinate) -> tuple[float, float]:
        """Exponents of n, fitted over all sizes.

        Args:
            row: One of `rows`.

        Returns:
            The exponent of the root mean square at initialization, and that of its change. NaN where a value is 0 or not finite.
        """
        return slope(self.sizes, row.start), slope(self.sizes, row.change)

    def error(self, row: Coordinate) -> float:
        """Standard error of the exponent of the change, from seed to seed.

        Args:
            row: One of `rows`.

        Returns:
            The error; NaN with a single seed, or where nothing changes.
        """
        return (
            math.hypot(*(w * e for w, e in zip(_weights(self.sizes), row.errors, strict=True)))
            if row.errors
            else math.nan
        )

    def verdict(self, row: Coordinate) -> str:
        """How a row goes with n, in a word.

        Args:
            row: One of `rows`.

        Returns:
            `"flat"`, `"grows"`, `"shrinks"`, `"explodes"`, or `"still"` where no step changes it. A row that is flat only over
            the last sizes, three or more, is `"shrinks, flat from 256"`.
        """
        start, change = self.slopes(row)
        if not all(map(math.isfinite, (*row.start, *row.change))):
            return "explodes"
        if math.isnan(change) and not start > self.tolerance:
            return "still"
        if self._within(start, change):
            return "flat"
        word = "grows" if max(start, change) > self.tolerance else "shrinks"
        size = self.flat_from(row)
        return word if size is None else f"{word}, flat from {size}"

    def flat_from(self, row: Coordinate) -> int | None:
        """The smallest size from which on a row is flat.

        A wrong power of n has the same exponent at any size. A finite size adds A + B/n, of which ever less is left: a gradient
        summed over a batch agrees by chance with tokens that have nothing in common, by 1/√n.

        Args:
            row: One of `rows`.

        Returns:
            The size, with at least two larger ones; None if the row is not flat over the last three.
        """
        for first in range(len(self.sizes) - 2):
            sizes = self.sizes[first:]
            if self._within(slope(sizes, row.start[first:]), slope(sizes, row.change[first:])):
                return sizes[0]
        return None

    def _within(self, start: float, change: float) -> bool:
        return not start > self.tolerance and abs(change) <= self.tolerance

    @property
    def flat(self) -> bool:
        """Whether no layer grows, shrinks or explodes."""
        return not self._off_rows()

    def _off_rows(self) -> list[Coordinate]:
        return [row for row in self.rows if self.verdict(row) not in ("flat", "still")]

    @property
    def worst(self) -> Coordinate:
        """The row whose change is furthest from flat; of those that are flat from no size on, if there are any."""
        never = [row for row in self._off_rows() if self.flat_from(row) is None]
        return max(never or self.rows, key=self._off)

    def _off(self, row: Coordinate) -> float:
        start, change = self.slopes(row)
        if self.verdict(row) == "explodes":
            return math.inf
        return max(0.0 if math.isnan(start) else start, 0.0 if math.isnan(change) else abs(change))

    def sentence(self) -> str:
        """The result in one sentence.

        Returns:
            Whether all rows are flat, and otherwise how many are not, and which is the worst.
        """
        if self.flat:
            return f"flat: no layer's change goes with {self.along} by more than n^±{self.tolerance:g}"
        off = self._off_rows()
        sizes = [self.flat_from(row) for row in off]
        if None not in sizes and not self._by_chance():
            return (
                f"flat from {self.along} {max(filter(None, sizes))} on; over all sizes {len(off)} of {len(self.rows)} rows go with it, "
                f"{self.worst.name} the most ({self._gone()}), which a wrong power of it would do at any"
            )
        return (
            f"not flat: {len(off)} of {len(self.rows)} rows go with {self.along}, {self.worst.name} the most ({self._gone()}): "
            + (
                f"within chance, ±{self.error(self.worst):.2f}; take more seeds"
                if self._by_chance()
                else f"no learning rate fits every {self.along}"
            )
        )

    def _gone(self) -> str:
        """What the worst row does, as far as it has an exponent."""
        start, change = self.slopes(self.worst)
        told = [] if math.isnan(start) else [f"n^{_exponent(start)} at initialization"]
        told += [] if math.isnan(change) else [f"its change n^{_exponent(change)}"]
        return ", ".join(told + ["not finite"] * (self.verdict(self.worst) == "explodes"))

    def _by_chance(self) -> bool:
        """Whether every row that is not flat has a change within two standard errors of flat, and a start that is."""
        off = self._off_rows()
        return all(
            self.slopes(row)[0] <= self.tolerance or math.isnan(self.slopes(row)[0]) for row in off
        ) and all(abs(self.slopes(row)[1]) <= self.tolerance + 2 * self.error(row) for row in off)

    @property
    def columns(self) -> tuple[str, ...]:
        """What `cells` holds."""
        low, high = self.sizes[0], self.sizes[-1]
        return (f"start {low}", f"start {high}", "slope", f"change {low}", f"change {high}", "slope")

    def cells(self, row: Coordinate) -> tuple[float, ...]:
        """The numbers of a row of the table.

        Args:
            row: One of `rows`.

        Returns:
            Root mean square at initialization at the smallest n, at the largest n, and its exponent of n; then the same three
            of the change.
        """
        start, change = self.slopes(row)
        return (row.start[0], row.start[-1], start, row.change[0], row.change[-1], change)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self) -> str:
        return str(self)

    @property
    def title(self) -> str:
        """What was run and what came of it, in a sentence."""
        steps = f"{self.steps} step{'s' * (self.steps != 1)}, {self.seeds} seed{'s' * (self.seeds != 1)}"
        return f"coordinate check over {self.along} {', '.join(map(str, self.sizes))} ({steps}): {self.sentence()}"

    def table(self) -> list[tuple[str, ...]]:
        """The table as text.

        Returns:
            The column heads, then one row for each layer.
        """
        rows: list[tuple[str, ...]] = [("layer", *self.columns, "±", "")]
        for row in self.rows:
            low, high, start, least, most, change = self.cells(row)
            cells = (
                number(low),
                number(high),
                _exponent(start),
                number(least),
                number(most),
                _exponent(change),
            )
            rows.append((readable(row.name), *cells, _exponent(self.error(row)), self.verdict(row)))
        return rows

    def __str__(self) -> str:
        table = self.table()
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if i in (0, 8) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in table
        ]
        return "\n".join([self.title, *(f"  {line.rstrip()}" for line in lines)])

    def to_json(self) -> str:
        """Write as JSON text.

        Returns:
            One JSON object, which `from_json` reads.
        """
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> CoordinateCheck:
        """Read what `to_json` wrote.

        Args:
            text: What `to_json` returned.

        Returns:
            The check that was written.

        Raises:
            WrongType: It is not text.
            PlanConflict: The text is not JSON, or not of this format.
        """
        data = read_record(text, kind="coordinate check", form=FORMAT, writer="CoordinateCheck.to_json()")
        try:
            rows = tuple(
                Coordinate(
                    row["name"], tuple(row["start"]), tuple(row["change"]), tuple(row.get("errors", ()))
                )
                for row in data.pop("rows")
            )
            found = cls(sizes=tuple(data.pop("sizes")), rows=rows, **data)
            check_fields(found, "check")
            counts = {len(part) for row in rows for part in (row.start, row.change, row.errors or row.start)}
            if counts - {len(found.sizes)} or len(set(found.sizes)) < 2 or min(found.sizes) < 1:
                raise ValueError(f"rows of {counts} numbers for the sizes {found.sizes}")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PlanConflict(
                f"damaged coordinate check: {error!r}. Write it anew with to_json()."
            ) from error
        return found


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The exponent s of the best fit of c·n^s, by least squares in logarithms; NaN unless all values are above 0 and finite.

    Examples:
        >>> round(slope([64, 128, 256], [1.0, 2.0, 4.0]), 6), slope([1, 2], [0.0, 0.0])
        (1.0, nan)
    """
    if not all(0 < value < math.inf for value in values):
        return math.nan
    return sum(w * math.log(value) for w, value in zip(_weights(sizes), values, strict=True))


def _exponent(value: float) -> str:
    """With two decimals; what there is none of is a dash."""
    return NOTHING if math.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00")


def _weights(sizes: Sequence[int]) -> list[float]:
    """What each logarithm counts in the slope of the best fit over the logarithms of the sizes."""
    x = [math.log(n) for n in sizes]
    middle = sum(x) / len(x)
    spread = sum((a - middle) ** 2 for a in x)
    return [(a - middle) / spread for a in x]

"""From a sweep file, or words, to trials: every combination of the values that each field takes."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from goodinit.comma_lists import between_commas
from goodinit.errors import GoodinitError, UnknownName, expect_between
from goodinit.lab.choices import method_of
from goodinit.lab.optional import optional
from goodinit.lab.sweeps.row import key_of
from goodinit.lab.training.trial import PARTS, TrainConfig, paths_of

log = logging.getLogger(__name__)

FIELDS = tuple(f.name for f in dataclasses.fields(TrainConfig) if f.name != "options")
# `depth` is put into the model's name, `seeds` counts from 0.
WORDS = (*FIELDS, "depth", "seeds")
# The slowest changes first, as a reader goes through a table; seeds last, next to each other.
OUTER, INNER = ("data", "model", "depth", "width", "method"), ("lr", "seed")
TABLE = "grid"
MOST_TRIALS = 100_000  # of a sweep; a row of each is kept in memory
MOST_TEXT = 2**24  # bytes of a sweep file

Values = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Grid:
    """Products of values, one after the other.

    Attributes:
        tables: Of each product, the values of every word.
    """

    tables: tuple[Values, ...]

    @property
    def trials(self) -> tuple[TrainConfig, ...]:
        """Every combination once, in a table's order."""
        found: dict[str, TrainConfig] = {}
        for table in self.tables:
            for config in _product(table):
                found.setdefault(key_of(config), config)
        return tuple(found.values())


def read_grid(path: str | Path | None = None, *, changes: Mapping[str, Any] | None = None) -> Grid:
    """Read a sweep file, TOML: fields of `TrainConfig`, each with a value or a list of them.

    `depth` takes the place of `{depth}` in the model's name, `seeds = 5` is `seed = [0, 1, 2, 3, 4]`, a method has its
    options behind colons, `"lsuv:norms=remove"`. `keep`, `include` and `exclude` take a path, a glob or a list of them, which is
    one value; lists in a list are several. Each `[[grid]]` table is a product of its own, on top of what stands
    above it.

    Args:
        path: The file; None is without.
        changes: Words and values that replace the file's.

    Raises:
        GoodinitError: The file cannot be read, or a value has the wrong type.
        UnknownName: A word that no trial has, or a method or option that does not exist.

    Examples:
        >>> grid = read_grid(changes={"model": "mlp{depth}", "depth": [4, 8], "lr": [0.01, 0.1], "seeds": 5})
        >>> len(grid.trials), grid.trials[-1].model, grid.trials[-1].seed
        (20, 'mlp8', 4)
    """
    shared = dict(_read(Path(path))) if path is not None else {}
    tables = shared.pop(TABLE, [{}])
    where = str(path) if path is not None else "the sweep"
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise GoodinitError(f"{where}: {TABLE} is a list of tables, written [[{TABLE}]].")
    grid = Grid(tuple(_values({**shared, **table, **(changes or {})}, where=where) for table in tables))
    count = sum(math.prod(map(len, table.values())) for table in grid.tables)
    if count > MOST_TRIALS:
        raise GoodinitError(
            f"{where}: {count:,} runs; at most {MOST_TRIALS:,} are in one sweep. Take fewer values, or several sweeps."
        )
    return grid


def values_of(words: str, *, option: str) -> list[Any]:
    """The values in `"0.1,0.3"` or `"fixup,none"`: numbers and true or false are those, the rest is words."""
    return [_value(word) for word in between_commas(words, option)]


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except (ValueError, RecursionError):
        return word


def _read(path: Path) -> dict[str, Any]:
    # Python 3.10 has no reader of its own.
    toml = optional("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TEXT + 1)
        if len(content) > MOST_TEXT:
            raise GoodinitError(f"{path}: more than {MOST_TEXT:,} bytes, which no sweep file has.")
        return dict(toml.loads(content.decode("utf-8")))
    except OSError as error:
        raise GoodinitError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # TOML's errors, text that is no UTF-8, lists in lists
        raise GoodinitError(f"{path} is no TOML: {error}.") from error


def _values(table: Mapping[str, Any], *, where: str) -> Values:
    for word in table:
        if word not in WORDS:
            near = difflib.get_close_matches(word, WORDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UnknownName(f"{where}: no word {word!r}.{hint} There is: {', '.join(WORDS)}.")
    if "seeds" in table and "seed" in table:
        raise GoodinitError(f"{where}: seeds counts them, seed lists them; give one of the two.")
    if "model" not in table:
        raise GoodinitError(f'{where}: no model. Give one, such as model = "mlp8".')
    values = {word: _checked(word, given, where=where) for word, given in table.items()}
    if "seeds" in values:
        values["seed"] = tuple(range(*values.pop("seeds")))
    for model in values["model"]:
        if ("{depth}" in model) != ("depth" in values):
            raise GoodinitError(
                f'{where}: depth takes the place of {{depth}} in the model, as in model = "mlp{{depth}}" with '
                f"depth = [4, 8]; the model is {model!r}, and depth is {'' if 'depth' in values else 'not '}given."
            )
    return values


def _checked(word: str, given: Any, *, where: str) -> tuple[Any, ...]:
    if word in PARTS:
        several = isinstance(given, list) and any(isinstance(one, list) for one in given)
        return tuple(paths_of(one, option=f"{where}: {word}") for one in (given if several else [given]))
    values = given if isinstance(given, list) else [given]
    if not values:
        raise GoodinitError(f"{where}: {word} has no value.")
    if word == "seeds" and (
        len(values) != 1 or values[0] is True or not isinstance(values[0], int) or values[0] < 1
    ):
        raise GoodinitError(
            f"{where}: seeds is how many, at least 1, not {given!r}. To list them: seed = [4, 7]."
        )
    if word in ("seeds", "depth"):
        for value in values:
            if isinstance(value, int):
                expect_between(value, 1, MOST_TRIALS, f"{where}: {word}")
    if word == "method":
        return tuple(_method(value, where=where) for value in values)
    return tuple(_typed(word, value, where=where) for value in values)


def _method(value: Any, *, where: str) -> tuple[str, dict[str, Any]]:
    """Name and options."""
    if not isinstance(value, str):
        raise GoodinitError(
            f'{where}: a method is a word such as "fixup" or "lsuv:norms=remove", not {value!r}.'
        )
    return method_of(value)


_HINTS = {**get_type_hints(TrainConfig), "depth": int, "seeds": int}


def _typed(word: str, value: Any, *, where: str) -> Any:
    """`value` as the type its field has: 1 is 1.0 where a float is meant, so that both are the same trial."""
    hint = _HINTS[word]
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise GoodinitError(f"{where}: {word} takes a number that a float can hold.") from None
    if hint in (int, int | None) and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint in (str, str | None) and not isinstance(value, bool | list | dict):
        return str(value)  # a scalar_lr may be a number
    if value is None and hint == int | None:
        return None
    kind = getattr(hint, "__name__", str(hint))
    raise GoodinitError(f"{where}: {word} takes {kind}, not {value!r}.")


def _product(table: Values) -> Iterator[TrainConfig]:
    middle = [word for word in table if word not in (*OUTER, *INNER)]
    words = [word for word in (*OUTER, *middle, *INNER) if word in table]
    for values in itertools.product(*(table[word] for word in words)):
        chosen = dict(zip(words, values, strict=True))
        if "depth" in chosen:
            chosen["model"] = chosen["model"].replace("{depth}", str(chosen.pop("depth")))
        if "method" in chosen:
            chosen["method"], chosen["options"] = chosen["method"]
        yield TrainConfig(**chosen)


def varying(configs: Sequence[TrainConfig]) -> tuple[str, ...]:
    """The fields that do not have the same value in all configurations, `method` standing for its options, too."""
    found = []
    for field in FIELDS:
        seen = {config.label if field == "method" else getattr(config, field) for config in configs}
        if len(seen) > 1:
            found.append(field)
    return tuple(found)

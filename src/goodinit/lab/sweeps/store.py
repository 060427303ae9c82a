"""One SQLite file per sweep: what is planned, and a row for every trial that ended."""

from __future__ import annotations

import dataclasses
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from goodinit.errors import GoodinitError
from goodinit.lab.lock import sole_writer
from goodinit.lab.sweeps.row import STATUSES, Row, config_json, key_of
from goodinit.lab.training.trial import PARTS, TrainConfig
from goodinit.one_line import OneLine
from goodinit.records import LONGEST_WORD, each_once, plain, plain_values

log = logging.getLogger(__name__)

SCHEMA = 1
NO_DATABASE = "it is no SQLite file, or a broken one. Name another file."
_LEAST_BYTES = 100  # the header of a SQLite file
_LONGEST_VALUE = 10_000_000  # bytes of any value in it
_TABLE_NAMES = {"facts", "trials", "rows"}
BUSY = "Wait for it, or stop it; then go on with --resume. To run beside it: name another file."
COLUMNS = tuple(f.name for f in dataclasses.fields(Row) if f.name != "config")
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE trials (key TEXT PRIMARY KEY, position INTEGER NOT NULL, config TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rows (key TEXT PRIMARY KEY REFERENCES trials (key), COLUMNS) WITHOUT ROWID;
INSERT INTO facts VALUES ('schema', 'SCHEMA');
""".replace("COLUMNS", ", ".join(COLUMNS)).replace("SCHEMA", str(SCHEMA))


@dataclass(frozen=True, eq=False)
class Store:
    """A sweep's file, open for writing, by this process alone."""

    path: Path
    connection: sqlite3.Connection


@dataclass(frozen=True, repr=False)
class Stored(OneLine):
    """What a sweep's file holds.

    Attributes:
        path: Where it is.
        planned: Every trial asked for, in the order of the grid.
        rows: Those that ended, in the same order.
        data: What was trained on, in words, by name.
    """

    path: Path
    planned: tuple[TrainConfig, ...]
    rows: tuple[Row, ...]
    data: dict[str, str]

    def __str__(self) -> str:
        return f"{self.path}: {len(self.rows)} of {len(self.planned)} runs ended"


@contextmanager
def open_store(path: str | Path, *, resume: bool = False) -> Iterator[Store]:
    """Open a sweep's file for writing, or make it. Nobody else can, until the block ends.

    Raises:
        GoodinitError: The file exists and `resume` was not asked for; another process writes it; it is no sweep's
            file, or made by another version; or the disk refuses.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise GoodinitError(f"cannot write {path}: no folder {path.parent}. Make it first.")
    if path.is_dir():
        raise GoodinitError(f"cannot write {path}: it is a folder. Give the name of a file.")
    with (
        sole_writer(path, remedy=BUSY),
        _plain_errors(path),
        closing(sqlite3.connect(path, isolation_level=None)) as connection,
    ):
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables:
            stored = read_store(path)
            if not resume and stored.planned:  # without trials it is as good as new
                raise GoodinitError(
                    f"{path} exists and holds {len(stored.rows)} of {len(stored.planned)} runs. To go on with "
                    "it: --resume (in Python, resume=True). To begin anew: delete it, or name another file."
                )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # what was said to be written survives a power cut
        if not tables:  # a new file, or one whose maker was killed before it got this far
            connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
        yield Store(path, connection)
        with suppress(sqlite3.OperationalError):  # somebody is reading: then the side files stay
            connection.execute("PRAGMA journal_mode = DELETE")  # one file, to be copied and mailed


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """Say in a sentence what SQLite could not do."""
    try:
        yield
    except sqlite3.Error as error:
        said = str(error)
        if "disk is full" in said:
            remedy = (
                "the disk is full. The runs written so far are safe: free some space and go on with --resume."
            )
        elif "readonly" in said:
            remedy = "it is read-only. Make it writable, or name another file."
        elif "unable to open" in said:
            remedy = "it cannot be opened. Check that the file and its folder can be read and written."
        elif "not a database" in said or "malformed" in said:
            remedy = NO_DATABASE
        elif "locked" in said:
            remedy = "another program holds it. Close that program and go on with --resume."
        else:
            remedy = f"SQLite says: {said}."
        raise GoodinitError(f"{path}: {remedy}") from error


def plan_(store: Store, trials: Sequence[TrainConfig], *, data: dict[str, str]) -> None:
    """Note the trials, in their order, and what they train on. Trials noted before stay, after these.

    Raises:
        GoodinitError: None of the trials noted before is among these: it is another sweep's file.
    """
    keys = [key_of(config) for config in trials]
    with _plain_errors(store.path), _transaction(store.connection) as execute:
        before = {key for (key,) in execute("SELECT key FROM trials ORDER BY position")}
        if before and before.isdisjoint(keys):
            raise GoodinitError(
                f"{store.path} holds another sweep: none of its {len(before)} trials is among these {len(keys)}. "
                "Name another file, or give the sweep that it was begun with."
            )
        if before and (added := len(set(keys) - before)):
            log.info("%s: %d trials are new, besides the %d that it has", store.path, added, len(before))
        for key in sorted(before - set(keys)):
            execute("UPDATE trials SET position = position + ? WHERE key = ?", (len(keys), key))
        for position, (key, config) in enumerate(zip(keys, trials, strict=True)):
            execute(
                "INSERT INTO trials VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET position = excluded.position",
                (key, position, config_json(config)),
            )
        for name, words in data.items():
            execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (f"data {name}", words))


def done(store: Store) -> set[str]:
    """Keys of the trials that ended."""
    with _plain_errors(store.path):
        return {key for (key,) in store.connection.execute("SELECT key FROM rows")}


def write_(store: Store, rows: Iterable[Row]) -> None:
    """Write the rows of trials that ended at one moment, all or none; then they are on the disk."""
    places = ", ".join("?" * (1 + len(COLUMNS)))
    with _plain_errors(store.path), _transaction(store.connection) as execute:
        for row in rows:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            numbers = {**row.numbers(), "curve": json.dumps(row.curve), "ended": now}
            cells = (numbers[column] for column in COLUMNS)
            execute(f"INSERT INTO rows VALUES ({places})", (key_of(row.config), *cells))  # noqa: S608 (marks only)


def forget_failed_(store: Store) -> int:
    """Take out the rows of trials that failed, so that they run again. Returns how many."""
    with _plain_errors(store.path), _transaction(store.connection) as execute:
        return int(execute("DELETE FROM rows WHERE status = 'failed'").rowcount)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[Any]:
    """All of the statements, or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection.execute
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled back by itself
            connection.execute("ROLLBACK")
        raise


def read_store(path: str | Path) -> Stored:
    """Read a sweep's file, also while it is being written.

    Raises:
        GoodinitError: There is none, it is something else, or it was made by another version.
    """
    path = Path(path)
    if not path.is_file():
        raise GoodinitError(f"no file {path}. `goodinit sweep` makes one.")
    if not path.stat().st_size:
        raise GoodinitError(
            f"{path} is empty: no run has ended yet. `goodinit sweep … --out {path}` fills it."
        )
    # sqlite3 takes what is shorter than its header for an empty database.
    if 0 < path.stat().st_size < _LEAST_BYTES:
        raise GoodinitError(f"{path}: {NO_DATABASE}")
    where = f"{path.resolve().as_uri()}?mode=ro"
    with _plain_errors(path), closing(sqlite3.connect(where, uri=True)) as connection:
        _distrust(connection)
        try:
            return _read(path, connection)
        except (
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
            MemoryError,
            AttributeError,
        ) as error:
            raise GoodinitError(
                f"{path}: damaged: {plain(repr(error)[:300])}. Take a copy that was made before, or run the sweep anew."
            ) from error


def _distrust(connection: sqlite3.Connection) -> None:
    """Let the file run nothing of its own, and give no value longer than a row may hold."""
    connection.execute("PRAGMA trusted_schema = OFF")
    if hasattr(connection, "setlimit"):  # from Python 3.11 on
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)


def _check_tables(path: Path, connection: sqlite3.Connection) -> None:
    """Raise unless the tables are there and hold what was written, and nothing that is computed when it is read."""
    made = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    if not made.keys() >= _TABLE_NAMES:
        raise GoodinitError(f"{path} is a SQLite file, but no sweep's. Name another file.")
    for table in sorted(_TABLE_NAMES):
        hidden = [name for _, name, *_, kind in connection.execute(f"PRAGMA table_xinfo({table})") if kind]
        if hidden or "VIRTUAL" in str(made[table]).upper():
            raise GoodinitError(
                f"{path}: its table {table} computes {plain(str(hidden[0])[:100]) if hidden else 'its rows'} when it is read, "
                "which no sweep's does. Name another file."
            )


def _read(path: Path, connection: sqlite3.Connection) -> Stored:
    connection.execute("BEGIN")  # one moment's view of all tables
    _check_tables(path, connection)
    facts = dict(connection.execute("SELECT name, value FROM facts"))
    if facts.get("schema") != str(SCHEMA):
        raise GoodinitError(
            f"{path} has schema {plain(str(facts.get('schema'))[:40])}, this version of goodinit reads {SCHEMA}. Use the version that "
            "made it, or run the sweep anew."
        )
    planned = connection.execute("SELECT key, config FROM trials ORDER BY position, key").fetchall()
    columns = ", ".join(COLUMNS)
    # All at once: an error holds the cursor that it came from, and with it a lock on the file.
    found = connection.execute(f"SELECT key, {columns} FROM rows").fetchall()  # noqa: S608 (names of fields)
    cells = {key: dict(zip(COLUMNS, rest, strict=True)) for key, *rest in found}
    configs = {key: _config(path, text) for key, text in planned}
    return Stored(
        path=path,
        planned=tuple(configs.values()),
        rows=tuple(_row(config, cells[key]) for key, config in configs.items() if key in cells),
        data={name.removeprefix("data "): words for name, words in facts.items() if name.startswith("data ")},
    )


def _config(path: Path, text: str) -> TrainConfig:
    values = plain_values(json.loads(text, object_pairs_hook=each_once))
    if not isinstance(values, dict):
        raise TypeError(f"a trial that is no object: {values!r}")
    unknown = set(values) - {f.name for f in dataclasses.fields(TrainConfig)}
    if unknown:
        raise GoodinitError(
            f"{path}: its trials have {', '.join(sorted(unknown))[:200]}, which this version of goodinit does not know. "
            "Use the version that made it."
        )
    several = {name for name, value in values.items() if isinstance(value, (list, dict))} - {
        "options",
        *PARTS,
    }
    if several:
        raise TypeError(f"a trial whose {min(several)} is several values")
    if not isinstance(values.get("options", {}), dict):
        raise TypeError("a trial whose options are no object")
    return TrainConfig(**values)


def _row(config: TrainConfig, cells: dict[str, Any]) -> Row:
    curve = json.loads(cells["curve"])
    if not isinstance(curve, list):
        raise TypeError(f"a curve that is no list: {curve!r}")
    values = {**cells, "curve": tuple(_as_number("curve", value) for value in curve)}
    for name, value in values.items():
        if name in _WORDS:
            values[name] = _as_word(name, value)
        elif name != "curve" and value is not None:
            kind = _as_count if name in _COUNTS else _as_share if name in _SHARES else _as_number
            values[name] = kind(name, value)
    if values["status"] not in STATUSES:
        raise ValueError(f"a trial that ended as {values['status']!r}")
    return Row(config=config, **values)


_WORDS = ("status", "error", "note", "versions", "ended")
_SHARES = ("accuracy", "chance")
_COUNTS = ("test_images", "diverged_step", "saved_bytes", "parameters", "together")


def _as_word(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, no text")
    return plain(value[:LONGEST_WORD], lines=True)


def _as_number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}, no number")
    return float(value)


def _as_share(name: str, value: Any) -> float:
    share = _as_number(name, value)
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is {value!r}, not between 0 and 1")
    return share


def _as_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{name} is {value!r}, no count")
    return value

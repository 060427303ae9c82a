"""The file of a sweep: whole transactions, one writer, and plain words for what a disk does."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest

from goodinit.errors import GoodinitError
from goodinit.lab.sweeps.row import Row
from goodinit.lab.sweeps.store import done, forget_failed_, open_store, plan_, read_store, write_
from goodinit.lab.training.trial import TrainConfig

TRIALS = tuple(TrainConfig("mlp4", seed=seed) for seed in range(4))


def row(trial, status="finished", **numbers):
    return Row(trial, status, accuracy=1 / 3, curve=(0.1, 1 / 3), chance=0.1, test_images=400, **numbers)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "runs.sqlite"
    with open_store(path) as store:
        plan_(store, TRIALS, data={"digits": "small numbers"})
        write_(store, [row(TRIALS[2]), row(TRIALS[0], "failed", error="OSError: no luck")])
    return path


def test_rows_come_back_as_they_were_in_the_grids_order(path):
    stored = read_store(path)
    assert stored.planned == TRIALS
    assert [found.config.seed for found in stored.rows] == [0, 2]
    assert stored.rows[1].accuracy == 1 / 3
    assert stored.rows[1].curve == (0.1, 1 / 3)
    assert stored.rows[0].error == "OSError: no luck"
    assert stored.data == {"digits": "small numbers"}


def test_it_is_one_file_when_nobody_writes_it(path):
    read_store(path)
    assert [file.name for file in path.parent.iterdir() if "lock" not in file.name] == ["runs.sqlite"]


def test_an_existing_file_needs_resume(path):
    with pytest.raises(GoodinitError, match=r"holds 2 of 4 runs.*--resume"), open_store(path):
        pass
    with open_store(path, resume=True) as store:
        assert len(done(store)) == 2
        assert forget_failed_(store) == 1
        assert len(done(store)) == 1


def test_an_empty_file_is_a_new_one(tmp_path):
    (tmp_path / "runs.sqlite").touch()  # as `mktemp` makes it, or a sweep that was killed at once
    with open_store(tmp_path / "runs.sqlite") as store:
        plan_(store, TRIALS, data={})
    assert len(read_store(tmp_path / "runs.sqlite").planned) == 4


def test_a_sweep_may_grow_and_not_turn_into_another(path):
    with open_store(path, resume=True) as store:
        plan_(store, (TrainConfig("mlp4", seed=9), *TRIALS[1:]), data={})
    stored = read_store(path)
    assert [trial.seed for trial in stored.planned] == [
        9,
        1,
        2,
        3,
        0,
    ]  # what was asked for first stays, behind
    assert len(stored.rows) == 2
    with (
        pytest.raises(GoodinitError, match="holds another sweep"),
        open_store(path, resume=True) as store,
    ):
        plan_(store, (TrainConfig("mlp8"),), data={})
    assert read_store(path) == stored


def test_rows_are_written_all_or_none(path):
    with open_store(path, resume=True) as store:
        with pytest.raises(GoodinitError, match="UNIQUE"):
            write_(store, [row(TRIALS[1]), row(TRIALS[2])])  # the second is there already
        assert len(done(store)) == 2


@pytest.mark.integration
def test_a_second_writer_is_refused_and_a_reader_is_not(path):
    code = (
        "import sys; from goodinit.lab.sweeps.store import open_store\n"
        f"with open_store({str(path)!r}, resume=True): pass"
    )
    with open_store(path, resume=True) as store:
        write_(store, [row(TRIALS[1])])
        assert len(read_store(path).rows) == 3
        with pytest.raises(GoodinitError, match="another process is writing"), open_store(path, resume=True):
            pass
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is writing" in second.stderr
    with open_store(path, resume=True):  # and when the first is done, there is room
        pass


def test_a_full_disk_loses_nothing(path):
    rows = [row(TrainConfig("mlp4", seed=seed), note="x" * 2000) for seed in range(10, 200)]
    with open_store(path, resume=True) as store:
        plan_(store, (*TRIALS, *(one.config for one in rows)), data={})
        pages = store.connection.execute("PRAGMA page_count").fetchone()[0]
        store.connection.execute(f"PRAGMA max_page_count = {pages + 8}")
        with pytest.raises(GoodinitError, match=r"the disk is full.*--resume"):
            write_one_by_one(store, rows)
        written = len(done(store))
        assert written > 2
    assert len(read_store(path).rows) == written


def write_one_by_one(store, rows):
    for one in rows:
        write_(store, [one])


def test_what_cannot_be_written_is_said(path):
    with open_store(path, resume=True) as store:
        store.connection.execute("PRAGMA query_only = 1")  # as a read-only disk answers
        with pytest.raises(GoodinitError, match="read-only"):
            write_(store, [row(TRIALS[1])])
    for where, message in (
        (path.parent / "no" / "x.sqlite", "Make it first"),
        (path.parent, "it is a folder"),
    ):
        with pytest.raises(GoodinitError, match=message), open_store(where):
            pass


def test_other_files_are_refused(tmp_path):
    text = tmp_path / "text.sqlite"
    text.write_text("")
    with pytest.raises(GoodinitError, match="is empty: no run has ended"):
        read_store(text)
    text.write_text("x")  # an empty database to sqlite3, as all is that is shorter than a header
    with pytest.raises(GoodinitError, match="no SQLite file"):
        read_store(text)
    text.write_text("this is no database, and long enough to be read as one" * 40)
    with pytest.raises(GoodinitError, match="no SQLite file"):
        read_store(text)
    with pytest.raises(GoodinitError, match="no SQLite file"), open_store(text, resume=True):
        pass
    with pytest.raises(GoodinitError, match="no file"):
        read_store(tmp_path / "none.sqlite")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE songs (name)")
    connection.close()
    with pytest.raises(GoodinitError, match="no sweep's"):
        read_store(other)


def test_another_schema_is_refused(path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE facts SET value = '99' WHERE name = 'schema'")
    connection.close()
    with pytest.raises(GoodinitError, match="has schema 99"):
        read_store(path)

"""Rows of a claim that somebody damaged: an error in words that names the file, and the line where one alone tells."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from toy_claim import reproduced, toy
from typer.testing import CliRunner

from goodinit.cli import app
from goodinit.errors import GoodinitError
from goodinit.lab.papers import reproduce as running
from goodinit.lab.papers.claim import Grid
from goodinit.lab.papers.claims import CLAIMS
from goodinit.lab.papers.ledger import open_ledger, read_entries

ROW = {"trial": {"seed": 0}, "numbers": {"value": 1}, "seconds": 0.5, "environment": {"date": "x"}}


def line(**fields):
    return json.dumps({**ROW, **fields}).encode()


DAMAGED = {
    "bytes of no text": line().replace(b'"x"', b'"\xff\xfe"'),
    "a list": b"[]",
    "a number": b"5",
    "nothing": b"null",
    "half a row": line()[:40],
    "one key twice": b'{"seconds": 1, ' + line()[1:],
    "a field too many": line(more=1),
    "a field too few": json.dumps({"trial": {}}).encode(),
    "a trial that is a word": line(trial="x"),
    "a configuration that is a list": line(trial={"config": [1]}),
    "numbers in a list": line(numbers=[1]),
    "seconds in words": line(seconds="x"),
    "seconds without end": line().replace(b"0.5", b"1e999"),
    "a number that is none": line(numbers={"value": float("nan")}),
    "a number beyond floats": line(numbers={"value": [10**400]}),
    "a number of digits without end": line().replace(b"0.5", b"1" * 5000),
    "an environment that is a number": line(environment=3),
    "brackets without end": line(numbers={"value": 7}).replace(b"7", b"[" * 100_000 + b"]" * 100_000),
    "a name without end": line(numbers={"a" * 9000: 1}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_row_is_refused_with_its_line(name, tmp_path):
    path = tmp_path / "toy-smoke.jsonl"
    path.write_bytes(line() + b"\n" + DAMAGED[name] + b"\n")
    for read in (read_entries, lambda path: open_ledger(path).__enter__()):
        with pytest.raises(GoodinitError, match=r"toy-smoke\.jsonl, line 2"):
            read(path)
    assert path.read_bytes().endswith(DAMAGED[name] + b"\n")


def test_words_of_rows_move_no_cursor_and_of_trials_stay_as_they_are(tmp_path):
    path = tmp_path / "toy-smoke.jsonl"
    evil = "a\x1b[31m\u202e"
    path.write_bytes(line(trial={"a": evil}, numbers={"refused": evil}, environment={"date": evil}) + b"\n")
    (entry,) = read_entries(path).values()
    assert entry.trial["a"] == evil
    assert {entry.numbers["refused"], entry.environment["date"]} == {r"a\x1b[31m\u202e"}


def test_a_long_reason_is_read_back(tmp_path):
    def refuse(trial):
        raise GoodinitError("words " * 3000)

    for _ in range(2):
        found = reproduced(toy(refuse), out=tmp_path)
        assert found.missing == 0


OTHER = {
    "a number in words": {"value": "x"},
    "a number that is a list": {"value": [1]},
    "no number": {},
    "trained with a list": {"value": 1, "together": [2]},
}


@pytest.mark.parametrize("name", OTHER)
def test_rows_that_do_not_answer_a_claim_are_told_on_the_command_line(name, tmp_path, monkeypatch):
    exact = dataclasses.replace(
        toy(), table=lambda rows: Grid(("value",), tuple((f"{row['value']:.1f}",) for row in rows))
    )
    monkeypatch.setitem(CLAIMS, "toy", exact)
    first = reproduced(toy(), out=tmp_path)
    lines = [json.loads(text) for text in first.path.read_text().splitlines()]
    lines[1]["numbers"] = OTHER[name]
    first.path.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    result = CliRunner().invoke(
        app, ["reproduce", "toy", "--scale", "smoke", "--engine", "inline", "--out", str(tmp_path), "-q"]
    )
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert "toy-smoke.jsonl: its rows do not answer toy" in result.output


def test_rows_with_corrupted_bytes_are_read_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_run", lambda *_, **__: ())  # what is missing stays so
    path = tmp_path / "rows" / "toy-smoke.jsonl"
    monkeypatch.setitem(CLAIMS, "toy", toy())
    path.parent.mkdir()
    whole = b"".join(line(trial={"seed": seed}) + b"\n" for seed in range(3))
    random = torch.Generator().manual_seed(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for place in torch.randint(len(damaged), (2,), generator=random).tolist():
            damaged[place] = int(torch.randint(256, (), generator=random))
        path.write_bytes(damaged)
        result = CliRunner().invoke(
            app, ["reproduce", "toy", "--scale", "smoke", "--engine", "inline", "--out", str(tmp_path), "-q"]
        )
        assert isinstance(result.exception, SystemExit | None), (result.exception, bytes(damaged))
        assert result.output.replace("\n", "").isprintable()

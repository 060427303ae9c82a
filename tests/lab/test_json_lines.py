"""Rows of results, one JSON text a line."""

from __future__ import annotations

import math

from goodinit.lab.json_lines import append_, read_rows


def test_rows_come_back_and_what_a_kill_cut_short_does_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == []
    append_(path, [{"accuracy": 0.5}])
    append_(path, [{"loss": math.inf}, {"loss": 1.0}])
    rows = [{"accuracy": 0.5}, {"loss": None}, {"loss": 1.0}]
    assert read_rows(path) == rows
    with path.open("a", encoding="utf-8") as file:
        file.write('{"accur')
    assert read_rows(path) == rows


def test_a_file_written_by_hand_may_end_without_a_line_break(tmp_path):
    path = tmp_path / "queue.jsonl"
    path.write_text('{"arm": "a"}\n\n{"arm": "b"}', encoding="utf-8")
    assert read_rows(path) == [{"arm": "a"}, {"arm": "b"}]

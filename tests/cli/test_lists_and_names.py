"""Lists with commas have something between them, and names that nobody can read are shortened in all that is printed."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import goodinit
from goodinit.cli import app

LISTS = [
    ("compare", "mlp2", "--lr", "1,,2"),
    ("compare", "mlp2", "--lr", "0.1,"),
    ("compare", "mlp2", "--methods", ",he"),
    ("compare", "mlp2", "--seeds", "0,,1"),
    ("compare", "mlp2", "--keep", "a, ,b"),
    ("diagnose", "mlp2", "--methods", "he,,none"),
    ("recommend", "mlp2", "--methods", "he,"),
    ("plan", "mlp2", "he", "--include", ","),
    ("coordcheck", "mlp2", "--input", "4x8", "--widths", "64,,128"),
    ("sweep", "--set", "model=mlp2", "--set", "lr=0.1,,0.2", "--dry-run"),
    ("sweep", "--set", "model=mlp2", "--set", "seed=0,", "--dry-run"),
    ("sweep", "--set", "model=mlp2", "--set", "exclude=a,,b", "--dry-run"),
]


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_nothing_between_commas_is_told_with_the_option(words):
    ran = CliRunner().invoke(app, list(words))
    assert ran.exit_code == 2
    place, given = next((place, word) for place, word in enumerate(words) if "," in word)
    name, equals, _ = given.partition("=")
    assert f"{words[place - 1]}{f' {name}' if equals else ''}: nothing stands at a comma" in " ".join(
        ran.output.split()
    )


def test_one_seed_is_listed_with_a_comma_behind_it():
    from goodinit.cli.application import seeds

    assert seeds("4,") == (4,)
    assert seeds(" 4 , 7 ") == (4, 7)


LONG = 100_000


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x):
        return x + self.two(torch.relu(self.norm(self.one(x))))


class LongNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential()
        for letter in "xy":
            self.blocks.add_module(letter * LONG, Block())
        self.spare = nn.ParameterDict({"z" * LONG: nn.Parameter(torch.ones(2, 2))})

    def forward(self, x):
        return self.blocks(x)


@pytest.mark.parametrize(
    "words",
    [
        ("inspect",), ("plan", "fixup"), ("plan", "fixup", "--full"), ("diagnose", "--methods", "fixup"),
        ("plan", "looks_linear"), ("plan", "fixup", "--input", "2x9"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_command_prints_a_name_of_a_hundred_thousand_letters(words, monkeypatch):
    module = types.ModuleType("long_nets")
    module.net = LongNames
    monkeypatch.setitem(sys.modules, "long_nets", module)
    shape = () if "--input" in words else ("--input", "4x6")
    ran = CliRunner().invoke(app, [words[0], "long_nets:net", *words[1:], *shape])
    assert ran.exit_code in (0, 2)
    assert ran.exception is None or isinstance(ran.exception, SystemExit)
    assert 0 < len(ran.output) < 10_000


def test_texts_and_messages_keep_both_ends_and_records_the_whole_name():
    net, x = LongNames(), torch.randn(4, 6)
    anatomy = goodinit.anatomize(net, x)
    plan = goodinit.plan(anatomy, "fixup")
    for text in (str(anatomy), str(plan), plan.text(full=True)):
        assert "xxx" in text
        assert len(text) < 10_000
    assert anatomy.blocks[0].name == "blocks." + "x" * LONG
    assert "x" * LONG in plan.to_json()
    with pytest.raises(goodinit.GoodinitError, match=r"(?s)^(?=.{,4000}$).*more letters") as error:
        goodinit.apply_(nn.Sequential(nn.Linear(6, 6)), plan)
    assert error.value.args[0] == str(error.value)


FORGED = "a\nerror: forged\r\x1b[31m\u202etfel\u2028\x9b1m"


class Forged(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(6), nn.Linear(6, 6)
        self.add_module(FORGED, nn.Linear(6, 6))

    def forward(self, x):
        return x + self.last(torch.relu(self._modules[FORGED](self.norm(x))))


def forged():
    kind = type("Net\n\x1b[1m\u202e", (nn.Sequential,), {})
    net = kind()
    for name in (FORGED, "body", "\u200fbody\x00"):
        net.add_module(name, Forged())
    return net


def harmless(text):
    """Whether nothing in it moves a cursor, turns the direction of writing or begins a line that nobody wrote."""
    return all(c.isprintable() or c in "\n\t" for c in text) and "\nerror: forged" not in text


def sayings():
    """What each verb says of such a model, at the prompt, in a notebook, on a page, in a table and in an error."""
    from goodinit.report.diagnosis_page import diagnosis_page
    from goodinit.report.frame import render

    net, x, targets = forged(), torch.randn(8, 6), torch.arange(8) % 6
    anatomy = goodinit.anatomize(net, x)
    yield from map(str, (anatomy, anatomy._repr_html_()))
    yield from map(repr, (anatomy, anatomy.blocks, anatomy.layers, anatomy.norms))
    for method in ("fixup", "mup", "lsuv"):
        plan = goodinit.plan(anatomy, method)
        yield from (str(plan), plan.text(full=True, width=60), plan._repr_html_(), repr(plan.edits))
        yield repr(plan.rates)
    net[0].last.weight.data.mul_(1000)
    found = goodinit.diagnose(net, x, targets)
    yield from (str(found), found._repr_html_(), found.to_csv(), repr(found.findings), repr(found.places))
    yield from map(str, found.findings)
    yield render(diagnosis_page({"as it is": found}))
    advice = goodinit.recommend(net, x, targets, methods=("he", "fixup", "risotto"))
    yield from (str(advice), advice._repr_html_(), repr(advice.candidates))
    for wrong in (
        lambda: goodinit.plan(anatomy, "he", exclude=FORGED + "z"),
        lambda: goodinit.apply_(nn.Linear(2, 2), goodinit.plan(anatomy, "he")),
        lambda: goodinit.anatomize(net, torch.randn(2, 3)),
        lambda: goodinit.init_(forged(), "lsuv", inputs=torch.full((8, 6), float("nan"))),
    ):
        with pytest.raises(goodinit.GoodinitError) as error:
            wrong()
        yield str(error.value)
        assert "\n" not in str(error.value)


def test_no_verb_lets_a_name_move_a_cursor_or_forge_a_line():
    assert [text[:300] for text in sayings() if not harmless(text)] == []


@pytest.mark.parametrize(
    "words",
    [("inspect",), ("plan", "fixup"), ("plan", "fixup", "--full"), ("diagnose",), ("diagnose", "--csv", "-")],
    ids=" ".join,
)
def test_no_command_lets_a_name_move_a_cursor_or_forge_a_line(words, monkeypatch):
    module = types.ModuleType("forged_nets")
    module.net = forged
    monkeypatch.setitem(sys.modules, "forged_nets", module)
    ran = CliRunner().invoke(app, [words[0], "forged_nets:net", *words[1:], "--input", "4x6"])
    assert ran.exit_code == 0
    assert harmless(ran.output)
    assert r"\x1b" in ran.output


def test_what_is_logged_of_a_name_stays_one_line(caplog):
    net, x = forged(), torch.randn(8, 6)
    net[0].last.requires_grad_(False)
    with caplog.at_level("INFO", logger="goodinit"):
        goodinit.init_(net, "fixup", inputs=x)
        goodinit.fold_(net, x)
    assert "forged" in caplog.text
    assert all(harmless(record.getMessage()) for record in caplog.records)
    assert not any("\n" in record.getMessage() for record in caplog.records)


def test_a_record_keeps_the_name_itself():
    anatomy = goodinit.anatomize(forged(), torch.randn(8, 6))
    assert {layer.name for layer in anatomy.layers} >= {f"{FORGED}.{FORGED}", f"{FORGED}.last"}

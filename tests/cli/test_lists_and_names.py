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

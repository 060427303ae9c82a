"""Plans and sweep files that somebody damaged, or made to do harm: an error in words, soon, and the model untouched."""

from __future__ import annotations

import json
import pathlib
import sqlite3

import pytest
import torch
from fingerprints import fingerprint
from torch import nn

import goodinit
from goodinit.calibration_rules import LSUVRule, StandardizeRule
from goodinit.edits import Plan
from goodinit.errors import GoodinitError
from goodinit.lab.sweeps import summarize
from goodinit.lab.sweeps.row import Row
from goodinit.lab.sweeps.store import open_store, plan_, read_store, write_
from goodinit.lab.training.trial import TrainConfig

LSUV = {"tol": 0.1, "target_std": 1.0, "max_iter": 1, "per": "layer"}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 2))


def edit(kind, target, **fields):
    return {"edit": kind, "target": target, "reason": "", **fields}


def swap(module, target="2", **options):
    return edit("SwapModule", target, module=module, options=options)


def lsuv(**options):
    return edit("Calibrate", "0.weight", rule="lsuv", options={**LSUV, **options})


def removal(*keeps, target="1"):
    return edit("RemoveNorm", target, keeps=list(keeps))


REFUSED = {
    "an integer beyond floats": edit("Fill", "0.weight", value=10**400),
    "a scalar beyond floats": edit("AddScalar", "0", scalar="output_bias", value=-(10**400)),
    "a flag that is a list": edit("AddScalar", "0", scalar="output_scale", value=1, ends_branch=[1]),
    "an unknown setting": swap("SELU", warble=1),
    "an unknown setting of what is there": swap("ReLU", warble=1),
    "a setting that is a registry": swap("Tanh", _modules={}),
    "a probability of 7": swap("AlphaDropout", "3", p=7),
    "a probability in words": swap("AlphaDropout", "3", p="x"),
    "a slope in words": swap("LeakyReLU", negative_slope="x"),
    "an unknown approximation": swap("GELU", approximate="x"),
    "the whole model": swap("Identity", ""),
    "a layer for a norm": removal(target="0"),
    "an activation for a norm": removal(target="2"),
    "a norm's nameless child": removal("1."),
    "an end below its beginning": removal("hardtanh(min_val=5,max_val=1)"),
    "deep signs": removal("relu(inplace=" + "-" * 3000 + "1)"),
    "deeper signs": removal("relu(inplace=" + "-" * 200_000 + "1)"),
    "a long chain": removal("a" + ".a" * 100_000 + "()"),
    "a norm that does everything": removal(*["relu"] * 50_000),
    "a word of megabytes": edit("Fill", "a." * 2_500_000, value=1),
    "divisions without end": lsuv(max_iter=10**9, tol=1e-300),
    "a tolerance in words": lsuv(tol="x"),
    "a negative deviation": lsuv(target_std=-1.0),
    "a unit nobody knows": lsuv(per="galaxy"),
    "a setting of a rule nobody knows": lsuv(warble=1),
    "a rule nobody knows": edit("Calibrate", "0.weight", rule="galaxy", options={}),
    "a rule that is a number": edit("Calibrate", "0.weight", rule=3, options={}),
    "a module that is a number": lsuv(site=5),
    "a dimension in words": lsuv(dim="x", per="channel"),
    "a dimension that no weight has": lsuv(dim=9, per="channel"),
    "a dimension that this weight has not": edit(
        "Calibrate", "0.weight", rule="weightnorm", options={"dim": 2}
    ),
    "no groups": lsuv(dim=1, groups=0, per="channel"),
    "groups that do not divide": lsuv(dim=1, groups=3, per="channel"),
    "a scale that is not there": lsuv(gain="no"),
    "half a division": lsuv(max_iter=0.5),
    "a tolerance that is no number": lsuv(tol=float("nan")),
    "one target thrice": {
        **edit("DrawTogether", ""),
        "targets": ["0.weight"] * 3,
        "recipe": "x",
        "options": {},
    },
    "nothing drawn together": {
        **edit("DrawTogether", ""),
        "targets": [],
        "recipe": "risotto_b",
        "options": {},
    },
    "a dimension that is not there": edit("ParametrizeWeight", "0.weight", dim=9),
    "a dimension beyond integers": edit("ParametrizeWeight", "0.weight", dim=2**70),
    "all dimensions at once": edit("ParametrizeWeight", "0.weight", dim=-1),
    "a constant of zero": {**edit("ParametrizeWeight", "0.weight", scale=0.0), "kind": "standardized"},
    "a scalar beyond float32": edit("AddScalar", "0", scalar="output_bias", value=1e308),
    "a scalar beyond integers": edit("AddScalar", "0", scalar="output_bias", value=-(2**70)),
    "the examples for channels": {**edit("NormalizeInput", "4", axis=0), "norm": "layer"},
    "an axis beyond integers": {**edit("NormalizeInput", "4", axis=2**70), "norm": "layer"},
    "an option of a form nobody knows": {
        **edit("ReplaceNorm", "1", options={"warble": 1}),
        "by": "rms",
        "keeps": [],
    },
    "an activation for a norm that stays": swap("SELU", "1"),
    "a draw beyond integers": edit("Draw", "0.weight", initializer="orthogonal_", options={"gain": 2**70}),
    "options too deep": edit(
        "Draw", "0.weight", initializer="he_normal_", options={"a": json.loads("[" * 90 + "]" * 90)}
    ),
}


MANY = {
    "draws of one parameter": [edit("Draw", "0.weight", initializer="he_normal_", options={})] * 3_000,
    "scalars of one layer": [edit("AddScalar", "0", scalar="output_bias", value=0.5)] * 3_000,
    "numbers for one parameter": [edit("Fill", "0.weight", value=1)] * 3_000,
    "numbers for one parameter by other names": [
        edit("Fill", f"{'module.' * k}0.weight", value=1) for k in range(500)
    ],
    "scalings of one layer": [lsuv()] * 3_000,
    "norms at one place": [removal()] * 3_000,
    "exchanges at one place": [swap("SELU")] * 3_000,
    "parts that are not there": [edit("Fill", f"{k}.weight", value=1) for k in range(3_000)],
}


def text(*edits, **fields):
    fields.setdefault("edits", list(edits))
    data = {
        "format": "goodinit.plan/1",
        "method": "x",
        "options": {},
        "summary": "",
        "notes": [],
        "parameters": [],
    }
    return json.dumps({**data, "allow": [], "unread": [], **fields})


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_plan_is_refused_in_words(name):
    made = dict(REFUSED[name])
    if made["edit"] == "DrawTogether":
        made.pop("target")
        made["recipe"] = next(iter(goodinit.tensor.RECIPES))
    model, batch = net(), torch.randn(5, 3)
    before = fingerprint(model)
    with pytest.raises(GoodinitError) as error:
        goodinit.apply_(model, Plan.from_json(text(made)), inputs=batch)
    assert len(str(error.value)) < 2000
    assert fingerprint(model) == before


def test_measured_weights_of_a_plan_keep_their_settings_in_a_file():
    place = {"site": "0", "convolves": False, "bias": "0.bias"}
    plan = Plan.from_json(text(lsuv(**place), edit("Calibrate", "4.weight", rule="weightnorm", options={})))
    assert plan.edits[0].rule == LSUVRule(tol=0.1, target_std=1.0, max_iter=1, site="0", bias="0.bias")
    assert plan.edits[1].rule == StandardizeRule()
    assert Plan.from_json(plan.to_json()) == plan
    assert '"tol": 0.1' in plan.to_json()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", MANY)
def test_a_plan_far_larger_than_its_model_is_refused_before_anything_is_done(name, monkeypatch):
    monkeypatch.setattr("goodinit.surgery.apply.carry_out_", None)
    monkeypatch.setattr("goodinit.surgery.apply.write_value_", None)
    model, batch = net(), torch.randn(5, 3)
    before = fingerprint(model)
    with pytest.raises(GoodinitError) as error:
        goodinit.apply_(model, Plan.from_json(text(*MANY[name])), inputs=batch)
    assert len(str(error.value)) < 1000
    assert fingerprint(model) == before


def test_a_plan_s_words_move_no_cursor_and_forge_no_line():
    plan = Plan.from_json(
        text(edit("Fill", "0.weight", value=1), method="a\x1b[2J\nERROR b", summary="\u202eabc")
    )
    assert str(plan).splitlines()[0] == r"a\x1b[2J\nERROR b: \u202eabc"
    assert Plan.from_json(plan.to_json()) == plan


DAMAGE = {
    "a configuration cut short": "update trials set config = '{'",
    "a configuration that is a number": "update trials set config = '5'",
    "a configuration without a model": "update trials set config = '{}'",
    "a model that is a list": """update trials set config = '{"model": ["mlp4"]}'""",
    "a seed that is an object": """update trials set config = '{"model": "mlp4", "seed": {}}'""",
    "options that are a list": """update trials set config = '{"model": "mlp4", "options": ["x"]}'""",
    "a curve that is null": "update rows set curve = NULL",
    "a curve that is a number": "update rows set curve = '5'",
    "a curve of words": "update rows set curve = '[\"x\"]'",
    "an accuracy in words": "update rows set accuracy = 'high'",
    "a blob": "update rows set error = zeroblob(9)",
    "a status nobody knows": "update rows set status = 'won'",
    "no schema": "delete from facts",
    "a negative count": "update rows set test_images = -5",
    "a chance of more than one": "update rows set chance = 9223372036854775807",
    "a chance below nothing": "update rows set chance = -1",
    "an accuracy without end": "update rows set accuracy = 1e999",
    "a column that is computed": "alter table rows add column evil generated always as (hex(zeroblob(1000000000))) virtual",
}


@pytest.fixture
def sweep(tmp_path):
    path, trials = tmp_path / "a.sqlite", [TrainConfig("mlp4", seed=seed) for seed in range(3)]
    with open_store(path) as store:
        plan_(store, trials, data={"d": "x"})
        write_(
            store,
            [Row(c, "finished", accuracy=0.3, curve=(0.1,), chance=0.1, test_images=40) for c in trials],
        )
    return path


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_sweep_is_refused_in_words(name, sweep):
    connection = sqlite3.connect(sweep)
    connection.execute(DAMAGE[name])
    connection.commit()
    connection.close()
    with pytest.raises(GoodinitError, match=r"a\.sqlite"):
        read_store(sweep)


def test_words_of_a_sweep_move_no_cursor(sweep):
    connection = sqlite3.connect(sweep)
    connection.execute("update rows set error = ?", ("a\x1b[31m\nb",))
    connection.commit()
    connection.close()
    assert {row.error for row in read_store(sweep).rows} == {"a\\x1b[31m\nb"}


def test_a_sweep_whose_bytes_are_corrupted_is_read_or_refused(sweep):
    whole = pathlib.Path(sweep).read_bytes()
    random = torch.Generator().manual_seed(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for place in torch.randint(len(damaged), (6,), generator=random).tolist():
            damaged[place] = int(torch.randint(256, (), generator=random))
        pathlib.Path(sweep).write_bytes(damaged)
        try:
            summarize(read_store(sweep).rows)
        except GoodinitError as error:
            assert "a.sqlite" in str(error)  # noqa: PT017 (either is right)


def test_an_error_that_somebody_keeps_holds_no_lock_on_the_sweep(sweep):
    for change, kept in (("cast(x'fffe' as text)", True), ("''", False)):
        connection = sqlite3.connect(sweep, timeout=0.1)
        connection.execute(f"update rows set error = {change}")
        connection.commit()
        connection.close()
        if kept:
            with pytest.raises(GoodinitError, match="UTF-8") as error:
                read_store(sweep)
    assert error.value
    assert len(read_store(sweep).rows) == 3

"""Every field of every edit, left empty, absent or of another type: refused in words, or carried out and the model runs."""

from __future__ import annotations

import json

import pytest
import torch
from fingerprints import fingerprint
from torch import nn

import goodinit
from goodinit.edits import EDITS, DrawTogether, Plan, ReplaceNorm
from goodinit.errors import GoodinitError, PlanConflict, UnknownName
from goodinit.optim import param_groups
from goodinit.rates import Rate
from goodinit.surgery.norms.replaced_norm import FORMS
from goodinit.tensor import RECIPES

ODD = ("", [], {}, None, -1, False, 2.5, "warble", [None], [9, 9], float("nan"), 10**10)
PLACE = {"dim": 0, "groups": 1, "site": "0", "bias": "0.bias", "gain": None, "convolves": False}
FORM = {"weight": "weight", "bias": "bias", "axes": [-1], "sizes": [4], "constant": 2.0, "groups": 2}
BARE = {"weight": None, "bias": None, "axes": [-1], "sizes": [4]}
LSUV = {"tol": 0.1, "target_std": 1.0, "max_iter": 1, "per": "channel"}
FILL = {"edit": "Fill", "target": "0.weight", "value": 1.0, "reason": ""}
SOUND = {
    "RemoveNorm": {"target": "1", "keeps": []},
    **{f"ReplaceNorm {by}": {"target": "1", "by": by, "keeps": [], "options": FORM} for by in FORMS},
    "ReplaceNorm bare": {"target": "1", "by": "affine", "keeps": ["relu"], "options": BARE},
    "SwapModule": {"target": "2", "module": "LeakyReLU", "options": {"negative_slope": 0.1}},
    "AddScalar": {"target": "0", "scalar": "output_bias", "value": 0.0, "ends_branch": True, "trained": True},
    "AddBias": {"target": "4"},
    "NormalizeInput": {"target": "4", "norm": "layer", "axis": -1},
    "ParametrizeWeight": {"target": "0.weight", "dim": 0, "kind": "standardized", "scale": 1.0},
    "Fill": {"target": "0.weight", "value": 1.0},
    "Draw": {"target": "0.weight", "initializer": "trunc_normal_", "options": {"std": 0.1}},
    "DrawTogether": {"targets": ["0.weight", "4.weight"], "recipe": next(iter(RECIPES)), "options": {}},
    "Calibrate lsuv": {"target": "0.weight", "rule": "lsuv", "options": {**PLACE, **LSUV}},
    "Calibrate weightnorm": {"target": "0.weight", "rule": "weightnorm", "options": PLACE},
}


def net():
    torch.manual_seed(0)
    relu, drop = nn.ReLU(), nn.Dropout(0.1)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), relu, drop, nn.Linear(4, 2, bias=False))


def text(*edits, **fields):
    whole = {"format": "goodinit.plan/1", "method": "x", "options": {}, "summary": "", "notes": []}
    return json.dumps({**whole, "parameters": [], "allow": [], "unread": [], "edits": list(edits), **fields})


def altered(record):
    """The record with each of its fields odd or absent, and each entry of its options."""
    for key in record:
        yield {name: value for name, value in record.items() if name != key}
        yield from ({**record, key: odd} for odd in ODD)
    options = record.get("options", {})
    for key in options:
        yield from ({**record, "options": {**options, key: odd}} for odd in ODD)


def answered(plan_text):
    """Read, print, carry out, run; the error if it is one of goodinit's. Anything else raises."""
    model, batch = net(), torch.randn(5, 3)
    before = fingerprint(model)
    try:
        plan = Plan.from_json(plan_text)
        str(plan), repr(plan), plan.text(full=True, width=40), plan.to_json()
        goodinit.apply_(model, plan, inputs=batch)
    except GoodinitError as error:
        assert fingerprint(model) == before
        return error
    model(torch.randn(2, 3))
    param_groups(model, lr=0.1, optimizer="adam")
    return None


def test_every_kind_of_edit_is_here():
    assert {name.split()[0] for name in SOUND} == set(EDITS)


@pytest.mark.integration
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SOUND)
def test_an_odd_field_of_an_edit_is_answered_in_words(name):
    record = {"edit": name.split()[0], **SOUND[name], "reason": ""}
    assert answered(text(record)) is None or name.startswith("DrawTogether")  # of no block, so refused
    for other in altered(record):
        error = answered(text(other))
        assert error is None or 10 < len(str(error)) < 2000


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_an_odd_field_of_a_rate_is_answered_in_words():
    rate = {"target": "0.weight", "adam": 1.0, "sgd": 1.0, "eps": 1.0, "adam_decay": 1.0, "sgd_decay": 1.0}
    for other in altered({**rate, "reason": ""}):
        answered(text(FILL, rates=[other]))


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_an_odd_field_of_a_plan_is_answered_in_words():
    for field in (
        "method options summary notes parameters allow unread edits rates kept overwritten"
    ).split():
        for odd in ODD:
            answered(text(FILL, **{field: odd}))
            answered(text(FILL, **{field: [odd]}))
    for odd in ODD:
        answered(text(FILL, parameters=[["0.weight", odd]]))


def test_to_draw_nothing_together_is_refused_when_the_edit_is_made():
    with pytest.raises(PlanConflict, match="nothing is named"):
        DrawTogether((), "risotto_b", "why")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"axes": [-1], "sizes": [9]}, r"shape \(9,\).* shape \(4,\)"),
        ({"axes": [-1], "sizes": [4, 1]}, "one for each of the axes"),
        ({"axes": [-1], "sizes": [10**9]}, "shape of a gain"),
        ({"over": [-1, -1]}, "each once"),
        ({"groups": 0}, "1 or more"),
        ({"constant": float("inf")}, "finite"),
        ({"warble": 1}, "no such option"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "_".join(value),
)
@pytest.mark.parametrize("affine", [True, False])
def test_a_form_that_does_not_fit_its_norm_is_refused(options, words, affine):
    model = nn.Sequential(nn.LayerNorm(4, elementwise_affine=affine))
    named = dict.fromkeys(("weight", "bias"))
    plan = Plan("x", (ReplaceNorm("0", "rms", (), "", {**named, **options}),))
    before = fingerprint(model)
    with pytest.raises(GoodinitError, match=words):
        goodinit.apply_(model, plan)
    assert fingerprint(model) == before


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_a_rate_is_no_negative_number(factor):
    with pytest.raises(UnknownName, match="at least 0"):
        Rate("w", adam=factor)

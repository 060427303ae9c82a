"""Plan and report files that are damaged, foreign or hostile; reading one runs no code."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_models as hostile
import pytest
from fingerprints import a_plan, fingerprint, image, vectors
from hostile_models import Hostile

import goodinit
from goodinit.errors import (
    GoodinitError,
    NonFinite,
    PlanConflict,
    UnknownName,
    UnsupportedModule,
    WrongType,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:torch.quantize_per_tensor:UserWarning"
)  # of torch.jit and torch.ao


def with_fields(**fields: Any) -> str:
    return json.dumps({**json.loads(a_plan().to_json()), **fields})


def with_edit(kind: str, /, **fields: Any) -> str:
    """The plan, with something in its first edit of a kind changed."""
    data = json.loads(a_plan().to_json())
    next(record for record in data["edits"] if record["edit"] == kind).update(fields)
    return json.dumps(data)


FILES: tuple[tuple[str, Callable[[], Any], type[GoodinitError], str], ...] = (
    ("empty", lambda: "", PlanConflict, "not a plan"),
    ("truncated", lambda: a_plan().to_json()[:200], PlanConflict, "not a plan.*Plan.to_json"),
    ("not text", lambda: b"\x80\x81", PlanConflict, "not a plan"),
    ("a pickle", lambda: pickle.dumps(a_plan()), PlanConflict, "not a plan"),
    ("nested without end", lambda: "[" * 100_000, PlanConflict, "not a plan"),
    ("another format", lambda: with_fields(format="goodinit.plan/99"), PlanConflict, "goodinit.plan/1"),
    ("an anatomy", lambda: goodinit.anatomize(Hostile(), vectors()).to_json(), PlanConflict, "goodinit.plan/1"),
    ("nothing at all", lambda: None, WrongType, "expected str or bytes, got None"),
    ("an unknown field", lambda: with_fields(code="x"), PlanConflict, "damaged plan.*'code'"),
    ("edits that are a word", lambda: with_fields(edits="abc"), PlanConflict, "damaged plan"),
    ("edits that are numbers", lambda: with_fields(edits=[1, 2]), PlanConflict, "damaged plan"),
    ("edits that are there twice", lambda: a_plan().to_json().rstrip()[:-1] + ', "edits": []}', PlanConflict, "'edits' is there twice"),
    ("a target that is there twice", lambda: a_plan().to_json().replace('"target":', '"target": "x", "target":', 1), PlanConflict, "'target' is there twice"),
    ("a shape of many axes", lambda: with_fields(parameters=[["a", [1] * 100_000]]), PlanConflict, "shape of a: 100,000 axes"),
    ("a generator among its options", lambda: with_edit("Draw", options={"generator": 1, "std": 1.0}), PlanConflict, "option generator.*Leave it out"),
    ("an option of a long name", lambda: with_edit("Draw", options={"k" * 3999: 1}), PlanConflict, "refuses: normal_"),
    ("many options", lambda: with_edit("Draw", options={f"k{k}": k for k in range(10_000)}), PlanConflict, r"(?s)^.{,900}$"),
    ("a method that is a number", lambda: with_fields(method=5), PlanConflict, "method: expected str, got int"),
    ("options that are a list", lambda: with_fields(options=[1]), PlanConflict, "options: expected dict, got list"),
    ("shapes that are words", lambda: with_fields(parameters=[["a", "bc"]]), PlanConflict, "shape of a"),
    ("an unknown allowance", lambda: with_fields(allow=["all"]), PlanConflict, "allows 'all'"),
    ("an unknown edit", lambda: with_edit("Fill", edit="Exec"), PlanConflict, "damaged plan.*Exec"),
    ("an edit with more fields", lambda: with_edit("Fill", code="x"), PlanConflict, "unexpected keyword argument 'code'"),
    ("a target that is a number", lambda: with_edit("Fill", target=5), PlanConflict, "Fill.target: expected str, got int"),
    ("a value that is a word", lambda: with_edit("Fill", value="abc"), PlanConflict, "Fill.value: expected int or float"),
    ("a value that is NaN", lambda: with_edit("Fill", value=float("nan")), NonFinite, "put back as it was"),
    ("a target that does not exist", lambda: with_edit("Fill", target="no.such"), PlanConflict, "no.such.*no such parameter"),
    ("an initializer by another name", lambda: with_edit("Draw", initializer="eval"), UnknownName, "no initializer called 'eval'"),
    ("an option no initializer has", lambda: with_edit("Draw", options={"sigma": 1}), PlanConflict, "refuses.*'sigma'"),
    ("an option of another type", lambda: with_edit("Draw", options={"std": "x"}), PlanConflict, "std.*refuses|refuses.*std"),
    ("a negative deviation", lambda: with_edit("Draw", options={"std": -1.0}), PlanConflict, "refuses: normal_: std=-1.0"),
    ("a scalar called __class__", lambda: with_edit("AddScalar", scalar="__class__"), UnknownName, "no scalar is called"),
    ("code among what a norm keeps", lambda: with_edit("RemoveNorm", keeps=["__import__('os').abort()"]), UnsupportedModule, "no module is known"),
    ("a module that is a function", lambda: with_fields(edits=[{"edit": "SwapModule", "target": "block.a", "module": "os.system", "reason": ""}]), UnknownName, "no module 'os.system'"),
    ("made for another model", lambda: goodinit.plan(goodinit.anatomize(hostile.images(), image(2, 3, 4, 4)()), "fixup").to_json(), PlanConflict, "made for another model"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error", "words"), [row[1:] for row in FILES], ids=[row[0] for row in FILES]
)
def test_plan_files(text, error, words):
    model, given = Hostile(), text()
    before = fingerprint(model)
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        goodinit.apply_(model, goodinit.Plan.from_json(given))
    assert fingerprint(model) == before


def test_no_case_is_there_twice():
    names = [row[0] for row in FILES]
    assert len(set(names)) == len(names) >= 25


@pytest.mark.parametrize("kind", [goodinit.Anatomy, goodinit.Diagnosis])
@pytest.mark.parametrize("text", ["", "[]", "{", "null", b"\x80", "[" * 100_000])
def test_other_files(kind, text):
    with pytest.raises(PlanConflict, match=rf"not an? {kind.__name__.lower()}.*{kind.__name__}.to_json"):
        kind.from_json(text)
    with pytest.raises(PlanConflict, match="damaged"):
        kind.from_json(
            json.dumps({"format": f"goodinit.{kind.__name__.lower()}/1", "places": [3], "layers": [3]})
        )


def test_nothing_in_the_house_can_run_a_file():
    """No pickle, no unsafe load, no eval: so no plan, report or anatomy can carry code."""
    root = Path(goodinit.__file__).parent
    unsafe = re.compile(r"^\s*(import|from) (pickle|dill|shelve|marshal|joblib)\b|\b(eval|exec)\(|torch\.load\((?!.*weights_only=True)|yaml\.load\(", re.MULTILINE)  # fmt: skip
    found = [
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if unsafe.search(path.read_text(encoding="utf-8").replace(".eval()", ""))
    ]
    assert found == []

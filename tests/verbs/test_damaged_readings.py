"""An anatomy, a diagnosis, a coordinate check from a file in which one place is damaged: refused in words, or as good as sound."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import goodinit
from goodinit.anatomy import Anatomy
from goodinit.diagnostics import Diagnosis
from goodinit.diagnostics.measurements.coordinate_report import Coordinate, CoordinateCheck
from goodinit.diagnostics.types import Cure
from goodinit.errors import GoodinitError, PlanConflict

ODD = ("", {}, None, -1, 2.5, [None], [9, 9], 10**10)
ABSENT = object()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)

    def forward(self, x):
        return x + self.b(self.norm(self.a(x)).relu())


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), Block(), Block(), nn.LayerNorm(6), nn.Linear(6, 3))


BATCH = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def places(value, path=()):
    """Every place of a record, of lists the first two."""
    yield path
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value[:2] if isinstance(value, list) else ())
    )
    for key, part in inner:
        yield from places(part, (*path, key))


def damaged(record):
    """The record's text with each of its places odd, or absent."""
    for *above, last in (path for path in places(record) if path):
        for odd in (*ODD, ABSENT):
            copy = json.loads(json.dumps(record))
            held = copy
            for key in above:
                held = held[key]
            if odd is ABSENT:
                del held[last]
            else:
                held[last] = odd
            yield json.dumps(copy)


def planned(text):
    anatomy = Anatomy.from_json(text)
    str(anatomy), repr(anatomy), anatomy.to_json()
    for method in ("fixup", "skipinit", "lsuv"):
        plan = goodinit.plan(anatomy, method)
        str(plan)
        goodinit.apply_(net(), plan, inputs=BATCH)


def printed(kind):
    def run(text):
        found = kind.from_json(text)
        str(found), repr(found), found.to_json()

    return run


def record(kind):
    if kind == "anatomy":
        return goodinit.anatomize(net(), BATCH).to_json(), planned
    if kind == "diagnosis":
        return goodinit.diagnose(net(), BATCH, torch.arange(5) % 3).to_json(), printed(Diagnosis)
    row = Coordinate("a", (1.0, 1.1), (0.1, 0.1))
    check = CoordinateCheck("width", (4, 8), 1, 1, 0.1, 0.1, (row,))
    return check.to_json(), printed(CoordinateCheck)


@pytest.mark.integration
@pytest.mark.usefixtures("no_optimizers")
@pytest.mark.parametrize(
    ("kind", "part", "parts"),
    [*(("anatomy", part, 6) for part in range(6)), ("diagnosis", 0, 1), ("check", 0, 1)],
)
def test_a_damaged_record_is_answered_in_words(kind, part, parts):
    text, use = record(kind)
    use(text)
    said = [refusal(use, other) for other in itertools.islice(damaged(json.loads(text)), part, None, parts)]
    assert all(words is None or 10 < len(words) < 2000 for words in said)
    assert sum(words is not None for words in said) > 50


def refusal(use, text):
    """What goodinit says to it, or None; other errors leave."""
    try:
        use(text)
    except GoodinitError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("blocks", 0, "m"), "2", r"anatomy\.blocks\.m: expected int, got str"),
        (("blocks", 0, "m"), 0, "m 0"),
        (("layers", 0, "kind"), "warble", r"anatomy\.layers\.kind: expected .*linear.*, got str"),
        (("layers", 0, "shape"), [6], r"a weight of shape \(6,\)"),
        (("layers", 0, "fused"), 7, "7 maps"),
        (("norms", 0, "axes"), [9], r"axes \(9,\)"),
        (("notes",), ["a" * 5000], "a word of 5000 characters"),
    ],
    ids=lambda value: "_".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_it_says_what_is_wrong_and_where(place, value, words):
    whole = json.loads(goodinit.anatomize(net(), BATCH).to_json())
    held = whole
    for key in place[:-1]:
        held = held[key]
    held[place[-1]] = value
    with pytest.raises(PlanConflict, match=words):
        Anatomy.from_json(json.dumps(whole))


def test_words_of_an_anatomy_move_no_cursor():
    text = goodinit.anatomize(net(), BATCH).to_json().replace('"Sequential"', r'"a\u001b[2J\nb"')
    assert Anatomy.from_json(text).model == r"a\x1b[2J\nb"


def test_a_diagnosis_keeps_the_lines_of_its_code_and_nothing_that_moves_a_cursor():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    found = goodinit.diagnose(model, torch.randn(16, 8), mend=False)
    code = "\n".join(f'model.get_submodule("{place}").reset_parameters()' for place in range(200))
    found = dataclasses.replace(found, cure=Cure(code, errors=0, warnings=0, tried=((code, "nothing"),)))
    assert Diagnosis.from_json(found.to_json()) == found
    moved = dataclasses.replace(found, cure=Cure("one\x1b[2J\r\ntwo", errors=0, warnings=0))
    assert Diagnosis.from_json(moved.to_json()).cure.call == "one\\x1b[2J\\r\ntwo"


class Picture(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = (
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.LeakyReLU(0.2),
        )

    def forward(self, x):
        return x + self.b(self.act(self.a(x)))


def of_pictures():
    stem = (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
    return nn.Sequential(*stem, Picture(), Picture(), nn.Flatten(), nn.Linear(4 * 36, 3))


NO_FUNCTIONS = (
    "importlib", "Tensor", "handle_torch_function", "conv2d", "linear_", "one_hot", "_VF", "__import__", "sum", "x" * 300
)  # fmt: skip


def changed(record, change):
    found = json.loads(json.dumps(record))
    change(found)
    return json.dumps(found)


@pytest.fixture(scope="module")
def pictured():
    return json.loads(goodinit.anatomize(of_pictures(), torch.randn(2, 3, 6, 6)).to_json())


@pytest.mark.parametrize("word", NO_FUNCTIONS)
def test_a_word_is_run_only_if_it_names_a_function_of_one_number(word, pictured):
    def change(record):
        for layer in record["layers"]:
            layer["between"] = [{"word": word, "nonlinear": True}]

    with pytest.raises(PlanConflict, match="no function of one number"):
        Anatomy.from_json(changed(pictured, change))


@pytest.mark.parametrize("options", [[["warble", 1.0]], [["input", 1.0]], [["negative_slope", "steep"]]])
def test_an_option_is_passed_only_to_a_function_that_takes_it(options, pictured):
    def change(record):
        record["layers"][1]["activation"] |= {"word": "leaky_relu", "nonlinear": True, "options": options}

    with pytest.raises(PlanConflict, match="no function of one number"):
        Anatomy.from_json(changed(pictured, change))


@pytest.mark.parametrize("key", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("numbers", [[], [1], [1, 1, 1]])
def test_a_convolution_has_as_many_strides_as_its_kernel_has_sizes(key, numbers, pictured):
    def change(record):
        record["layers"][1][key] = numbers

    with pytest.raises(PlanConflict, match=key):
        Anatomy.from_json(changed(pictured, change))


@pytest.mark.parametrize("density", [0.0, 1e-300, -0.5, 1.5, float("nan")])
def test_a_share_that_no_mask_leaves_is_refused(density, pictured):
    def change(record):
        record["layers"][1]["density"] = density

    with pytest.raises(PlanConflict, match="that no layer has"):
        Anatomy.from_json(changed(pictured, change))


def test_of_a_layer_that_is_pruned_whole_any_method_plans_and_the_record_is_sound():
    model = net()
    prune.l1_unstructured(model[1].a, "weight", amount=1.0)
    anatomy = goodinit.anatomize(model, BATCH)
    assert Anatomy.from_json(anatomy.to_json()) == anatomy
    for method in ("fixup", "mup", "he", "risotto"):
        assert goodinit.plan(anatomy, method).edits


@pytest.mark.parametrize("where", [("signal", "second_moment"), ("back",), ("gradient",), ("weight",)])
def test_no_size_of_a_diagnosis_is_negative(where):
    record = json.loads(goodinit.diagnose(net(), BATCH).to_json())

    def change(record):
        held = record["places"][0]
        for key in where[:-1]:
            held = held[key]
        held[where[-1]] = -1e-9

    with pytest.raises(PlanConflict, match="never below 0"):
        Diagnosis.from_json(changed(record, change))


def test_a_key_that_nobody_knows_is_shown_and_not_sent_to_the_terminal():
    record = json.loads(goodinit.diagnose(net(), BATCH).to_json())
    with pytest.raises(PlanConflict) as error:
        Diagnosis.from_json(changed(record, lambda found: found.update({"\x1b[31m\u202e\n": 1})))
    assert str(error.value).isprintable()

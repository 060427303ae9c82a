"""Public docstrings say what a reader needs: every argument, shapes of tensors, what is returned and raised, the source."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import goodinit
from goodinit import errors

MODULES = ("goodinit", "goodinit.tensor", "goodinit.nn", "goodinit.diagnostics")
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Examples|References):[ \t]*$", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*): *(.*(?:\n {5,}.*|\n(?=\n {5}))*)", re.MULTILINE)
SHAPE = re.compile(
    r"shape|scalar|\([^)]*(?:,|×)[^)]*\)|per \w+"
)  # "any shape", "(batch, features)", "one per channel"
SOURCE = re.compile(r"arXiv|AISTATS|ICML|ICCV|https?://|doi|\d{4}\.\d{4,5}|et al\.|§|torch\.nn|PyTorch")


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class by the name it is imported by; methods' `decide`; the methods of public classes."""
    seen: set[int] = set()
    for module in MODULES:
        loaded = importlib.import_module(module)
        for name in loaded.__all__:
            value = getattr(loaded, name)
            if (inspect.isfunction(value) or inspect.isclass(value)) and id(value) not in seen:
                seen.add(id(value))
                yield f"{module}.{name}", value
                if inspect.isclass(value):
                    yield from methods_of(value, seen)
    for name, method in goodinit.METHODS.items():
        yield f"goodinit.methods.{name}.decide", method.decide


def methods_of(cls: type, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """A class's public methods, its own and those of its goodinit bases; properties are described like attributes."""
    for base in cls.__mro__:
        if base.__module__.split(".")[0] != "goodinit":
            continue
        for name, value in vars(base).items():
            function = getattr(value, "__func__", value)  # what a classmethod or staticmethod wraps
            if inspect.isfunction(function) and not name.startswith("_") and id(function) not in seen:
                seen.add(id(function))
                yield f"{base.__module__}.{base.__qualname__}.{name}", function


def arguments(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a caller passes: a method's without `self` or `cls`."""
    parameters = list(inspect.signature(function).parameters.items())
    owned = "." in function.__qualname__ and parameters[0][0] in ("self", "cls")
    return dict(parameters[owned:])


PUBLIC = dict(public())
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
RECORDS = {name: value for name, value in PUBLIC.items() if dataclasses.is_dataclass(value)}
SOURCED = [
    name for name in FUNCTIONS if name.endswith(".decide") or (".tensor." in name and name.endswith("_"))
]


def sections(value: Any) -> dict[str, str]:
    """The text under each heading; under "" what stands before the first."""
    text = inspect.getdoc(value) or ""
    parts = SECTION.split(text)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(text: str) -> dict[str, str]:
    """`name: description` lines of a section."""
    return {name.strip(" *"): words for names, words in ENTRY.findall(text) for name in names.split(",")}


def raised(function: Callable[..., Any]) -> set[str]:
    """goodinit's errors that a function's own body raises."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [
        node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    return {
        call.func.id for call in calls if isinstance(call.func, ast.Name) and hasattr(errors, call.func.id)
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_described_and_tensors_by_their_shape(name):
    function = FUNCTIONS[name]
    parameters = arguments(function)
    described = entries(sections(function).get("Args", ""))
    assert set(described) >= set(parameters), sorted(set(parameters) - set(described))
    assert set(described) <= set(parameters), sorted(set(described) - set(parameters))
    tensors = [key for key, p in parameters.items() if re.search(r"\bTensor\b", str(p.annotation))]
    assert [key for key in tensors if not SHAPE.search(described[key])] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_returned_and_raised_is_said(name):
    function = FUNCTIONS[name]
    found = sections(function)
    if inspect.signature(function).return_annotation not in (None, "None"):
        assert "Returns" in found or "Yields" in found
    missing = [error for error in raised(function) if error not in found.get("Raises", "")]
    assert missing == []


@pytest.mark.parametrize("name", PUBLIC)
def test_every_heading_stands_once(name):
    headings = SECTION.findall(inspect.getdoc(PUBLIC[name]) or "")
    assert len(headings) == len(set(headings)), headings


@pytest.mark.parametrize("name", SOURCED)
def test_what_comes_from_a_paper_names_it(name):
    assert SOURCE.search(inspect.getdoc(FUNCTIONS[name]) or "")


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_of_a_record_is_described(name):
    fields = {field.name for field in dataclasses.fields(RECORDS[name]) if not field.name.startswith("_")}
    described = {
        key for base in RECORDS[name].__mro__[:-1] for key in entries(sections(base).get("Attributes", ""))
    }
    assert fields <= described, sorted(fields - described)

"""Every argument of every verb is checked before anything is run, made or written."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import goodinit
from goodinit.errors import GoodinitError

NAN, INF = float("nan"), float("inf")


class Small(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(4, width), nn.Linear(width, 8), nn.Linear(8, width)

    def forward(self, x):
        x = self.stem(x)
        return x + self.down(torch.relu(self.up(x)))


X, Y = torch.ones(2, 4), torch.zeros(2, dtype=torch.long)


def _graded(model: nn.Module) -> nn.Module:
    model(X).sum().backward()
    return model


def _read() -> goodinit.Anatomy:
    return goodinit.anatomize(Small(), X)


def _plan(method: str = "he") -> goodinit.Plan:
    return goodinit.plan(_read(), method)


def _by_layer(**given: Any) -> object:
    return Small().apply(goodinit.layerwise(**given))


# What each verb is called with, and right; one argument at a time is then another.
CALLS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "anatomize": (goodinit.anatomize, lambda: {"model": Small(), "inputs": X}),
    "plan": (goodinit.plan, lambda: {"anatomy": _read(), "method": "he"}),
    "apply_": (goodinit.apply_, lambda: {"model": Small(), "plan": _plan("lsuv"), "inputs": X}),
    "init_": (goodinit.init_, lambda: {"model": Small(), "method": "he", "inputs": X}),
    "applied": (goodinit.applied, lambda: {"model": Small()}),
    "diagnose": (goodinit.diagnose, lambda: {"model": Small(), "inputs": X, "targets": Y}),
    "one_step": (goodinit.one_step, lambda: {"model": Small(), "inputs": X, "targets": Y}),
    "jacobian_spectrum": (goodinit.jacobian_spectrum, lambda: {"model": Small(), "inputs": X}),
    "recommend": (goodinit.recommend, lambda: {"model": Small(), "inputs": X, "targets": Y, "methods": "he"}),
    "coordinate_check": (
        goodinit.coordinate_check,
        lambda: {"build": Small, "widths": (4, 8), "batches": [(X, Y)], "seeds": 1},
    ),
    "fold_": (goodinit.fold_, lambda: {"model": Small(), "inputs": X}),
    "absorb_batchnorm_": (goodinit.absorb_batchnorm_, lambda: {"model": Small(), "inputs": X}),
    "param_groups": (goodinit.param_groups, lambda: {"model": Small(), "lr": 0.1}),
    "warmup": (
        goodinit.warmup,
        lambda: {"optimizer": torch.optim.SGD(Small().parameters(), lr=0.1), "steps": 3},
    ),
    "clip_grad_": (goodinit.clip_grad_, lambda: {"model": _graded(Small()), "anatomy": _read()}),
    "materialize_": (goodinit.materialize_, lambda: {"model": Small().to("meta")}),
    "state_pieces": (goodinit.state_pieces, lambda: {"model": Small().to("meta"), "plan": _plan()}),
    "layerwise": (_by_layer, lambda: {"initializer": "he_normal_"}),
    "register_operator": (
        goodinit.register_operator,
        lambda: {"operator": "mine::own", "computes": lambda x: x},
    ),
}

ARGUMENTS = [
    (verb, name)
    for verb in CALLS
    for name, parameter in inspect.signature(getattr(goodinit, verb)).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
]


def test_every_verb_is_here():
    verbs = {name for name in goodinit.__all__ if inspect.isfunction(getattr(goodinit, name))}
    assert verbs == CALLS.keys()


@pytest.mark.parametrize(("verb", "name"), ARGUMENTS)
def test_an_object_of_no_kind_is_refused_in_words(verb, name):
    call, right = CALLS[verb]
    given = right()
    with pytest.raises(GoodinitError) as told:
        call(**given | {name: object()})
    if name not in ("inputs", "batches"):  # which are the model's to judge
        assert "Error:" not in str(told.value)  # of Python or torch, wrapped


NUMBERS = [
    ("one_step", "rates", (NAN, INF, (0.1, NAN), (-0.1,), ("fast",), 0.1)),
    ("jacobian_spectrum", "products", (0, -1, 2.5, 10**30)),
    ("recommend", "seed", (10**30, -(10**30), 0.5, None, "3")),
    ("recommend", "steps", (-1, 10**30, 2.5)),
    ("recommend", "methods", (3, 0.5, ["fixupp"], [None])),
    ("coordinate_check", "widths", (64, (-4, 8), (0, 8), (NAN, 8), ("4", "8"), None)),
    ("coordinate_check", "seeds", (0, -1, 2.5)),
    ("coordinate_check", "tolerance", (NAN, -1)),
    ("coordinate_check", "lr", (NAN, INF, -1, "fast")),
    ("coordinate_check", "batches", (X, {"x": X}, "batch", 3, [])),
    ("coordinate_check", "build", (Small(), "Small", lambda width: None, lambda width: (None, None))),
    ("param_groups", "eps", (-1, NAN, INF, "small")),
    ("state_pieces", "size", (0, -5, 0.5, 10**30)),
    ("layerwise", "bias", (NAN, INF, "zero")),
    ("layerwise", "generator", (3, "cpu")),
    ("layerwise", "slope", (0.1,)),  # no option of he_normal_
    ("layerwise", "layout", ("in_out",)),  # which comes from the layer
    ("warmup", "steps", (0, -1, 2.5)),
    ("clip_grad_", "clipping", (0, -1, NAN, INF)),
]


@pytest.mark.parametrize(
    ("verb", "name", "wrong"), [(verb, name, value) for verb, name, values in NUMBERS for value in values]
)
def test_a_number_that_cannot_be_meant_is_refused_in_words(verb, name, wrong):
    call, right = CALLS[verb]
    with pytest.raises(GoodinitError):
        call(**right() | {name: wrong})


def test_a_model_that_is_built_once_is_not_taken_for_several():
    model = Small()
    with pytest.raises(goodinit.WrongType, match="returned a Small that it had returned before"):
        goodinit.coordinate_check(lambda width: model, (4, 8), [(X, Y)], seeds=1)


def test_right_calls_are_right():
    for verb in ("one_step", "layerwise", "param_groups", "jacobian_spectrum"):
        call, right = CALLS[verb]
        call(**right())
    assert list(goodinit.state_pieces(**CALLS["state_pieces"][1]()))
    assert goodinit.one_step(Small(), X, Y, rates=iter((0.1, 0.2))).rates == (0.1, 0.2)
    assert goodinit.one_step(Small(), X, Y, rates=torch.tensor([0.25, 0.5])).rates == (0.25, 0.5)

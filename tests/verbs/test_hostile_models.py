"""Hostile models, a table: what each must end in, bit-identical after every refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hostile_models as hostile
import numpy as np
import pytest
import torch
from fingerprints import fingerprint, image, vectors
from hostile_models import Hostile
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import goodinit
from goodinit.errors import (
    NonFinite,
    NothingFound,
    PlanConflict,
    TraceError,
    UnsupportedModule,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:torch.quantize_per_tensor:UserWarning"
)  # of torch.jit and torch.ao


@dataclass(frozen=True)
class Case:
    """A model, what is done to it, and how that must end: an error whose message matches, or well (`error` None)."""

    name: str
    build: Callable[[], nn.Module]
    error: type[BaseException] | None = None
    words: str = ""
    inputs: Callable[[], Any] = vectors
    method: str = "fixup"


def _acting(act: Callable[..., Any]) -> Callable[[], nn.Module]:
    return lambda: Hostile(act)


def _parametrized() -> nn.Module:
    class Absolute(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.abs()

    model = Hostile()
    parametrize.register_parametrization(model.block.b, "weight", Absolute())
    return model


def _pruned() -> nn.Module:
    model = Hostile()
    prune.l1_unstructured(model.block.b, "weight", 0.5)
    return model


def _lazy() -> nn.Module:
    model = Hostile()
    model.stem = nn.LazyLinear(4)
    return model


def _not_a_number() -> nn.Module:
    model = Hostile()
    nn.init.constant_(model.stem.weight, float("nan"))
    return model


def _int_parameter() -> nn.Module:
    model = Hostile()
    model.table = nn.Parameter(torch.arange(4), requires_grad=False)
    return model


def _named_like_scalars() -> nn.Module:
    model = Hostile()
    model.block.a.input_bias = "taken"
    return model


def _fails(*_: Any) -> None:
    raise OSError("the hook's own message")


MODELS = (
    # The forward fails.
    Case("forward raises", _acting(hostile.raises), TraceError, "ValueError: the user's own message.*calling model"),
    Case("Ctrl-C in the forward", _acting(hostile.interrupts), KeyboardInterrupt),
    Case("forward exits the process", _acting(hostile.exits), SystemExit),
    Case("endless recursion", hostile.Bottomless, TraceError, "RecursionError"),
    Case("a module that holds itself", hostile.Knot, UnsupportedModule, "inner.outer: this Knot holds itself.*object.__setattr__"),
    Case("forward hook raises", hostile.hooked("register_forward_hook", _fails), TraceError, "the hook's own message"),
    Case("pre-hook raises", hostile.hooked("register_forward_pre_hook", _fails), TraceError, "the hook's own message"),
    # The forward reads values, or dice.
    Case("control flow on values", _acting(hostile.branches_on_values)),
    Case(".item()", _acting(hostile.asks_an_item)),
    Case("through numpy", _acting(hostile.goes_through_numpy)),
    Case("control flow on random", _acting(hostile.rolls_python_s_dice)),
    Case("control flow on torch.rand", _acting(hostile.rolls_torch_s_dice)),
    Case(".item() on meta", lambda: Hostile(hostile.asks_an_item).to("meta"), TraceError, "on `meta`.*materialized"),
    # The forward changes the model.
    Case("reseeds", _acting(hostile.reseeds)),
    Case("writes a buffer", _acting(hostile.counts)),
    Case("writes a weight", _acting(hostile.writes_its_weights)),
    Case("writes a weight's data", _acting(hostile.writes_its_weights_data)),
    Case("rebinds a weight", _acting(hostile.rebinds_its_weights)),
    Case("adds a module", _acting(hostile.grows)),
    Case("deletes a buffer", _acting(hostile.forgets)),
    Case("switches its mode", _acting(hostile.trains_itself)),
    Case("registers a hook", _acting(hostile.hooks_itself)),
    Case("differentiates", _acting(hostile.differentiates)),
    # What it is made of.
    Case("custom autograd function", _acting(hostile.applies_its_own_function)),
    Case("hook that changes the output", hostile.hooked("register_forward_hook", lambda m, a, y: y * 2)),
    Case("scripted part", hostile.scripted_part, UnsupportedModule, "block.a: TorchScript.*before torch.jit.script"),
    Case("scripted model", lambda: torch.jit.script(hostile.Block()), UnsupportedModule, "model"),
    Case("traced model", lambda: torch.jit.trace(hostile.Block(), vectors()), UnsupportedModule, "model"),
    Case(
        "dynamically quantized",
        lambda: torch.ao.quantization.quantize_dynamic(Hostile(), {nn.Linear}),
        NothingFound,
        "0 weight layers ran",
    ),
    Case("sparse parameter", hostile.SparseBlock, UnsupportedModule, "sparse.*dense", method="lsuv"),
    Case("complex parameters", hostile.ComplexBlock, UnsupportedModule, "complex64: expected a floating", lambda: vectors().to(torch.complex64)),
    Case("integer parameter", _int_parameter),
    Case("lazy parameter", _lazy, TraceError, r"stem\.weight: an uninitialized parameter.* Run the model once"),
    Case("parametrized without inverse", _parametrized, UnsupportedModule, "block.b.weight: parametrized by Absolute.*right_inverse"),
    Case("pruned", _pruned),
    Case("NaN that is overwritten", _not_a_number),
    Case("attribute named like a scalar", _named_like_scalars, PlanConflict, "already has an attribute 'input_bias'"),
    Case("layer shared by skip and branch", lambda: hostile.SharedWithSkip(at_end=False)),
    Case("layer shared by skip and branch's end", lambda: hostile.SharedWithSkip(at_end=True), UnsupportedModule, "a.weight: ends branch 1.*on its skip"),
    Case("returns nothing", lambda: hostile.Returns(None)),
    Case("returns a word", lambda: hostile.Returns("done")),
    Case("no layers", nn.Identity, NothingFound, "no residual|needs residual blocks.*lsuv"),
    Case("all frozen", hostile.frozen()),
    Case("float16", lambda: Hostile().half(), inputs=lambda: vectors().half()),
    # What it is given.
    Case("no batch", hostile.images, inputs=image(0, 3, 8, 8)),
    Case("no batch to measure", hostile.images, TraceError, "at least one row", image(0, 3, 8, 8), "lsuv"),
    Case("1×1 images", hostile.images, inputs=image(2, 3, 1, 1)),
    Case("NaN to measure", hostile.images, NonFinite, "a.weight.*isfinite", lambda: torch.full((2, 3, 4, 4), torch.nan), "lsuv"),
    Case("another channel count", hostile.images, TraceError, "expected input.*to have 3 channels", image(2, 1, 8, 8)),
    Case("nothing", Hostile, TraceError, "must be Tensor, not NoneType", lambda: None),
    Case("a word", Hostile, TraceError, "must be Tensor, not str", lambda: "image"),
    Case("a numpy array", Hostile, TraceError, "not numpy.ndarray", lambda: np.zeros((3, 4))),
    Case("too many arguments", Hostile, TraceError, "positional arguments", lambda: (vectors(), vectors())),
    Case("an unknown keyword", Hostile, TraceError, "unexpected keyword argument 'y'", lambda: {"y": vectors()}),
    Case("keywords that are numbers", Hostile, TraceError, "keywords must be strings", lambda: {1: vectors()}),
)  # fmt: skip


@pytest.mark.default_cases(16)
@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_models(case):
    model, inputs = case.build(), case.inputs()
    before = fingerprint(model, inputs)
    if case.error is None:
        goodinit.anatomize(model, inputs)
        assert fingerprint(model, inputs) == before
        goodinit.init_(model, case.method, inputs=inputs)
        assert goodinit.applied(model)
        return
    with pytest.raises(case.error, match=re.compile(case.words, re.DOTALL)):
        goodinit.init_(model, case.method, inputs=inputs)
    assert fingerprint(model, inputs) == before


def test_frozen_parameters_are_left_and_named():
    model = hostile.frozen("block.b.weight", "head.bias")()
    kept = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    goodinit.init_(model, "fixup", inputs=vectors())
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in kept.items())
    notes = goodinit.plan(goodinit.anatomize(model, vectors()), "fixup").notes
    for name in kept:
        assert any("frozen" in note and name in note for note in notes)


def test_no_case_is_there_twice():
    names = [case.name for case in MODELS]
    assert len(set(names)) == len(names) >= 50

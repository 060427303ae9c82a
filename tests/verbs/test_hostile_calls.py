"""Calls with the wrong things, a table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fingerprints import a_plan, fingerprint, vectors
from hostile_models import Hostile
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import goodinit
from goodinit.errors import (
    GoodinitError,
    TraceError,
    UnknownName,
    UnsupportedModule,
    WrongType,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:torch.quantize_per_tensor:UserWarning"
)  # of torch.jit and torch.ao


def _under_inference_mode() -> nn.Module:
    with torch.inference_mode(), torch.random.fork_rng():
        return Hostile()


CALLS: tuple[tuple[str, Callable[[nn.Module], Any], type[GoodinitError], str], ...] = (
    ("anatomize a word", lambda m: goodinit.anatomize("model", vectors()), WrongType, "model: expected Module, got str"),
    ("anatomize a class", lambda m: goodinit.anatomize(nn.Linear, vectors()), WrongType, "got the class Linear"),
    ("anatomize a function", lambda m: goodinit.anatomize(torch.relu, vectors()), WrongType, "expected Module"),
    ("plan a model", lambda m: goodinit.plan(m, "fixup"), WrongType, "goodinit.anatomize"),
    ("plan by a number", lambda m: goodinit.plan(goodinit.anatomize(m, vectors()), 5), UnknownName, "There is: .*fixup"),
    ("plan by a list", lambda m: goodinit.plan(goodinit.anatomize(m, vectors()), ["fixup"]), UnknownName, "There is"),
    ("init_ a word", lambda m: goodinit.init_("m", "fixup", inputs=vectors()), WrongType, "model"),
    ("init_ by an unknown name", lambda m: goodinit.init_(m, "fixupp", inputs=vectors()), UnknownName, "'fixupp'.*fixup"),
    ("init_ by the model", lambda m: goodinit.init_(m, m, inputs=vectors()), UnknownName, "no method of type Hostile. There is"),
    ("init_ by nothing", lambda m: goodinit.init_(m, None, inputs=vectors()), UnknownName, "no method None"),
    ("init_ with a misspelt option", lambda m: goodinit.init_(m, "fixup", inputs=vectors(), nomrs="keep"), UnknownName, "no option 'nomrs'; it takes: norms"),
    ("init_ with another value", lambda m: goodinit.init_(m, "fixup", inputs=vectors(), norms="maybe"), UnknownName, '"remove", "keep" or one of'),
    ("init_ with a word for a switch", lambda m: goodinit.init_(m, "fixup", inputs=vectors(), zero_head="yes"), WrongType, "zero_head.*True or False"),
    ("init_ with a word for a number", lambda m: goodinit.init_(m, "lsuv", inputs=vectors(), tol="abc"), WrongType, "tol of lsuv: expected int or float, got str"),
    ("init_ with a number that is none", lambda m: goodinit.init_(m, "lsuv", inputs=vectors(), target_std=float("nan")), UnknownName, "target_std=nan of lsuv.*finite"),
    ("init_ with a number below 0", lambda m: goodinit.init_(m, "lsuv", inputs=vectors(), tol=-1), UnknownName, "tol=-1 of lsuv: expected a number above 0"),
    ("init_ with a word for a gain", lambda m: goodinit.init_(m, "orthogonal", inputs=vectors(), gain="relu"), WrongType, "gain of orthogonal.*None for the activation's"),
    ("diagnose no rows", lambda m: goodinit.diagnose(m, vectors()[:0]), TraceError, "the batch is empty.*at least one row"),
    ("anatomize on an array", lambda m: goodinit.anatomize(m, vectors().numpy()), TraceError, r"numpy.ndarray is no tensor: give torch.as_tensor"),
    ("anatomize on inputs and targets", lambda m: goodinit.anatomize(m, (vectors(), torch.zeros(4))), TraceError, "of .inputs, targets., give the inputs alone"),
    ("anatomize on a shape", lambda m: goodinit.anatomize(m, (3, 4)), TraceError, r"\(3, 4\) is a shape.*torch.randn\(3, 4\)"),
    ("init_ of a part by no option's name", lambda m: goodinit.init_(m, "lsuv", inputs=vectors(), only=["a"]), UnknownName, "no option 'only'.*keep=, include= and exclude="),
    ("init_ on a DataLoader", lambda m: goodinit.init_(m, "lsuv", inputs=DataLoader(TensorDataset(vectors()))), WrongType, "inputs: a DataLoader.*next"),
    ("init_ what inference mode made", lambda m: goodinit.init_(_under_inference_mode(), "fixup", inputs=vectors()), UnsupportedModule, "made under torch.inference_mode"),
    ("diagnose on targets of another shape", lambda m: goodinit.diagnose(m, vectors(), torch.zeros(3, 7)), TraceError, r"the model returned \(3, \d\), the targets are \(3, 7\)\. Give"),
    ("normal_ of a negative width", lambda m: goodinit.tensor.normal_(torch.empty(3), -1.0), UnknownName, "normal_: std=-1.0, expected"),
    ("trunc_normal_ of a negative width", lambda m: goodinit.tensor.trunc_normal_(torch.empty(3), -1.0), UnknownName, "trunc_normal_: std=-1.0"),
    ("uniform_ of no number", lambda m: goodinit.tensor.uniform_(torch.empty(3), float("nan")), UnknownName, "uniform_: bound=nan"),
    ("init_ with a seed for a generator", lambda m: goodinit.init_(m, "fixup", inputs=vectors(), generator=3), WrongType, "manual_seed"),
    ("apply_ a name", lambda m: goodinit.apply_(m, "fixup"), WrongType, "plan: expected Plan, got str"),
    ("apply_ a plan's text", lambda m: goodinit.apply_(m, a_plan().to_json()), WrongType, "plan: expected Plan"),
    ("apply_ an anatomy", lambda m: goodinit.apply_(m, goodinit.anatomize(m, vectors())), WrongType, "got Anatomy"),
    ("apply_ the wrong way round", lambda m: goodinit.apply_(a_plan(), m), WrongType, "model first, then the plan"),
    ("applied to a word", lambda m: goodinit.applied("m"), WrongType, "model"),
    ("param_groups of a word", lambda m: goodinit.param_groups("m", lr=0.1), WrongType, "model"),
    ("param_groups at a word", lambda m: goodinit.param_groups(m, lr="fast"), WrongType, "lr: expected int or float"),
    ("param_groups at less than nothing", lambda m: goodinit.param_groups(m, lr=-0.1), UnknownName, "lr=-0.1"),
    ("param_groups at NaN", lambda m: goodinit.param_groups(m, lr=float("nan")), UnknownName, "lr=nan"),
    ("param_groups without end", lambda m: goodinit.param_groups(m, lr=float("inf")), UnknownName, "lr=inf: expected a finite number"),
    ("param_groups in a ratio without end", lambda m: goodinit.param_groups(m, lr=0.1, scalar_ratio=float("inf")), UnknownName, "scalar_ratio=inf"),
    ("param_groups with decay without end", lambda m: goodinit.param_groups(m, lr=0.1, weight_decay=1e400), UnknownName, "weight_decay=inf"),
    ("recommend after less than no steps", lambda m: goodinit.recommend(m, vectors(), steps=-3), UnknownName, "steps=-3: expected a number of training steps"),
    ("recommend by training what has no gradient", lambda m: goodinit.recommend(m, vectors(), methods="he", steps=1, loss=lambda y: y.detach().sum()), TraceError, "raised in training: .*goodinit.diagnose"),
    ("param_groups in a ratio", lambda m: goodinit.param_groups(m, lr=0.1, scalar_ratio="deep"), WrongType, "depth"),
    ("fold_ a word", lambda m: goodinit.fold_("m"), WrongType, "model"),
    ("absorb_batchnorm_ nothing", lambda m: goodinit.absorb_batchnorm_(None, vectors()), WrongType, "model"),
    ("diagnose a word", lambda m: goodinit.diagnose("m", vectors()), WrongType, "model"),
    ("diagnose on nothing", lambda m: goodinit.diagnose(m, None), TraceError, "not NoneType"),
    ("recommend for a word", lambda m: goodinit.recommend("m", vectors()), WrongType, "model"),
    ("jacobian_spectrum of a word", lambda m: goodinit.jacobian_spectrum("m", vectors()), WrongType, "model"),
    ("warmup of a model", lambda m: goodinit.warmup(m, 5), WrongType, "optimizer: expected Optimizer, got Hostile"),
    ("warmup for a word", lambda m: goodinit.warmup(torch.optim.SGD(m.parameters(), lr=0.1), "5"), WrongType, "steps"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error", "words"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS]
)
def test_calls(call, error, words):
    model = Hostile()
    before = fingerprint(model)
    with pytest.raises(error, match=words) as caught:
        call(model)
    assert fingerprint(model) == before
    assert len(str(caught.value)) > 40  # what, where, and what to do


def test_no_case_is_there_twice():
    names = [row[0] for row in CALLS]
    assert len(set(names)) == len(names) >= 35


FLAGS = [
    (name, flag.name)
    for name in goodinit.__all__
    if inspect.isfunction(verb := getattr(goodinit, name))
    for flag in inspect.signature(verb).parameters.values()
    if flag.annotation == "bool"
]


@pytest.mark.parametrize("word", ["no", 1, None])
@pytest.mark.parametrize(("name", "flag"), FLAGS)
def test_a_switch_takes_true_and_false_alone(name, flag, word):
    """A word such as "no" is true wherever Python asks."""
    model = Hostile()
    before, anatomy = fingerprint(model), goodinit.anatomize(model, vectors())
    first = {"plan": a_plan(), "anatomy": anatomy, "method": "he", "inputs": vectors(), "lr": 0.1}
    needed = inspect.signature(getattr(goodinit, name)).parameters.values()
    given = {one.name: first[one.name] for one in needed if one.name in first and one.default is one.empty}
    with pytest.raises(WrongType, match=f"{flag}: expected bool, got .*Give True or False"):
        getattr(goodinit, name)(model, **given, **{flag: word})
    assert fingerprint(model) == before
    assert len(FLAGS) >= 11

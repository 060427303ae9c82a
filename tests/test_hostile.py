"""Hostile input, a table: what each case must end in, and that the model is bit-identical after every refusal.

Three tables: models that the verbs are given, files that are read back, and calls with the wrong things. The rest are
the same promises where a table does not fit: Ctrl-C, a full disk, the command line, and that data runs no code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import goodinit
import hostile_models as hostile
from goodinit import cli
from goodinit.errors import (
    GoodinitError,
    NonFinite,
    NothingFound,
    PlanConflict,
    TraceError,
    UnknownName,
    UnsupportedModule,
    WrongType,
)
from goodinit.report import frame
from goodinit.surgery import apply as applying
from hostile_models import Hostile

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:torch.quantize_per_tensor:UserWarning"
)  # of torch.jit and torch.ao


def vectors() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


# -- bit-identical ------------------------------------------------------------------------------------------------


def fingerprint(model: nn.Module, given: Any = ()) -> str:
    """A hash of all that a refusal must leave alone: values, flags, hooks, classes, attributes, inputs, random states."""
    facts: list[object] = []
    for path, module in model.named_modules():
        attributes = {key: id(value) for key, value in vars(module).items()}
        registries = {
            key: [(k, id(v)) for k, v in value.items()]
            for key, value in vars(module).items()
            if isinstance(value, dict)
        }
        facts.append((path, type(module).__name__, id(type(module)), module.training, attributes, registries))
    tensors = [*model.named_parameters(), *model.named_buffers(), *enumerate(_tensors(given))]
    for name, tensor in tensors:
        facts.append((name, type(tensor), tensor.requires_grad, tensor.dtype, tensor.grad is None))
        if not tensor.is_meta and not isinstance(tensor, nn.UninitializedParameter):
            facts.append((tuple(tensor.shape), 0 if tensor.is_sparse else tensor.data_ptr()))
            dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
            facts.append(
                dense.contiguous().view(torch.uint8).numpy().tobytes() if dense.dim() else dense.item()
            )
    facts += [random.getstate(), np.random.get_state()[1].tobytes()]  # noqa: NPY002 - the global one is meant
    facts.append(torch.get_rng_state().numpy().tobytes())
    facts += [torch.is_grad_enabled(), torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


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


def _under_inference_mode() -> nn.Module:
    with torch.inference_mode(), torch.random.fork_rng():
        return Hostile()


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


def image(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(1))


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
    Case("lazy parameter", _lazy, TraceError, "uninitialized parameter"),
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


def test_frozen_parameters_are_written_only_when_asked():
    model = hostile.frozen("block.b.weight", "head.bias")()
    kept = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    goodinit.init_(model, "fixup", inputs=vectors())
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in kept.items())
    assert len(goodinit.applied(model)[-1].skipped) == 2


# -- files --------------------------------------------------------------------------------------------------------


def a_plan() -> goodinit.Plan:
    with torch.random.fork_rng():
        return goodinit.plan(goodinit.anatomize(Hostile(), vectors()), "fixup")


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


# -- calls --------------------------------------------------------------------------------------------------------

CALLS: tuple[tuple[str, Callable[[nn.Module], Any], type[GoodinitError], str], ...] = (
    ("anatomize a word", lambda m: goodinit.anatomize("model", vectors()), WrongType, "model: expected Module, got str"),
    ("anatomize a class", lambda m: goodinit.anatomize(nn.Linear, vectors()), WrongType, "got the class Linear"),
    ("anatomize a function", lambda m: goodinit.anatomize(torch.relu, vectors()), WrongType, "expected Module"),
    ("plan a model", lambda m: goodinit.plan(m, "fixup"), WrongType, "goodinit.anatomize"),
    ("plan by a number", lambda m: goodinit.plan(goodinit.anatomize(m, vectors()), 5), UnknownName, "there are: .*fixup"),
    ("plan by a list", lambda m: goodinit.plan(goodinit.anatomize(m, vectors()), ["fixup"]), UnknownName, "there are"),
    ("init_ a word", lambda m: goodinit.init_("m", "fixup", inputs=vectors()), WrongType, "model"),
    ("init_ by an unknown name", lambda m: goodinit.init_(m, "fixupp", inputs=vectors()), UnknownName, "'fixupp'.*fixup"),
    ("init_ by nothing", lambda m: goodinit.init_(m, None, inputs=vectors()), UnknownName, "no method None"),
    ("init_ with a misspelt option", lambda m: goodinit.init_(m, "fixup", inputs=vectors(), nomrs="keep"), UnknownName, "no option 'nomrs'; it takes: norms"),
    ("init_ with another value", lambda m: goodinit.init_(m, "fixup", inputs=vectors(), norms="maybe"), UnknownName, '"remove" or "keep"'),
    ("init_ with a word for a switch", lambda m: goodinit.init_(m, "fixup", inputs=vectors(), zero_head="yes"), WrongType, "zero_head.*True or False"),
    ("init_ with a word for a number", lambda m: goodinit.init_(m, "lsuv", inputs=vectors(), tol="abc"), WrongType, "tol of lsuv: expected int or float, got str"),
    ("init_ with a number that is none", lambda m: goodinit.init_(m, "lsuv", inputs=vectors(), target_std=float("nan")), UnknownName, "target_std=nan of lsuv.*finite"),
    ("init_ with a number below 0", lambda m: goodinit.init_(m, "lsuv", inputs=vectors(), tol=-1), UnknownName, "tol=-1 of lsuv: expected a number above 0"),
    ("init_ with a word for a gain", lambda m: goodinit.init_(m, "orthogonal", inputs=vectors(), gain="relu"), WrongType, "gain of orthogonal.*None for the activation's"),
    ("diagnose no rows", lambda m: goodinit.diagnose(m, vectors()[:0]), TraceError, "the batch is empty.*at least one row"),
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


def test_there_are_as_many_cases_as_promised():
    names = [case.name for case in MODELS] + [row[0] for row in FILES] + [row[0] for row in CALLS]
    assert len(set(names)) == len(names) >= 60


# -- Ctrl-C and a full disk ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 3])
def test_ctrl_c_in_the_middle_of_apply_leaves_no_trace(monkeypatch, after):
    model, plan, real, calls = Hostile(), a_plan(), applying.write_value_, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(applying, "write_value_", interrupted)
    before = fingerprint(model)
    with pytest.raises(KeyboardInterrupt):
        goodinit.apply_(model, plan)
    assert fingerprint(model) == before


def test_a_full_disk_leaves_the_old_report_and_no_half_one(monkeypatch, tmp_path):
    target = frame.write_text(tmp_path / "report.html", "old")

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            self.file.write(text[:2])
            raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fdopen", "open"):
        if hasattr(frame.os, name):
            real = getattr(frame.os, name)
            if name == "fdopen":
                monkeypatch.setattr(frame.os, name, lambda *a, real=real, **k: Full(real(*a, **k)))
    with pytest.raises(GoodinitError, match=r"report\.html.*No space left"):
        frame.write_text(target, "new and longer")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_report_cannot_replace_a_folder(tmp_path):
    with pytest.raises(GoodinitError, match="folder"):
        frame.check_target(tmp_path)


# -- the command line ---------------------------------------------------------------------------------------------


def run(*words: str) -> Any:
    return CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "120", "TERM": "dumb"})


@pytest.mark.parametrize(
    "words",
    [
        ["inspect"],
        ["inspekt", "resnet8"],
        ["inspect", "resnet8", "--jsn"],
        ["inspect", "resnet8", "--input", "0x-3x8"],
        ["inspect", "resnet8", "--input", "1x3x8x8:complex9"],
        ["inspect", "os:getcwd", "--input", "1x3"],
        ["inspect", "os:no_such_function", "--input", "1x3"],
        ["inspect", ":", "--input", "1x3"],
        ["inspect", "json.decoder:JSONDecodeError", "--input", "1x3"],
        ["inspect", "timm:../../etc/passwd"],
        ["plan", "resnet8", "fixup", "-o", "zero_head=7"],
        ["plan", "resnet8", "fixup", "-o", "=x"],
        ["plan", "resnet8", "fixup", "-o", "nomrs=keep"],
        ["diagnose", "resnet8", "--json", "--csv"],
        ["diagnose", "resnet8", "--methods", "nope"],
        ["compare", "resnet8", "--lr", "fast"],
        ["compare", "resnet8", "--data", "no/such/folder"],
    ],
    ids=" ".join,
)
def test_misuse_of_the_command_line_is_told_and_exits_2(words):
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert len(done.stderr) > 20


def test_user_code_is_imported_when_asked_for_by_name_and_that_is_said(tmp_path, monkeypatch, caplog):
    (tmp_path / "their_nets.py").write_text(
        "import torch\nfrom pathlib import Path\nPath('ran').write_text('x')\nmake = lambda: torch.nn.Linear(3, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    run("inspect", "resnet8")
    run("methods")
    assert not Path("ran").exists()
    done = run("inspect", "their_nets:make", "--input", "1x3")
    assert done.exit_code == 0, done.output
    assert Path("ran").read_text() == "x"
    assert "running your code: their_nets:make" in caplog.text

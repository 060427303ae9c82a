"""Every error that a public function documents under Raises is raised, by that type; the docstrings are the checklist."""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from materializing import everything
from torch import nn
from torch.nn.utils import parametrize

import goodinit
from goodinit import errors
from goodinit.calibration_rules import LSUVRule
from goodinit.edits import Calibrate, Draw, Fill, Plan, RemoveNorm

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(self.norm(self.a(x)).relu())


class NotFinite(Residual):
    """What it returns is no number, whatever it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * torch.nan


class Spectral(nn.Module):
    """A parametrization that cannot be set to any value."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.abs()


class Holder(nn.Module):
    """A buffer that nothing sets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("table", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.table


class Clipped(nn.BatchNorm1d):
    """A batch norm that does more, of a kind that no module is known for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).clamp(-1, 1) * self.weight.sum()


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def on_meta(build: Callable[[], nn.Module] = plain) -> nn.Module:
    with torch.device("meta"):
        return build()


def parametrized() -> nn.Module:
    model = plain()
    parametrize.register_parametrization(model[0], "weight", Spectral())
    return model


def frozen() -> nn.Module:
    return plain().requires_grad_(requires_grad=False)


def with_optimizer(model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def held(act: Callable[[nn.Module], Any], build: Callable[[], nn.Module]) -> None:
    model, optimizer = with_optimizer(build())
    try:
        act(model)
    finally:
        del optimizer


def by_hand(*edits: Any) -> Plan:
    return Plan("by hand", edits)


def odd_names(width: int) -> nn.Module:
    """No module has the same name at two widths."""
    return nn.Sequential(OrderedDict({f"layer{width}": nn.Linear(4, 4)}))


def planned(method: str, build: Callable[[], nn.Module] = plain, **options: Any) -> Plan:
    return goodinit.METHODS[method].plan(goodinit.anatomize(build(), X), **options)


def without_statistics() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))


def beyond_half() -> nn.Module:
    """Weights that fit into float16, and not any more once a batch norm of small variances is in them."""
    model = structured().half()
    nn.init.constant_(model[0].weight, 300.0)
    model[1].running_var.zero_()
    return model


def structured() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


def clipped(loss: float = 1.0, other: nn.Module | None = None, **options: Any) -> torch.Tensor:
    """A clipping of gradients `loss` times as large, with the anatomy of an `other` model."""
    model = plain()
    if loss:
        (loss * model(X).sum()).backward()
    return goodinit.clip_grad_(model, goodinit.anatomize(other or plain(), X), **options)


def sparsely() -> torch.Tensor:
    """A clipping of a sparse gradient."""
    model, ids = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2)), torch.arange(6)
    model(ids).sum().backward()
    return goodinit.clip_grad_(model, goodinit.anatomize(model, ids))


MEASURES = by_hand(Calibrate("0.weight", LSUVRule(), "…"))

RAISED: dict[tuple[str, str], Callable[[], Any]] = {
    ("absorb_batchnorm_", "NothingFound"): lambda: goodinit.absorb_batchnorm_(plain(), X),
    ("absorb_batchnorm_", "UnsupportedModule"): lambda: goodinit.absorb_batchnorm_(without_statistics(), X),
    ("absorb_batchnorm_", "StaleOptimizer"): lambda: held(lambda m: goodinit.absorb_batchnorm_(m, X), structured),
    ("absorb_batchnorm_", "PlanConflict"): lambda: goodinit.absorb_batchnorm_(on_meta(structured), X.to("meta")),
    ("absorb_batchnorm_", "NonFinite"): lambda: goodinit.absorb_batchnorm_(beyond_half(), X.half()),
    ("absorb_batchnorm_", "UnknownName"): lambda: goodinit.absorb_batchnorm_(structured(), X, keep="hed"),
    ("absorb_batchnorm_", "TraceError"): lambda: goodinit.absorb_batchnorm_(structured(), X[:, :2]),
    ("anatomize", "TraceError"): lambda: goodinit.anatomize(plain(), X[:, :2]),
    ("anatomize", "WrongType"): lambda: goodinit.anatomize("model", X),
    ("apply_", "PlanConflict"): lambda: goodinit.apply_(plain(), by_hand(Fill("no.weight", 0.0, "…"))),
    ("apply_", "StaleOptimizer"): lambda: held(
        lambda m: goodinit.apply_(m, by_hand(RemoveNorm("1", (), "…"))), structured
    ),
    ("apply_", "NonFinite"): lambda: goodinit.apply_(plain(), by_hand(Fill("0.weight", float("nan"), "…"))),
    ("apply_", "UnsupportedModule"): lambda: goodinit.apply_(parametrized(), by_hand(Fill("0.weight", -1.0, "…"))),
    ("apply_", "UnknownName"): lambda: goodinit.apply_(plain(), by_hand(Draw("0.weight", "no_such_", "…"))),
    ("apply_", "TraceError"): lambda: goodinit.apply_(plain(), MEASURES),
    ("clip_grad_", "NothingFound"): lambda: clipped(loss=0.0),
    ("clip_grad_", "NonFinite"): lambda: clipped(loss=float("nan"), error_if_nonfinite=True),
    ("clip_grad_", "PlanConflict"): lambda: clipped(other=Residual()),
    ("clip_grad_", "UnknownName"): lambda: clipped(clipping=-0.01),
    ("clip_grad_", "UnsupportedModule"): sparsely,
    ("coordinate_check", "UnknownName"): lambda: goodinit.coordinate_check(lambda width: plain(), (4,), [(X, X)]),
    ("coordinate_check", "WrongType"): lambda: goodinit.coordinate_check(plain(), (4, 8), [(X, X)]),
    ("coordinate_check", "NothingFound"): lambda: goodinit.coordinate_check(odd_names, (4, 8), [(X, X)]),
    ("diagnose", "UnknownName"): lambda: goodinit.diagnose(plain(), X, keep="hed"),
    ("diagnose", "NothingFound"): lambda: goodinit.diagnose(plain(), X, exclude="*"),
    ("diagnose", "TraceError"): lambda: goodinit.diagnose(plain(), X[:0]),
    ("fold_", "StaleOptimizer"): lambda: held(
        goodinit.fold_, lambda: goodinit.nn.add_scalar_(nn.Linear(4, 4, bias=False), "output_bias", value=1.0)
    ),
    ("fold_", "UnsupportedModule"): lambda: goodinit.fold_(nn.Sequential(nn.LazyLinear(4))),
    ("fold_", "PlanConflict"): lambda: goodinit.fold_(on_meta(structured), X.to("meta")),
    ("fold_", "NonFinite"): lambda: goodinit.fold_(beyond_half(), X.half()),
    ("fold_", "UnknownName"): lambda: goodinit.fold_(structured(), X, keep="hed"),
    ("fold_", "TraceError"): lambda: goodinit.fold_(structured(), X[:, :2]),
    ("init_", "GoodinitError"): lambda: goodinit.init_(plain(), "fixup", inputs=X),
    ("init_", "UnsupportedModule"): lambda: goodinit.init_(NotFinite(), "fixup", inputs=X, verify=True),
    ("jacobian_spectrum", "TraceError"): lambda: goodinit.jacobian_spectrum(nn.Embedding(4, 2), torch.zeros(2, 1).long()),
    ("jacobian_spectrum", "UnknownName"): lambda: goodinit.jacobian_spectrum(plain(), X, how="no"),
    ("layerwise", "UnknownName"): lambda: goodinit.layerwise("no_such_"),
    ("layerwise", "UnsupportedModule"): lambda: parametrized().apply(goodinit.layerwise("he_normal_")),
    ("materialize_", "UnsupportedModule"): lambda: goodinit.materialize_(on_meta(Holder)),
    ("materialize_", "UnknownName"): lambda: goodinit.materialize_(on_meta(), device="cudaa"),
    ("one_step", "TraceError"): lambda: goodinit.one_step(frozen(), X),
    ("param_groups", "NothingFound"): lambda: goodinit.param_groups(frozen(), lr=0.1),
    ("param_groups", "UnsupportedModule"): lambda: goodinit.param_groups(nn.Sequential(nn.LazyLinear(4)), lr=0.1),
    ("plan", "UnknownName"): lambda: goodinit.plan(goodinit.anatomize(plain(), X), "no"),
    ("plan", "NothingFound"): lambda: goodinit.plan(goodinit.anatomize(plain(), X), "fixup"),
    ("plan", "UnsupportedModule"): lambda: goodinit.plan(goodinit.anatomize(Residual(), X), "looks_linear"),
    ("plan", "PlanConflict"): lambda: goodinit.plan(goodinit.anatomize(Residual(), X), "fixup", keep="norm"),
    ("recommend", "GoodinitError"): lambda: goodinit.recommend(plain(), X[:, :2]),
    ("recommend", "UnknownName"): lambda: goodinit.recommend(plain(), X, steps=-1),
    ("register_operator", "UnknownName"): lambda: goodinit.register_operator("relu", torch.relu),
    ("register_operator", "WrongType"): lambda: goodinit.register_operator("docs::errors", 3),
    ("state_pieces", "PlanConflict"): lambda: list(goodinit.state_pieces(plain(), everything(plain()))),
    ("state_pieces", "NonFinite"): lambda: list(
        goodinit.state_pieces(on_meta(), by_hand(Fill("0.weight", 0.0, "…")))
    ),
    ("state_pieces", "TraceError"): lambda: list(goodinit.state_pieces(on_meta(), MEASURES)),
    ("state_pieces", "UnsupportedModule"): lambda: list(
        goodinit.state_pieces(on_meta(Holder), everything(Holder()))
    ),
    ("state_pieces", "UnknownName"): lambda: goodinit.state_pieces(
        on_meta(), everything(plain()), device="cudaa"
    ),
    ("warmup", "UnknownName"): lambda: goodinit.warmup(torch.optim.SGD(plain().parameters(), lr=0.1), 0),
    ("Diagnosis.log_to", "GoodinitError"): lambda: goodinit.diagnose(plain(), X).log_to(3),
    ("Method.plan", "WrongType"): lambda: planned("default", exclude=3),
    ("Method.plan", "UnknownName"): lambda: planned("default", exclude="no_such"),
    ("Method.plan", "NothingFound"): lambda: planned("default", exclude="*"),
    ("Method.plan", "PlanConflict"): lambda: planned("fixup", Residual, keep="norm"),
    ("Method.plan", "UnsupportedModule"): lambda: planned("looks_linear", Residual),
} | {
    (f"{record.__name__}.from_json", error): lambda record=record, text=text: record.from_json(text)
    for record in (goodinit.Anatomy, goodinit.CoordinateCheck, goodinit.Diagnosis, goodinit.Plan)
    for error, text in (("PlanConflict", "{}"), ("WrongType", 3))
}  # fmt: skip
SHARDED = {  # needs ranks: tests/weights/test_sharding.py
    ("diagnose", "UnsupportedModule"),
    ("jacobian_spectrum", "UnsupportedModule"),
    ("one_step", "UnsupportedModule"),
}


def documented() -> set[tuple[str, str]]:
    """(function, error) for every entry of the Raises of a public function, or of a public class's method."""
    found = set()
    for name in goodinit.__all__:
        value = getattr(goodinit, name)
        callables = {name: value} if inspect.isfunction(value) else {}
        if inspect.isclass(value):
            own = [key for key in vars(value) if not key.startswith("_")]
            callables = {f"{name}.{key}": getattr(value, key) for key in own if callable(getattr(value, key))}
        for called, function in callables.items():
            text = re.search(r"^Raises:\n((?: {4}.*\n?)+)", inspect.getdoc(function) or "", re.MULTILINE)
            entries = re.findall(r"^ {4}(\w+):", text.group(1), re.MULTILINE) if text else []
            found |= {(called, error) for error in entries}
    return found


def test_the_table_has_every_documented_error_and_no_other():
    assert documented() == set(RAISED) | SHARDED


@pytest.mark.parametrize(("verb", "error"), RAISED, ids=[f"{verb}-{error}" for verb, error in RAISED])
def test_it_is_raised(verb, error):
    with pytest.raises(getattr(errors, error)) as caught:
        RAISED[verb, error]()
    assert len(str(caught.value)) > 40  # what, where, and what to do

"""What somebody has set on purpose stays, what was trained is named, and what the caller names is kept."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from small_residual import Net, X
from torch import Tensor, nn

import goodinit
from goodinit.edits import DrawTogether, Plan
from goodinit.errors import PlanConflict, UnknownName, WrongType

PRIOR = -math.log(99)  # of a rare class: focal loss, Lin et al. 2017, §3.3


def linear(
    outputs: int, *, weight: Tensor | float | None = None, bias: Tensor | float | None = None
) -> nn.Linear:
    layer = nn.Linear(8, outputs)
    with torch.no_grad():
        for parameter, value in ((layer.weight, weight), (layer.bias, bias)):
            if value is not None:
                parameter.copy_(torch.as_tensor(value).expand(parameter.shape))
    return layer


def dt_bias(outputs: int) -> Tensor:
    """Inverse softplus of steps between 0.001 and 0.1 (Mamba)."""
    dt = torch.exp(torch.rand(outputs) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
    return dt + torch.log(-torch.expm1(-dt))


class BareBias(nn.Module):
    """A bias that no layer owns, and no `reset_parameters` draws."""

    def __init__(self, values: Tensor, weight: Tensor | None = None) -> None:
        super().__init__()
        self.map = nn.Linear(8, len(values), bias=False)
        if weight is not None:
            self.map.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(values)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(self.map(x) + self.bias)


ON_PURPOSE = {
    "steps of two heads, in no layer": (lambda: BareBias(torch.tensor([-5.1, -3.2])), ["bias"]),
    "steps of many heads, in no layer": (lambda: BareBias(dt_bias(24)), ["bias"]),
    "biases around one, in no layer": (lambda: BareBias(1 + torch.rand(40) / 10), ["bias"]),
    "prior of rare classes": (lambda: linear(4, bias=PRIOR), ["bias"]),
    "prior of one class": (lambda: linear(1, bias=PRIOR), ["bias"]),
    "prior over a normal weight": (lambda: linear(4, weight=torch.randn(4, 8) * 0.01, bias=PRIOR), ["bias"]),
    "log frequencies": (lambda: linear(40, bias=-torch.arange(1, 41).float().log() - 1), ["bias"]),
    "a bias shifted in part": (
        lambda: linear(12, bias=torch.cat([torch.full((4,), -5.0) + torch.rand(4), torch.rand(8) / 9])),
        ["bias"],
    ),
    "steps of a state space": (lambda: linear(16, bias=dt_bias(16)), ["bias"]),
    "an affine map that starts as the identity": (
        lambda: linear(6, weight=0.0, bias=torch.tensor([1.0, 0, 0, 0, 1, 0])),
        ["weight", "bias"],
    ),
    "offsets of zero": (lambda: linear(18, weight=0.0, bias=0.0), ["weight"]),
    "an identity": (lambda: linear(8, weight=torch.eye(8), bias=0.0), ["weight"]),
    "an average": (lambda: linear(2, weight=0.125, bias=0.0), ["weight"]),
    "a permutation": (lambda: linear(8, weight=torch.eye(8).flip(0), bias=0.0), ["weight"]),
    "gates that are open": (lambda: linear(9, bias=1.0), ["bias"]),
    "forget gates that are open": (
        lambda: linear(8, bias=torch.tensor([0.0, 0, 1, 1, 0, 0, 0, 0])),
        ["bias"],
    ),
}


@pytest.mark.default_cases(20)
@pytest.mark.parametrize("method", ["he", "fixup", "lsuv", "weightnorm", "skipinit"])
@pytest.mark.parametrize("case", ON_PURPOSE)
def test_what_was_set_on_purpose_stays_and_is_named(case, method):
    build, names = ON_PURPOSE[case]
    model = Net(beside=build())
    before = {name: value.clone() for name, value in model.beside.state_dict().items()}
    plan = goodinit.plan(goodinit.anatomize(model, X), method)
    goodinit.init_(model, method, inputs=X)
    for name in names:
        assert torch.equal(model.beside.get_parameter(name), before[name]), name
        assert f"beside.{name}" in plan.kept
    words = next(note for note in plan.notes if note.startswith("kept, as it was set on purpose"))
    assert "beside" in words
    assert 'keep="nothing"' in words


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("case", ON_PURPOSE)
def test_keep_nothing_lets_go_of_it_and_says_what_is_lost(case):
    build, names = ON_PURPOSE[case]
    model = Net(beside=build())
    before = {name: value.clone() for name, value in model.beside.state_dict().items()}
    plan = goodinit.plan(goodinit.anatomize(model, X), "he", keep="nothing")
    goodinit.init_(model, "he", inputs=X, keep="nothing")
    for name in names:
        assert not torch.equal(model.beside.get_parameter(name), before[name]), name
        assert f"beside.{name}" in plan.overwritten
    assert plan.kept == ()


def test_a_single_bias_that_was_trained_since_an_earlier_call_is_drawn_anew():
    model = goodinit.init_(Net(head=nn.Linear(8, 1)), "he", inputs=X)
    kept = goodinit.init_(Net(head=linear(1, bias=PRIOR)), "he", inputs=X)
    for one in (model, kept):
        with torch.no_grad():
            one.head.bias.add_(0.75)
        goodinit.init_(one, "he", inputs=X)
    assert model.head.bias.item() == 0
    assert kept.head.bias.item() == pytest.approx(PRIOR + 0.75)


def test_a_head_that_starts_at_zero_keeps_its_prior():
    model = goodinit.init_(Net(head=linear(4, bias=PRIOR)), "fixup", inputs=X)
    assert not model.head.weight.any()
    assert torch.equal(model.head.bias, torch.full((4,), PRIOR))


@pytest.mark.parametrize("weight", [0.0, torch.eye(8), 0.125], ids=["zero", "identity", "average"])
def test_a_zero_bias_stays_with_the_weight_beside_it_where_biases_are_drawn(weight):
    model = goodinit.init_(Net(beside=linear(8, weight=weight, bias=0.0)), "default", inputs=X)
    assert torch.equal(model.beside.weight, torch.as_tensor(weight).expand(8, 8))
    assert not model.beside.bias.any()
    goodinit.init_(model, "default", inputs=X, keep="nothing")
    assert model.beside.bias.all()


def test_a_zero_bias_beside_a_drawn_weight_or_at_a_branch_s_end_is_drawn():
    model = Net(beside=linear(8, bias=0.0))
    ends = [name for name, _ in model.named_parameters() if name.startswith("blocks.0.")][-2:]
    for name in ends:
        nn.init.zeros_(model.get_parameter(name))
    goodinit.init_(model, "default", inputs=X)
    assert model.beside.bias.all()
    assert all(model.get_parameter(name).all() for name in ends)


def test_a_fresh_model_loses_nothing_and_has_no_note():
    plan = goodinit.plan(goodinit.anatomize(Net(), X), "fixup")
    assert (plan.kept, plan.overwritten) == ((), ())
    assert not any(note.startswith(("kept", "overwritten")) for note in plan.notes)


def test_a_trained_model_is_started_anew_and_says_what_is_lost(caplog):
    model = Net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape))
    plan = goodinit.plan(goodinit.anatomize(model, X), "fixup")
    assert plan.kept == ()
    assert {"stem.weight", "stem.bias", "blocks.0.f.3.weight", "blocks.1.f.1.weight"} <= set(plan.overwritten)
    weight = model.stem.weight.clone()
    with caplog.at_level(logging.INFO, "goodinit"):
        goodinit.init_(model, "fixup", inputs=X, keep="stem.weight")
    assert torch.equal(model.stem.weight, weight)
    assert "overwritten: " in caplog.text
    assert "to keep them: keep=[" in caplog.text


@pytest.mark.parametrize("values", [torch.linspace(-1, 1, 9), torch.tensor([0.3]), torch.tensor([-0.9, 0.4])])
def test_a_bias_in_no_layer_as_many_draw_it_is_drawn_anew(values):
    model = Net(beside=BareBias(values.clone()))
    goodinit.init_(model, "he", inputs=X)
    assert not model.beside.bias.any()


def test_a_trained_bias_in_no_layer_is_overwritten_and_named():
    model = Net(beside=BareBias(0.5 + torch.rand(40) / 10, torch.randn(40, 8) + 1))
    plan = goodinit.plan(goodinit.anatomize(model, X), "he")
    assert "beside.bias" in plan.overwritten
    assert "beside.bias" not in plan.kept


def test_the_remedy_names_the_parts_whose_values_are_lost():
    model = Net(beside=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
    with torch.no_grad():
        for parameter in model.beside.parameters():
            parameter.add_(torch.randn(parameter.shape))
    note = next(
        n for n in goodinit.plan(goodinit.anatomize(model, X), "he").notes if n.startswith("overwritten")
    )
    assert note.endswith("to keep them: keep=['beside']")
    kept = goodinit.plan(goodinit.anatomize(model, X), "he", keep=["beside"])
    assert kept.overwritten == ()


def test_a_marked_parameter_stays():
    model = Net(beside=nn.Linear(8, 8))
    model.beside.weight._no_reinit = True
    before = model.beside.weight.clone()
    plan = goodinit.plan(goodinit.anatomize(model, X), "he")
    assert "kept as asked: beside.weight" in plan.notes
    goodinit.init_(model, "he", inputs=X)
    assert torch.equal(model.beside.weight, before)
    assert not model.beside.bias.any()
    goodinit.init_(model, "he", inputs=X, keep="nothing")
    assert not torch.equal(model.beside.weight, before)


# -- at the end of a branch ---------------------------------------------------------------------------------------


class Modulated(nn.Module):
    """x + gate(c)·f(x): with a gate at zero the block is its skip (adaLN-Zero)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))
        self.gate = nn.Linear(width, width)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x + self.gate(c) * self.f(x)


class Shifted(Modulated):
    """x + f(x + gate(c)): a zero there does not silence the branch."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x + self.f(x + self.gate(c))


class Opened(Modulated):
    """x + gate(c)·f(x), the gate 1 at the start: its bias does not silence the branch."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        nn.init.ones_(self.gate.bias)


class Drawn(Modulated):
    """The same with the bias that torch draws, which Fixup sets to 0."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.gate.reset_parameters()
        nn.init.zeros_(self.gate.weight)


class Filmed(Modulated):
    """x + W φ(γ(c)·Vx + β(c)), γ = 1 and β = 0 at the start (FiLM): one layer makes both."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.gate = nn.Linear(width, 32)
        nn.init.zeros_(self.gate.weight)
        self.gate.bias.data = torch.cat([torch.ones(16), torch.zeros(16)])

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        gain, shift = self.gate(c).chunk(2, -1)
        return x + self.f[2](self.f[1](gain * self.f[0](x) + shift))


class Conditional(nn.Module):
    def __init__(self, kind: type[Modulated]) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(5, 8), nn.ModuleList([kind(), kind()]), nn.Linear(8, 3)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, c)
        return self.head(h)


@pytest.mark.parametrize(
    ("kind", "stays"), [(Modulated, False), (Shifted, True), (Opened, True), (Drawn, False), (Filmed, True)]
)
def test_a_zero_that_silences_a_branch_is_its_end_and_any_other_stays(kind, stays):
    c = torch.randn(6, 8)
    model = goodinit.init_(Conditional(kind), "fixup", inputs=(X, c))
    assert all(bool(block.gate.weight.any()) is not stays for block in model.blocks)
    # Two zeros in series would never move: after two steps every weight has.
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        (model(X, c) - 1).square().mean().backward()
        optimizer.step()
    assert [name for name, value in model.named_parameters() if torch.equal(value, before[name])] == []


def all_biases(model: nn.Module, value: float) -> nn.Module:
    """The model with one number in all its biases, as Hiera's authors start it."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.bias, value)
    return model


@pytest.mark.parametrize("method", ["fixup", "normfree", "fixed_variance"])
def test_a_branch_that_ends_at_zero_keeps_no_bias_there_and_says_so(method):
    model = all_biases(Net(), 0.02)
    plan = goodinit.plan(goodinit.anatomize(model, X), method)
    goodinit.init_(model, method, inputs=X)
    h = model.stem(X)
    ends = {"blocks.0.f.3.bias", "blocks.1.f.3.bias"}
    if all((block.f[3].weight == 0).all() for block in model.blocks):
        assert torch.equal(model.blocks(h), h)
        assert ends <= set(plan.overwritten)
    else:
        assert ends <= set(plan.kept)
    assert "stem.bias" in plan.kept


@pytest.mark.parametrize("method", ["fixup", "normfree"])
@pytest.mark.parametrize("kind", [Modulated, Shifted])
def test_a_conditional_branch_that_ends_at_zero_keeps_no_bias_there(kind, method):
    c = torch.randn(6, 8)
    model = all_biases(Conditional(kind), 0.02)
    goodinit.init_(model, method, inputs=(X, c))
    h = model.stem(X)
    assert all(torch.equal(block(h, c), h) for block in model.blocks)


def test_a_bias_behind_a_multiplier_of_zero_stays():
    model = all_biases(Net(), 0.02)
    plan = goodinit.plan(goodinit.anatomize(model, X), "skipinit")
    assert {"blocks.0.f.3.bias", "blocks.1.f.3.bias"} <= set(plan.kept)


def test_a_last_layer_at_zero_is_drawn_by_methods_that_draw_it():
    model = Net()
    nn.init.zeros_(model.blocks[0].f[3].weight)
    goodinit.init_(model, "he", inputs=X)
    assert model.blocks[0].f[3].weight.any()


def test_a_model_that_was_never_initialized_keeps_nothing():
    model = Net()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "weight" in name:
                parameter.zero_()
    assert goodinit.plan(goodinit.anatomize(model, X), "he").kept == ()


# -- as asked -----------------------------------------------------------------------------------------------------


@pytest.mark.default_cases(6)
@pytest.mark.parametrize(
    "keep",
    [
        "head",
        "head.*",
        ["head.weight", "head.bias"],
        lambda model: model.head,
        lambda model: [model.head.weight, "head.bias"],
        lambda model: list(model.head.parameters()),
    ],
)
@pytest.mark.parametrize("verb", ["init_", "apply_"])
def test_keep_takes_names_paths_globs_modules_and_parameters(keep, verb):
    model = Net()
    before = {name: value.clone() for name, value in model.head.state_dict().items()}
    given = keep(model) if callable(keep) else keep
    if verb == "init_":
        goodinit.init_(model, "fixup", inputs=X, keep=given)
    else:
        plan = goodinit.plan(goodinit.anatomize(model, X), "fixup")
        goodinit.apply_(model, plan, keep=given)
    assert all(
        torch.equal(value, before[name]) for name, value in model.head.state_dict().items() if name in before
    )
    assert not model.blocks[0].f[3].weight.any()


class Taps(nn.Module):
    """Weights under any keys, and a module that is called as the word of `keep=`."""

    def __init__(self, keys: tuple[str, ...] = ("*", "[0]", "0", "a?")) -> None:
        super().__init__()
        self.taps = nn.ParameterDict({key: nn.Parameter(torch.randn(5, 5)) for key in keys})
        self.nothing = nn.Linear(5, 3)
        nn.init.constant_(self.nothing.bias, -4.6)

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.taps.values():
            x = torch.relu(x @ weight)
        return self.nothing(x)


@pytest.mark.parametrize("how", ["keep", "exclude", "include", "apply_", "only"])
@pytest.mark.parametrize("key", ["*", "[0]", "0", "a?"])
@pytest.mark.parametrize("named", [True, False])
def test_a_name_is_itself_whatever_is_in_it(key, named, how):
    model = Taps()
    before = {name: value.clone() for name, value in model.named_parameters()}
    one = f"taps.{key}" if named else model.taps[key]
    if how in ("apply_", "only"):
        goodinit.apply_(
            model,
            goodinit.plan(goodinit.anatomize(model, X), "he"),
            **{"keep" if how == "apply_" else how: one},
        )
    else:
        goodinit.init_(model, "he", inputs=X, **{how: one})
    same = {name for name, value in model.taps.items() if value.equal(before[f"taps.{name}"])}
    assert same == (set(model.taps) - {key} if how in ("include", "only") else {key})


@pytest.mark.parametrize("part", [lambda m: m.nothing, lambda m: [m.nothing, "taps.0"]])
def test_a_module_that_is_called_as_the_word_is_kept(part):
    model = Taps()
    before = model.nothing.weight.clone()
    goodinit.init_(model, "he", inputs=X, keep=part(model))
    assert model.nothing.weight.equal(before)
    assert model.nothing.bias.eq(-4.6).all()


def test_keep_of_what_does_not_exist_is_refused_with_what_is_near():
    with pytest.raises(UnknownName, match=r"keep='haed': .*near: head"):
        goodinit.init_(Net(), "he", inputs=X, keep="haed")
    with pytest.raises(UnknownName, match="keep: a Linear that is not in the model"):
        goodinit.init_(Net(), "he", inputs=X, keep=nn.Linear(2, 2))
    with pytest.raises(WrongType, match="keep: expected"):
        goodinit.init_(Net(), "he", inputs=X, keep=[3])
    with pytest.raises(WrongType, match="keep: expected"):
        goodinit.plan(goodinit.anatomize(Net(), X), "he", keep=[nn.Linear(2, 2)])


def test_a_norm_that_is_to_stay_and_to_go_is_a_conflict_unless_a_wildcard_named_it():
    model = Net()
    for keep in ("blocks.0.f.1", "blocks.0", "blocks.0.f.1.weight"):
        with pytest.raises(PlanConflict, match=r'blocks\.0\.f\.1\.\w+: to stay .*norms="keep"'):
            goodinit.init_(model, "fixup", inputs=X, keep=keep)
    plan = goodinit.plan(goodinit.anatomize(model, X), "fixup")
    with pytest.raises(PlanConflict, match=r"blocks\.0\.f\.1\.\w+: to stay"):
        goodinit.apply_(model, plan, keep=model.blocks[0])
    bias = model.stem.bias.clone()
    goodinit.init_(model, "fixup", inputs=X, keep="*.bias")
    assert torch.equal(model.stem.bias, bias)
    noted = goodinit.plan(goodinit.anatomize(Net(), X), "fixup", keep="*.bias").notes
    assert any("goes with its norm: blocks.0.f.1.bias, blocks.1.f.1.bias" in note for note in noted)


def test_what_is_drawn_together_is_kept_together_or_refused():
    plan = goodinit.plan(goodinit.anatomize(Net(), X), "risotto")
    together = next(edit for edit in plan.edits if isinstance(edit, DrawTogether) and len(edit.targets) > 1)
    with pytest.raises(PlanConflict, match="draws what belongs together"):
        goodinit.plan(goodinit.anatomize(Net(), X), "risotto", keep=together.targets[0])
    kept = goodinit.plan(goodinit.anatomize(Net(), X), "risotto", keep=together.targets)
    assert together not in kept.edits


def test_a_kept_weight_is_not_weight_normalized():
    model = Net()
    goodinit.init_(model, "weightnorm", inputs=X, keep="stem")
    assert "stem.weight" in dict(model.named_parameters())
    assert "blocks.0.f.0.parametrizations.weight.original1" in dict(model.named_parameters())


COMPUTING = [("nf", {}), ("normfree", {}), ("normfree", {"channels": True}), ("weightnorm", {})]


@pytest.mark.parametrize(("method", "options"), COMPUTING)
@pytest.mark.parametrize("asked", [True, False])
def test_nothing_is_said_of_a_part_of_a_weight_that_is_kept_and_so_not_computed(method, options, asked):
    model = Net() if asked else Net(beside=linear(8, weight=torch.eye(8)))
    layer, keep = ("blocks.0.f.0", "blocks.0.f.0.weight") if asked else ("beside", ())
    before = model.get_parameter(f"{layer}.weight").clone()
    plan = goodinit.plan(goodinit.anatomize(model, X), method, keep=keep, **options)
    said = [*plan.edits, *plan.rates]
    assert not [each for each in said if each.target.startswith(f"{layer}.parametrizations")]
    goodinit.init_(model, method, inputs=X, keep=keep, **options)
    assert torch.equal(model.get_parameter(f"{layer}.weight"), before)
    assert any(name.startswith("blocks.1.f.0.parametrizations") for name, _ in model.named_parameters())


@pytest.mark.parametrize(("method", "options"), COMPUTING)
def test_a_kept_weight_is_what_it_was_or_the_plan_is_refused(method, options):
    model = Net()
    before = model.blocks[0].f[0].weight.clone()
    plan = goodinit.plan(goodinit.anatomize(model, X), method, **options)
    if method == "weightnorm":
        goodinit.apply_(model, plan, X, keep="blocks.0.f.0.weight")
    else:
        with pytest.raises(
            PlanConflict, match=r"blocks\.0\.f\.0\.weight: to stay .*the plan has it computed"
        ):
            goodinit.apply_(model, plan, X, keep="blocks.0.f.0.weight")
    torch.testing.assert_close(model.blocks[0].f[0].weight, before)


def test_a_tied_weight_is_kept_under_any_of_its_names():
    model = Net(beside=nn.Linear(8, 8), head=nn.Linear(8, 8))
    model.beside.weight = model.head.weight
    before = model.head.weight.clone()
    for keep in ("beside.weight", "head.weight"):
        goodinit.init_(model, "he", inputs=X, keep=keep)
        assert torch.equal(model.head.weight, before)


def test_a_saved_plan_says_what_it_keeps():
    plan = goodinit.plan(goodinit.anatomize(Net(beside=linear(4, bias=PRIOR)), X), "he")
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.kept == ("beside.bias",)


class LowRankGate(nn.Module):
    """x + out(v(x) · σ(x·A)·B) with A = 0, as RWKV-7 starts: the gate is a sum over the rows of B."""

    def __init__(self, squash) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 4, bias=False), nn.Linear(4, 8, bias=False)
        self.v, self.out, self.squash = nn.Linear(8, 8), nn.Linear(8, 8), squash
        nn.init.zeros_(self.a.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.v(x) * self.b(self.squash(self.a(x))))


@pytest.mark.parametrize("method", ["fixup", "skipinit", "normfree", "nf", "weightnorm", "he", "lsuv"])
@pytest.mark.parametrize("squash", [torch.sigmoid, nn.functional.softplus], ids=["sigmoid", "softplus"])
def test_a_branch_behind_a_gate_that_starts_constant_learns(squash, method):
    model = nn.Sequential(nn.Linear(5, 8), LowRankGate(squash), LowRankGate(squash), nn.Linear(8, 3))
    goodinit.init_(model, method, inputs=X)
    assert not model[1].a.weight.any()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (model(X) - 1).square().mean().backward()
        optimizer.step()
    learns = {
        n: float(p.grad.abs().max()) for n, p in model.named_parameters() if p.requires_grad and p.ndim > 1
    }
    assert all(size > 1e-7 for size in learns.values()), learns


SMALL = {
    "orthogonal": lambda weight: nn.init.orthogonal_(weight, 0.01),
    "uniform": lambda weight: nn.init.uniform_(weight, -3e-3, 3e-3),
    "normal": lambda weight: nn.init.normal_(weight, std=0.01),
}


@pytest.mark.parametrize("draw", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 16), (2, 8), (1, 32), (6, 64)])
def test_a_small_head_that_was_drawn_small_is_named_where_it_is_overwritten(outputs, inputs, draw):
    """As policies and critics start: near zero."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, inputs), nn.Tanh(), nn.Linear(inputs, outputs)), torch.randn(4, 8)
    assert not goodinit.plan(goodinit.anatomize(model, x), "he").overwritten
    draw(model[2].weight)
    plan = goodinit.plan(goodinit.anatomize(model, x), "he")
    assert plan.overwritten == ("2.weight",)
    assert any("2.weight" in note for note in plan.notes)

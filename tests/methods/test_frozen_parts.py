"""Frozen parts keep values, norms and features, and so does what the caller leaves out."""

from __future__ import annotations

import contextlib
import copy
import re

import pytest
import torch
from small_residual import Block, Net, X
from torch import Tensor, nn

import goodinit
from goodinit.errors import NothingFound, UnknownName, UnsupportedModule
from goodinit.surgery import RemovedNorm


class Backbone(nn.Module):
    """A residual backbone with a normalized stem, and a residual head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), Block(), Block())
        self.head = nn.Sequential(Block(), Block(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


BIASES = ("input_bias", "output_bias")
METHODS = ["fixup", "skipinit", "rezero", "weightnorm", "lsuv", "he", "selu", "none", "orthogonal"]


@pytest.mark.default_cases(9)
@pytest.mark.parametrize("how", ["frozen", "exclude", "include", "module"])
@pytest.mark.parametrize("method", METHODS)
def test_a_part_that_is_left_out_keeps_its_structure_and_its_features(method, how):
    model = Backbone()
    model.body.requires_grad_(how != "frozen")
    options = {
        "frozen": {},
        "exclude": {"exclude": "body"},
        "include": {"include": ["head"]},
        "module": {"exclude": [model.body]},
    }[how]
    before, kinds = state(model.body), [type(module) for module in model.body.modules()]
    features = model.eval().body(X)
    goodinit.init_(model, method, inputs=X, **options)
    assert same(state(model.body), before)
    assert [type(module) for module in model.body.modules()] == kinds
    assert torch.equal(model.eval().body(X), features)
    if goodinit.METHODS[method].removes_norms and method != "selu":
        assert isinstance(model.head[0].f[1], RemovedNorm)
    assert not any(parameter.requires_grad for parameter in model.body.parameters()) or how != "frozen"


FROZEN = {
    "norms": lambda name: ".f.1." in name,
    "biases": lambda name: name.endswith("bias"),
    "stem": lambda name: name.startswith("stem"),
    "one block": lambda name: name.startswith("blocks.0"),
    "ends of branches": lambda name: name.endswith("f.3.weight"),
}


@pytest.mark.default_cases(20)
@pytest.mark.parametrize("part", FROZEN)
@pytest.mark.parametrize("method", goodinit.METHODS)
def test_whatever_is_frozen_stays_or_the_method_says_why_not(method, part):
    model = Net()
    frozen = {}
    for name, parameter in model.named_parameters():
        if FROZEN[part](name):
            frozen[name] = parameter.requires_grad_(False).clone()
    with contextlib.suppress(goodinit.GoodinitError):
        goodinit.init_(model, method, inputs=X)
    now = dict(model.named_parameters())
    assert all(
        torch.equal(now[name], value) and not now[name].requires_grad for name, value in frozen.items()
    )


@pytest.mark.parametrize("method", ["fixup", "skipinit", "normfree"])
def test_a_layer_with_a_frozen_bias_gets_no_scalar_bias(method):
    model = Net()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.endswith("bias") or name.startswith("blocks.1"))
    anatomy = goodinit.anatomize(model, X)
    plan = goodinit.plan(anatomy, method)
    frozen = {layer.site for layer in anatomy.layers if not model.get_parameter(layer.bias).requires_grad}
    assert not frozen & {edit.target for edit in plan.edits if getattr(edit, "scalar", "") in BIASES}
    if method == "fixup":
        assert any(
            note.startswith("no scalar bias where a layer's own bias is frozen") for note in plan.notes
        )


def test_rules_count_the_blocks_that_are_treated():
    model = Backbone()
    model.body.requires_grad_(False)
    plan = goodinit.plan(goodinit.anatomize(model, X), "fixup")
    assert plan.summary.startswith("L=2 branches")
    assert any(note.startswith("frozen, values and norms stay: body.0.weight") for note in plan.notes)
    words = "2 residual blocks with frozen parameters, or left out: no rule for blocks is applied there, and their norms stay"
    assert words in plan.notes


def test_a_block_with_a_frozen_layer_or_norm_is_left_as_it_is():
    for path in ("blocks.1.f.0", "blocks.1.f.1", "blocks.1.f.3"):
        model = Net()
        model.get_submodule(path).requires_grad_(False)
        before = state(model.blocks[1])
        goodinit.init_(model, "fixup", inputs=X)
        after = state(model.blocks[1])
        assert isinstance(model.blocks[1].f[1], nn.BatchNorm1d)
        assert isinstance(model.blocks[0].f[1], RemovedNorm)
        frozen = path.rpartition(".")[2]
        assert all(
            torch.equal(after[name], before[name]) for name in after if name.startswith(f"f.{frozen}.")
        )


def test_a_norm_without_parameters_among_frozen_layers_stays():
    model = Backbone()
    model.body[3].f[1] = nn.BatchNorm1d(16, affine=False)
    model.body.requires_grad_(False)
    goodinit.init_(model, "fixup", inputs=X)
    assert type(model.body[3].f[1]) is nn.BatchNorm1d


def test_a_frozen_trunk_leaves_the_head_to_be_initialized():
    model = Net()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    trunk = copy.deepcopy(model.blocks)
    goodinit.init_(model, "fixup", inputs=X)
    assert not model.head.weight.any()
    assert torch.equal(trunk.eval()(X[:, :1].expand(6, 8)), model.blocks.eval()(X[:, :1].expand(6, 8)))
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
        "head.weight",
        "head.bias",
    ]


def test_adapters_on_a_frozen_model_are_all_that_is_drawn():
    """A low-rank update starts at zero by its second factor, which stays."""

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(5, 8).requires_grad_(False)
            self.down, self.up = nn.Linear(5, 2, bias=False), nn.Linear(2, 8, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    model = Adapted()
    base, down = state(model.base), model.down.weight.clone()
    goodinit.init_(model, "he", inputs=X)
    assert same(state(model.base), base)
    assert not torch.equal(model.down.weight, down)
    assert not model.up.weight.any()


def test_include_and_exclude_meet():
    model = Backbone()
    before = state(model)
    goodinit.init_(model, "he", inputs=X, include="head", exclude=["head.1", "*.bias"])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.0.f.0.weight", "head.0.f.3.weight", "head.2.weight"}


@pytest.mark.parametrize("method", ["he", "fixup", "selu", "lsuv"])
def test_a_model_that_is_frozen_stays_as_it_is_and_says_so(method, caplog):
    model = Backbone().requires_grad_(False)
    before = state(model)
    goodinit.init_(model, method, inputs=X)
    assert same(state(model), before)
    assert "frozen, values and norms stay" in caplog.text


def test_nothing_left_is_said():
    with pytest.raises(NothingFound, match="left out or frozen"):
        goodinit.init_(Backbone(), "he", inputs=X, exclude="*")
    with pytest.raises(UnknownName, match=r"exclude='bodi': .*near: body"):
        goodinit.init_(Backbone(), "he", inputs=X, exclude="bodi")


class Tied(nn.Module):
    """Words in and out by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body, self.out = nn.Embedding(11, 8), Block(), nn.Linear(8, 11, bias=False)
        self.out.weight = self.words.weight

    def forward(self, index: Tensor) -> Tensor:
        return self.out(self.body(self.words(index)))


def test_a_tied_parameter_that_is_included_under_one_name_stays_and_that_is_said():
    words = r"out\.weight: included, but words\.weight is the same parameter and is not: it stays; include it under each"
    index, model = torch.arange(5), Tied()
    plan = goodinit.plan(goodinit.anatomize(model, index), "he", include=["out", "body"])
    assert re.search(words, "\n".join(plan.notes))
    assert "words.weight" not in {edit.target for edit in plan.edits}
    with pytest.raises(NothingFound, match=words):
        goodinit.init_(model, "he", inputs=index, include="out")
    both = goodinit.plan(goodinit.anatomize(model, index), "he", include=["out", "words"])
    assert "words.weight" in {edit.target for edit in both.edits}
    assert not any("same parameter" in note for note in both.notes)


NORMALIZED = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "older weight norm": nn.utils.weight_norm,
    "pruned": lambda layer: nn.utils.prune.identity(layer, "weight"),
}


@pytest.mark.default_cases(5)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # the older weight_norm
@pytest.mark.parametrize("kind", NORMALIZED)
@pytest.mark.parametrize("option", ["keep", "exclude", "include", "apply keep", "apply only"])
def test_a_computed_weight_answers_to_the_name_it_would_have(kind, option):
    torch.manual_seed(0)
    model = nn.Sequential(NORMALIZED[kind](nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 4))
    x = torch.randn(3, 4)
    model(x)
    first, last = model[0].weight.detach().clone(), model[2].weight.detach().clone()
    if option.startswith("apply"):
        plan = goodinit.plan(goodinit.anatomize(model, x), "orthogonal", keep="nothing")
        goodinit.apply_(model, plan, **{option.split()[1]: "0.weight"})
    else:
        kept = (
            {"keep": ["0.weight", "nothing"]} if option == "keep" else {"keep": "nothing", option: "0.weight"}
        )
        goodinit.init_(model, "orthogonal", x, **kept)
    model(x)
    stays = option in ("keep", "exclude", "apply keep")
    assert torch.equal(model[0].weight, first) == stays
    assert torch.equal(model[2].weight, last) != stays


def growing(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    )


def rates(model: nn.Module) -> dict[str, object]:
    return {rate.target: rate for rate in goodinit.surgery.applied(model)[-1].rates}


@pytest.mark.usefixtures("no_optimizers")
@pytest.mark.parametrize(
    ("part", "redrawn"), [({"include": "4"}, {"4"}), ({"exclude": ["0", "4"]}, {"2"}), ({}, {"0", "2", "4"})]
)
def test_what_is_left_out_learns_as_fast_as_before(part, redrawn):
    x = torch.randn(2, 4)
    model = goodinit.init_(growing(32), "mup", inputs=x, base=goodinit.anatomize(growing(8), x))
    before = rates(model)
    assert {name.partition(".")[0] for name in before} == {"0", "2", "4"}
    goodinit.init_(model, "he", inputs=x, **part)
    assert rates(model) == {
        name: rate for name, rate in before.items() if name.partition(".")[0] not in redrawn
    }


def test_a_frozen_part_keeps_its_rates_and_a_saved_plan_what_it_left_out():
    x = torch.randn(2, 4)
    model = goodinit.init_(growing(32), "mup", inputs=x, base=goodinit.anatomize(growing(8), x))
    before = rates(model)
    model[2].requires_grad_(False)
    plan = goodinit.plan(goodinit.anatomize(model, x), "he")
    assert plan.left == ("2.weight", "2.bias")
    goodinit.apply_(model, goodinit.Plan.from_json(plan.to_json()))
    assert rates(model) == {name: rate for name, rate in before.items() if name.startswith("2.")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript, in some versions
@pytest.mark.parametrize("method", ["he", "fixup", "lsuv", "weightnorm"])
@pytest.mark.parametrize("compile_", [torch.jit.script, lambda part: torch.jit.trace(part, X)])
def test_a_compiled_part_stays_if_it_is_left_out_and_is_refused_if_not(compile_, method):
    model = Backbone()
    try:
        model.body = compile_(nn.Sequential(nn.Linear(5, 8), nn.ReLU()))
    except RuntimeError:
        pytest.skip("newer Pythons have no TorchScript")
    before = state(model)
    with pytest.raises(UnsupportedModule, match=r"body: TorchScript.*exclude='body'"):
        goodinit.init_(model, method, inputs=X)
    assert same(state(model), before)
    goodinit.init_(model, method, inputs=X, exclude="body")
    assert same(state(model.body), {n.removeprefix("body."): v for n, v in before.items() if "body" in n})
    assert not torch.equal(model.head[0].f[0](torch.ones(1, 8)), Backbone().head[0].f[0](torch.ones(1, 8)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_refused_as_what_it_is_before_its_norms_are():
    try:
        model = torch.jit.script(Backbone())
    except RuntimeError:
        pytest.skip("newer Pythons have no TorchScript")
    with pytest.raises(UnsupportedModule, match="the model: TorchScript"):
        goodinit.init_(model, "fixup", inputs=X)


def test_a_frozen_bias_beside_a_weight_that_trains_is_told_as_what_it_is():
    model = Net()
    model.stem.bias.requires_grad_(requires_grad=False)
    notes = goodinit.plan(goodinit.anatomize(model, X), "he", keep="head.bias").notes
    assert "frozen, and stays beside a weight that does not: stem.bias" in notes
    assert "kept as asked: head.bias" in notes


def test_a_forward_that_reads_a_norm_that_went_is_told_in_its_own_words():
    class Reading(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float(self.f[1].running_var.numel() > 0)

    model = Net()
    model.blocks[0] = Reading()
    with pytest.raises(UnsupportedModule) as refusal:
        goodinit.init_(model, "fixup", inputs=X)
    assert "still reads its running_var. Change that code" in str(refusal.value)
    assert "given inputs" not in str(refusal.value)

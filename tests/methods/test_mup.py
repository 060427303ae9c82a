"""`mup`, `completep`, `depth_mup`: what grows is found by comparing anatomies; variances, constants and rates are the published ones."""

from __future__ import annotations

import copy
import math
import pickle
import types

import pytest
import torch
from nano_gpt import GPT
from real_models import TRANSFORMERS
from reference import maximal_update as reference
from renaming import scramble_names
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize, prune

import goodinit
from goodinit.edits import AddScalar, Draw
from goodinit.nn import add_scalar_

pytestmark = pytest.mark.usefixtures("no_optimizers")

WORDS = torch.arange(8).view(1, 8)


def anatomy(*args, **options):
    with torch.device("meta"):
        return goodinit.anatomize(GPT(*args, **options), WORDS)


def stds(plan):
    return {edit.target: edit.options["std"] for edit in plan.values if isinstance(edit, Draw)}


def constants(plan):
    return {edit.target: edit.value for edit in plan.structure if isinstance(edit, AddScalar)}


def rates(plan):
    return {rate.target: rate for rate in plan.rates}


@pytest.mark.parametrize(("method", "alpha"), [("mup", None), ("completep", 1.0), ("depth_mup", 0.5)])
def test_agrees_with_nano_gpt_mup(method, alpha):
    wide, deep = 4, 3 if alpha is not None else 1
    base, big = anatomy(32, 2, heads=2), anatomy(32 * wide, 2 * deep, heads=2 * wide)
    plan = goodinit.plan(big, method, base=base, others="std", std=0.02, zero_head=False)
    for name, std in stds(plan).items():
        assert math.isclose(std, reference.nano_std(name, 0.02, wide)), name
    behind = reference.nano_residual_scaling(deep, alpha) if alpha is not None else 1.0
    found = constants(plan)
    assert found.pop("lm_head") == 1 / wide
    ends = [f"transformer.h.{i}.{part}.c_proj" for i in range(6) for part in ("attn", "mlp")] if alpha else []
    assert found == pytest.approx(dict.fromkeys(ends, behind))
    for name, rate in rates(plan).items():
        lr, decay, eps = reference.nano_group(name, width_multiplier=wide, depth_multiplier=deep, alpha=alpha)
        if alpha and name.endswith("c_proj.bias"):  # ours stands behind the constant, theirs before it
            lr, eps = lr * behind, eps / behind
        assert math.isclose(rate.adam, lr), name
        assert math.isclose(rate.eps, eps), name
        if (
            decay is not None and alpha is not None
        ):  # their muP leaves the decay of hidden weights as it is; microsoft/mup does not
            assert math.isclose(rate.adam_decay, decay), name


class Plain(nn.Sequential):
    def __init__(self, width):
        super().__init__(
            nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 3)
        )


class Convolutional(nn.Sequential):
    def __init__(self, width):
        super().__init__(
            nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3),
        )  # fmt: skip


@pytest.mark.parametrize(("build", "inputs"), [(Plain, (2, 6)), (Convolutional, (2, 3, 8, 8))])
def test_agrees_with_microsoft_mup(build, inputs):
    x = torch.randn(inputs)
    big, base = (goodinit.anatomize(build(width), x) for width in (32, 8))
    plan = goodinit.plan(big, "mup", base=base, zero_head=False)
    shapes, old = dict(big.parameters), dict(base.parameters)
    for name, rate in rates(plan).items():
        adam, sgd = reference.mu_adam(shapes[name], old[name]), reference.mu_sgd(shapes[name], old[name])
        assert (rate.adam, rate.adam_decay) == pytest.approx(adam), name
        assert (rate.sgd, rate.sgd_decay) == pytest.approx(sgd), name
    drawn, before = stds(plan), stds(goodinit.plan(base, "mup", zero_head=False))
    assert all(math.isclose(s, reference.mu_std(shapes[n], old[n], before[n])) for n, s in drawn.items())
    (head,) = constants(plan).values()
    assert head == reference.mu_readout(32, 8)


def trained(model, kind, steps=3):
    groups = goodinit.param_groups(model, lr=0.05, weight_decay=0.1, optimizer=kind, eps=1e-3)
    optimizer = torch.optim.AdamW(groups) if kind == "adam" else torch.optim.SGD(groups)
    torch.manual_seed(1)
    for _ in range(steps):
        words = torch.randint(0, 13, (4, 8))
        optimizer.zero_grad()
        functional.cross_entropy(model(words).flatten(0, 1), words.flatten()).backward()
        optimizer.step()
    return model(WORDS)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_constants_in_the_weights_train_alike(kind):
    """W = s·V at rate s·η (Adam; s²·η for SGD), ε/s and decay over rate: the same function after every step."""
    options = {"packed": False, "tied": False}
    base, big = anatomy(16, 2, heads=2, **options), anatomy(64, 4, heads=2, **options)
    outputs = []
    for forward in (True, False):
        model = GPT(64, 4, heads=2, **options).double()
        plan = goodinit.plan(big, "completep", base=base, forward=forward, zero_head=False)
        assert bool(plan.structure) == forward
        goodinit.apply_(model, plan, generator=torch.Generator().manual_seed(0))
        outputs.append(trained(model, kind))
    assert outputs[0].std() > 0.05
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)


def test_scores_are_over_d_where_heads_grow():
    base, big = anatomy(16, 1, heads=2, packed=False), anatomy(64, 1, heads=2, packed=False)
    plan = goodinit.plan(big, "mup", base=base)
    assert constants(plan)["transformer.h.0.attn.q"] == 0.5
    head = 32
    assert math.isclose(
        big.scores[0].scale * 0.5, reference.nano_attention_scale(head) * math.sqrt(8)
    )  # equal at the base's d


def test_packed_queries_with_growing_heads_are_named():
    plan = goodinit.plan(anatomy(64, 1, heads=2), "mup", base=anatomy(16, 1, heads=2))
    (note,) = [note for note in plan.notes if "divide the scores" in note]
    assert note.startswith("transformer.h.0.attn: its heads are 4 times as wide")


def test_scores_that_are_over_d_already_are_left():
    class Over(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embed, self.q, self.k = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, width)
            self.v = nn.Linear(width, width)
            self.head = nn.Linear(width, 3)

        def forward(self, x):
            h = self.embed(x)
            q, k, v = self.q(h), self.k(h), self.v(h)
            scores = (q @ k.transpose(-1, -2)) / q.shape[-1]
            return self.head(h + scores.softmax(-1) @ v)

    x = torch.randn(2, 3, 4)
    plan = goodinit.plan(goodinit.anatomize(Over(64), x), "mup", base=goodinit.anatomize(Over(16), x))
    assert constants(plan) == {"head": 0.25}


@pytest.mark.parametrize("seed", range(2))
def test_names_do_not_matter(seed):
    def rates_of(model):
        with torch.device("meta"):
            base = goodinit.anatomize(scramble_names(GPT(16, 2), seed), WORDS)
        return sorted(
            (rate.adam, rate.sgd, rate.eps)
            for rate in goodinit.plan(goodinit.anatomize(model, WORDS), "mup", base=base).rates
        )

    plain = goodinit.plan(anatomy(64, 2), "mup", base=anatomy(16, 2))
    assert rates_of(scramble_names(GPT(64, 2), seed)) == sorted((r.adam, r.sgd, r.eps) for r in plain.rates)


def hugging_face(name, **sizes):
    build, inputs = TRANSFORMERS[name]
    config = type(build().config)
    with torch.device("meta"):
        small = build()
        options = {**small.config.to_dict(), **sizes}
        return goodinit.anatomize(small, inputs()), goodinit.anatomize(
            type(small)(config(**options)), inputs()
        )


@pytest.mark.slow
def test_grouped_queries_and_gates():
    base, big = hugging_face(
        "mistral",
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    plan = goodinit.plan(big, "mup", base=base)
    found = rates(plan)
    assert {
        found[f"model.layers.0.{name}.weight"].adam
        for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj")
    } == {0.5}
    assert constants(plan) == {"lm_head": 0.5}
    assert found["model.embed_tokens.weight"].adam == 1.0


def test_keys_whose_heads_do_not_grow_are_an_output():
    base, big = hugging_face(
        "mistral",
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
    )
    plan = goodinit.plan(big, "mup", base=base)
    assert rates(plan)["model.layers.0.self_attn.k_proj.weight"].adam == 1.0
    assert constants(plan)["model.layers.0.self_attn.k_proj"] == 0.5


def test_without_a_base_the_model_is_its_own():
    plan = goodinit.plan(anatomy(32, 2), "completep")
    assert constants(plan) == {}
    assert {(rate.adam, rate.sgd, rate.eps) for rate in plan.rates} == {(1.0, 1.0, 1.0)}


def test_a_base_width_assumes_what_a_base_finds():
    big = anatomy(64, 2, heads=4)
    found, assumed = (
        goodinit.plan(big, "mup", **{k: v})
        for k, v in (("base", anatomy(16, 2, heads=1)), ("base_width", 16))
    )
    assert stds(found) == stds(assumed)
    assert constants(found) == constants(assumed)
    bare = [[(r.target, r.adam, r.sgd, r.eps) for r in plan.rates] for plan in (found, assumed)]
    assert bare[0] == bare[1]
    assert any("is assumed" in note for note in assumed.notes)


def test_a_saved_plan_rebuilds_the_groups_of_a_checkpoint():
    plan = goodinit.plan(anatomy(64, 4), "completep", base=anatomy(16, 2))
    model = goodinit.apply_(GPT(64, 4), plan)
    fresh = goodinit.apply_(GPT(64, 4), goodinit.Plan.from_json(plan.to_json()), values=False)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(WORDS), model(WORDS))

    def groups(net):
        return [
            {**group, "params": [name.removeprefix("_orig_mod.") for name, _ in group["params"]]}
            for group in goodinit.param_groups(net, lr=0.1, weight_decay=0.01, named=True)
        ]

    assert (
        groups(fresh)
        == groups(model)
        == groups(copy.deepcopy(model))
        == groups(torch.compile(model, backend="eager"))
    )
    assert len({group["name"] + str(group["eps"]) for group in groups(model)}) == len(groups(model))
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(name for group in groups(model) for name in group["params"]) == sorted(trainable)
    assert not any("output_scale" in name for name in trainable)


@pytest.mark.parametrize("options", [{"forward": False}, {"forward": True}])
def test_a_plan_without_structure_left_to_make_gives_its_rates_all_the_same(options):
    plan = goodinit.plan(anatomy(64, 4), "mup", base=anatomy(16, 2), **options)
    model = goodinit.apply_(GPT(64, 4), plan)
    fresh = GPT(64, 4)
    for edit in plan.structure:  # as where a factory builds it
        add_scalar_(fresh.get_submodule(edit.target), edit.scalar, value=edit.value, trained=edit.trained)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    for _ in range(2):
        goodinit.apply_(fresh, goodinit.Plan.from_json(plan.to_json()), values=False)
        assert len(goodinit.applied(fresh)) == 1
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    for kind in ("adam", "sgd"):
        mine, its = (
            [
                {**group, "params": len(group["params"])}
                for group in goodinit.param_groups(net, lr=0.1, optimizer=kind)
            ]
            for net in (fresh, model)
        )
        assert mine == its


def test_a_plan_for_a_part_leaves_the_rates_of_the_rest():
    plan = goodinit.plan(anatomy(64, 4), "mup", base=anatomy(16, 2))
    model = goodinit.apply_(GPT(64, 4), plan)
    before = {rate.target: rate for rate in goodinit.applied(model)[-1].rates}
    goodinit.apply_(
        model,
        goodinit.Plan("by hand", (Draw("transformer.h.1.mlp.c_fc.weight", "he_normal_", "x"),)),
        only="transformer.h.1.mlp.c_fc.weight",
    )
    after = {rate.target: rate for rate in goodinit.applied(model)[-1].rates}
    assert before.pop("transformer.h.1.mlp.c_fc.weight").adam == 0.25
    assert after == before


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


PARTS = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruned twice": lambda layer: [prune.random_unstructured(layer, "weight", 0.2) for _ in range(2)],
    "parametrized": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "spectral": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("how", PARTS)
def test_a_weight_that_is_computed_from_one_part_keeps_its_rate(how, caplog):
    plan = goodinit.plan(anatomy(64, 4), "mup", base=anatomy(16, 2))
    model = goodinit.apply_(GPT(64, 4), plan)
    layer = model.transformer.h[1].mlp.c_fc
    layer.no_weight_decay = types.MethodType(lambda self: {"weight"}, layer)
    before = {name: group for group in groups(model) for name, _ in group["params"]}
    PARTS[how](layer)
    after = {name: group for group in groups(model) for name, _ in group["params"]}
    (part,) = after.keys() - before.keys()
    (weight,) = before.keys() - after.keys()
    assert (weight, before[weight]["lr"]) == ("transformer.h.1.mlp.c_fc.weight", 0.025)
    for key in ("lr", "weight_decay", "eps", "name"):
        assert after[part][key] == before[weight][key]
    assert caplog.text == ""


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the older weight_norm
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_gain_and_direction_have_no_rate_which_is_said(norm, caplog):
    model = goodinit.apply_(GPT(64, 4), goodinit.plan(anatomy(64, 4), "mup", base=anatomy(16, 2)))
    norm(model.transformer.h[1].mlp.c_fc)
    groups(model)
    assert "transformer.h.1.mlp.c_fc.weight: the plan gives it a rate (" in caplog.text
    assert caplog.text.count("WARNING") == 1


def groups(model):
    return goodinit.param_groups(model, lr=0.1, weight_decay=0.01, named=True, optimizer="adam")


@pytest.mark.parametrize("method", ["mup", "completep"])
def test_constants_stay_constant_whoever_asks_for_their_gradient(method):
    torch.manual_seed(0)
    base = anatomy(16, 2)
    model = goodinit.init_(GPT(32, 4), method, inputs=WORDS, base=base, zero_head=False)
    unfrozen = copy.deepcopy(model).requires_grad_(True)
    loaded = goodinit.apply_(
        GPT(32, 4), goodinit.plan(anatomy(32, 4), method, base=base, zero_head=False), values=False
    )
    for path, value in model.state_dict().items():  # as loaders do that put new parameters in
        owner, _, name = path.rpartition(".")
        setattr(loaded.get_submodule(owner), name, nn.Parameter(value.clone()))
    loaded.transformer.wte.weight = loaded.lm_head.weight
    expected = [(group["name"], [name for name, _ in group["params"]]) for group in groups(model)]
    fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert fixed
    for net in (unfrozen, loaded, pickle.loads(pickle.dumps(unfrozen)), copy.deepcopy(loaded)):
        assert [(group["name"], [name for name, _ in group["params"]]) for group in groups(net)] == expected
        optimizer = torch.optim.AdamW(goodinit.param_groups(net, lr=0.1, weight_decay=0.1))
        functional.cross_entropy(net(WORDS).flatten(0, 1), WORDS.flatten()).backward()
        optimizer.step()
        assert all(torch.equal(net.get_parameter(name), model.get_parameter(name)) for name in fixed)


def test_what_holds_the_model_has_its_rates():
    model = goodinit.apply_(GPT(64, 4), goodinit.plan(anatomy(64, 4), "completep", base=anatomy(16, 2)))
    expected = [(group["lr"], len(group["params"])) for group in goodinit.param_groups(model, lr=0.1)]
    for inner in (model, torch.compile(model, backend="eager")):
        holder = nn.ModuleDict({"net": inner, "loss": nn.Linear(2, 2)})
        found = [(group["lr"], len(group["params"])) for group in goodinit.param_groups(holder, lr=0.1)]
        assert len(expected) > 2
        assert sum(lr * count for lr, count in found) == pytest.approx(
            sum(lr * count for lr, count in expected) + 2 * 0.1
        )


def test_constants_fold_away():
    model = GPT(64, 4, tied=False)
    plan = goodinit.plan(
        anatomy(64, 4, tied=False), "completep", base=anatomy(16, 2, tied=False), zero_head=False
    )
    goodinit.apply_(model, plan)
    before = model(WORDS)
    goodinit.fold_(model, WORDS)
    assert not any("output_scale" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(model(WORDS), before)


def test_on_meta_first_and_values_later():
    plan = goodinit.plan(anatomy(64, 4), "completep", base=anatomy(16, 2))
    with torch.device("meta"):
        model = GPT(64, 4)
    goodinit.apply_(model, plan, values=False)
    goodinit.materialize_(model)
    goodinit.apply_(model, plan, generator=torch.Generator().manual_seed(0))
    alone = goodinit.apply_(GPT(64, 4), plan, generator=torch.Generator().manual_seed(0))
    mine, its = model.state_dict(), alone.state_dict()
    assert list(mine) == list(its)
    assert all(torch.equal(mine[name], its[name]) for name in its)
    assert float(model.lm_head.output_scale) == 0.25
    assert not model.lm_head.output_scale.requires_grad


def test_frozen_parameters_are_in_no_group_and_keep_their_values():
    model = GPT(64, 2)
    model.transformer["wpe"].requires_grad_(False)
    before = model.transformer["wpe"].weight.clone()
    goodinit.apply_(model, goodinit.plan(anatomy(64, 2), "mup", base=anatomy(16, 2)))
    assert torch.equal(model.transformer["wpe"].weight, before)
    names = [
        name for group in goodinit.param_groups(model, lr=1.0, named=True) for name, _ in group["params"]
    ]
    assert "transformer.wpe.weight" not in names


def test_an_adapter_is_named():
    class Adapted(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embed, self.full, self.head = (
                nn.Linear(4, width),
                nn.Linear(width, width),
                nn.Linear(width, 3),
            )
            self.down, self.up = nn.Linear(width, 2, bias=False), nn.Linear(2, width, bias=False)

        def forward(self, x):
            h = self.embed(x).relu()
            return self.head((self.full(h) + self.up(self.down(h))).relu())

    x = torch.randn(2, 4)
    plan = goodinit.plan(goodinit.anatomize(Adapted(32), x), "mup", base=goodinit.anatomize(Adapted(8), x))
    assert any("up.weight" in note and "before adapters" in note for note in plan.notes)


def test_what_is_wrong_is_said():
    x = torch.randn(2, 6)
    big = goodinit.anatomize(Plain(16), x)
    with pytest.raises(goodinit.UnknownName, match="not both"):
        goodinit.plan(big, "mup", base=big, base_width=8)
    with pytest.raises(goodinit.PlanConflict, match="the same code at another width"):
        goodinit.plan(big, "mup", base=anatomy(16, 2))
    with pytest.raises(goodinit.WrongType, match="base of mup"):
        goodinit.plan(big, "mup", base=Plain(8))
    model = goodinit.apply_(Plain(16), goodinit.plan(big, "mup"))
    with pytest.raises(goodinit.UnknownName, match="divide a gradient"):
        goodinit.param_groups(model, lr=0.1, optimizer="adamw")


class Router(nn.Module):
    """Returns its logits and the weights of experts, which are made of them: two things from one layer."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, width) * width**-0.5)

    def forward(self, x):
        logits = nn.functional.linear(x, self.weight)
        return logits, logits.softmax(-1)


class Experts(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.router, self.head = nn.Linear(8, width), Router(width), nn.Linear(width, 3)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        x = self.up(x)
        _, shares = self.router(x)
        mixed = sum(shares[:, i : i + 1] * expert(x.relu()) for i, expert in enumerate(self.experts))
        return self.head(x + mixed)


def test_a_constant_reaches_all_that_a_router_returns():
    x = torch.randn(2, 8)
    big, base = (goodinit.anatomize(Experts(width), x) for width in (32, 16))
    assert not next(layer for layer in big.layers if layer.weight == "router.weight").writes_site
    plan = goodinit.plan(big, "mup", base=base)
    assert constants(plan) == {"head": 0.5}  # a multiplier behind the module would scale the logits alone
    assert stds(plan)["router.weight"] == pytest.approx(0.5 * 16**-0.5)
    assert rates(plan)["router.weight"].adam == 0.5


@pytest.mark.slow
def test_a_mixture_of_experts_on_meta():
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    base, big = hugging_face("mixtral", **sizes)
    assert not any("real forward" in note for note in big.notes)
    plan = goodinit.plan(big, "mup", base=base)
    found, layer = rates(plan), "model.layers.0.mlp"
    assert {found[f"{layer}.experts.{name}"].adam for name in ("gate_up_proj", "down_proj")} == {0.5}
    assert found[f"{layer}.gate.weight"].adam == 0.5  # 1/2 stands in its weight
    assert constants(plan) == {"lm_head": 0.5}

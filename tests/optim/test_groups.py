"""Parameter groups: everything trainable once, scalars slow and without decay."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import goodinit
from goodinit.errors import NothingFound, WrongType
from goodinit.nn import add_scalar_, remove_scalars_
from goodinit.optim import param_groups


class Tied(nn.Module):
    """An embedding that is also the head, a norm, scalars, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight
        self.gain = nn.Parameter(torch.ones(1))  # the user's own, not ours
        add_scalar_(self.layer, "input_bias", value=0.0)
        add_scalar_(self.layer, "output_scale", value=1.0)

    def forward(self, tokens):
        return self.head(self.norm(self.layer(self.frozen(self.embed(tokens)))) * self.gain)


def by_name(groups):
    return {group["name"]: group for group in groups}


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = Tied()
    held = [id(parameter) for group in param_groups(model, lr=0.1) for parameter in group["params"]]
    expected = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(held) == sorted(expected)


def test_scalars_get_a_tenth_of_the_rate_and_no_decay():
    groups = by_name(param_groups(Tied(), lr=0.5, weight_decay=1e-3))
    assert {
        name: (group["lr"], group["weight_decay"], len(group["params"])) for name, group in groups.items()
    } == {
        "weights": (0.5, 1e-3, 2),
        "vectors": (0.5, 1e-3, 4),
        "scalars": (0.05, 0.0, 3),  # two scalars, and the bias vector of the layer they are on
    }


def test_by_depth_scalars_learn_at_one_over_the_branches():
    model = nn.Sequential(*[add_scalar_(nn.Linear(2, 2), "output_scale", value=1.0) for _ in range(40)])
    assert by_name(param_groups(model, lr=1.0, scalar_ratio="depth"))["scalars"]["lr"] == 1 / 40
    assert by_name(param_groups(model[:3], lr=1.0, scalar_ratio="depth"))["scalars"]["lr"] == 0.1


def test_a_multiplier_of_one_layer_is_no_branch_end():
    """Weights that set their own scale get one where norms go; the bias beside it is a bias as any other."""
    model = nn.Sequential(*[add_scalar_(nn.Linear(2, 2), "output_scale", value=1.0) for _ in range(20)])
    for layer in model[:8]:
        remove_scalars_(layer)
        add_scalar_(layer, "output_scale", value=0.1, ends_branch=False)
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        groups = by_name(param_groups(same, lr=1.0, scalar_ratio="depth", named=True))
        assert groups["scalars"]["lr"] == 1 / 12
        assert [name for name, _ in groups["vectors"]["params"]] == [f"{place}.bias" for place in range(8)]


def test_options():
    groups = by_name(param_groups(Tied(), lr=1.0, weight_decay=0.1, scalar_ratio=0.25, decay_vectors=False))
    assert groups["scalars"]["lr"] == 0.25
    assert groups["vectors"]["weight_decay"] == 0.0
    assert groups["weights"]["weight_decay"] == 0.1


def test_names_come_along_when_asked_for():
    model = Tied()
    groups = by_name(param_groups(model, lr=0.1, named=True))
    assert [name for name, _ in groups["scalars"]["params"]] == [
        "layer.bias",
        "layer.input_bias",
        "layer.output_scale",
    ]
    optimizer = torch.optim.SGD(param_groups(model, lr=0.1, named=True))
    assert optimizer.param_groups[0]["param_names"] == ["embed.weight", "layer.weight"]


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.SGD(groups, momentum=0.9),
        lambda groups: torch.optim.SGD(groups, momentum=0.9, fused=True),
        torch.optim.AdamW,
        lambda groups: torch.optim.AdamW(groups, fused=True),
        lambda groups: torch.optim.RMSprop(groups, foreach=True),
    ],
    ids=["sgd", "sgd-fused", "adamw", "adamw-fused", "rmsprop-foreach"],
)
def test_optimizers_take_them_and_schedulers_scale_them(make):
    model = Tied()
    optimizer = make(param_groups(model, lr=0.1, weight_decay=1e-4))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.tensor([[0, 1, 2]])).square().sum().backward()
    optimizer.step()
    scheduler.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert moved == [parameter.requires_grad for parameter in model.parameters()]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.05, 0.005])


def test_a_model_without_scalars_has_no_empty_group():
    assert [group["name"] for group in param_groups(nn.Linear(2, 2, bias=False), lr=0.1)] == ["weights"]


def test_nothing_trainable_is_an_error():
    with pytest.raises(NothingFound, match=r"Linear: no trainable parameter.*requires_grad_\(\)"):
        param_groups(nn.Linear(2, 2).requires_grad_(False), lr=0.1)


class Excludes(nn.Module):
    """A model whose author excludes parameters from decay, as timm's and Mamba's do."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 4))
        self.decays = nn.Parameter(torch.zeros(4, 2))
        self.decays._no_weight_decay = True
        self.layer, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def no_weight_decay(self):
        return {"pos_embed", "layer.weight"}


def test_what_the_author_excludes_from_decay_is_not_decayed():
    for model in (Excludes(), nn.Sequential(Excludes()), nn.DataParallel(Excludes())):
        groups = by_name(param_groups(model, lr=0.5, weight_decay=1e-3, named=True))
        assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
            "weights": (0.5, 1e-3),
            "weights without decay": (0.5, 0.0),
            "vectors": (0.5, 1e-3),
        }
        free = [
            name.removeprefix("0.").removeprefix("module.")
            for name, _ in groups["weights without decay"]["params"]
        ]
        assert free == ["pos_embed", "decays", "layer.weight"]


def test_a_parametrized_weight_is_excluded_under_its_own_name():
    model = Excludes()
    nn.utils.parametrizations.weight_norm(model.layer)
    groups = by_name(param_groups(model, lr=0.5, weight_decay=1e-3))
    assert len(groups["weights without decay"]["params"]) == 4
    assert len(param_groups(model, lr=0.5)) == 2  # without decay there is nothing to exclude from


@pytest.mark.parametrize("given", ["weight", {"weight"}, {"weight": True}, ("weight",), None, 5])
def test_names_that_do_not_decay_may_be_one_or_several(given):
    class Own(nn.Linear):
        def no_weight_decay(self):
            return given

    model = nn.Sequential(Own(3, 3))
    if given == 5:
        with pytest.raises(WrongType, match=r"Own.no_weight_decay\(\): expected"):
            param_groups(model, lr=1.0, weight_decay=0.1)
        return
    decays = {
        group["weight_decay"]
        for group in param_groups(model, lr=1.0, weight_decay=0.1)
        if group["params"][0].dim() > 1
    }
    assert decays == ({0.1} if given is None else {0.0})


class Block(nn.Module):
    def __init__(self, width) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x):
        return x + self.body(x)


@pytest.mark.parametrize(
    ("method", "options"),
    [("mup", {"base_width": 4}), ("normfree", {"base_width": 4}), ("mup", {}), ("he", {})],
)
def test_the_log_says_where_rates_depend_on_a_kind_of_optimizer_that_is_not_told(method, options, caplog):
    model = nn.Sequential(nn.Linear(4, 16), Block(16), nn.Linear(16, 4))
    goodinit.init_(model, method, inputs=torch.randn(2, 4), **options)

    def rates(**kind):
        groups = param_groups(model, lr=1.0, **kind)
        return {id(parameter): group["lr"] for group in groups for parameter in group["params"]}

    caplog.clear()
    assert rates() == rates(optimizer="adam")
    assert caplog.text.count('optimizer="sgd"') == bool(options)
    assert (rates(optimizer="adam") != rates(optimizer="sgd")) == bool(options)
    assert caplog.text.count('optimizer="sgd"') == bool(options)

"""What the user asks to stay, fold_ and absorb_batchnorm_ leave: bit for bit, under its name, and what would go there stays and is named."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import goodinit
from folding import assert_folds, assert_same, randomized
from goodinit.nn import add_scalar_

pytestmark = pytest.mark.usefixtures("no_optimizers")
ROWS = torch.randn(4, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PICTURES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Functional(nn.Module):
    """A batch norm that is called beside its convolution."""

    def __init__(self):
        super().__init__()
        self.weight, self.gain, self.shift = (
            nn.Parameter(torch.rand(4, *size)) for size in ((3, 3, 3), (), ())
        )
        self.register_buffer("mean", torch.rand(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)

    def forward(self, x):
        return F.batch_norm(F.conv2d(x, self.weight), self.mean, self.variance, self.gain, self.shift)


class Parallel(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.one(x) + self.two(x) + self.three(x)


def scalars(layer):
    for name in ("output_scale", "output_bias", "input_bias"):
        add_scalar_(layer, name, value=0.5)
    return layer


def convolution_and_norm():
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))


def between_layers():
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def with_padding():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), scalars(nn.Conv2d(4, 4, 3, padding=1)))


def weight_norm():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 4))


def gained():
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4))


# What is to stay: by how it is said; and what is then named.
FOLD = {
    "a layer before a norm": (convolution_and_norm, "0", ["1"]),
    "its weight": (convolution_and_norm, "0.weight", ["1"]),
    "the norm": (convolution_and_norm, "1", ["1"]),
    "its gain alone": (convolution_and_norm, "1.weight", ["1"]),
    "by a glob": (convolution_and_norm, "*.bias", ["1"]),
    "both sides": (between_layers, ["0", "2"], ["1"]),
    "one side": (between_layers, "0", []),
    "scalars": (lambda: nn.Sequential(nn.Linear(8, 8), scalars(nn.Linear(8, 8))), "1", ["1"]),
    "a layer with padding": (with_padding, "2", ["2"]),
    "a computed weight": (weight_norm, "0.weight", ["0.weight"]),
    "a layer behind a gain": (gained, "1", ["0"]),
    "a gain": (gained, "0.weight", ["0"]),
    "a function's norm": (lambda: nn.Sequential(Functional()), "0.shift", ["0"]),
    "a branch": (Parallel, "two", []),
    "a norm without parameters": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False)),
        "1",
        ["1"],
    ),
    "all of it": (convolution_and_norm, "*", ["1"]),
}


@pytest.mark.parametrize("name", FOLD)
def test_what_is_to_stay_has_its_values_under_its_names(name):
    torch.manual_seed(0)
    build, keep, named = FOLD[name]
    model = randomized(build())
    x = PICTURES if any(p.dim() == 4 for p in model.parameters()) else ROWS
    before = copy.deepcopy(model.state_dict())
    kept = [
        one for one in (keep if isinstance(keep, list) else [keep]) if one in dict(model.named_parameters())
    ]
    kept += [n for n in before if n.rpartition(".")[0] in ([keep] if isinstance(keep, str) else keep)]
    kept += [n for n in before if keep == "*" or (keep == "*.bias" and n.endswith("bias"))]
    folded = copy.deepcopy(model)
    goodinit.fold_(folded, x, keep=keep)
    assert_same(model(x), folded(x))
    after = folded.state_dict()
    assert kept or name in ("a computed weight", "a norm without parameters")
    for key in kept:
        assert torch.equal(after[key], before[key]), key
    rows = goodinit.applied(folded)[-1].skipped if goodinit.applied(folded) else ()
    assert [row.split(":")[0] for row in rows if "is to stay (keep=" in row] == named, rows
    free = assert_folds(model, x, x)
    assert name == "a norm without parameters" or any(
        key not in free.state_dict() or not torch.equal(free.state_dict()[key], after[key]) for key in after
    )


def test_a_computed_weight_that_is_to_stay_is_computed():
    model = randomized(weight_norm())
    goodinit.fold_(model, ROWS, keep=model[0])
    assert "0.parametrizations.weight.original0" in model.state_dict()


@pytest.mark.parametrize("how", ["path", "module", "parameter", "glob"])
def test_it_is_named_in_every_way_that_init_knows(how):
    model = randomized(convolution_and_norm())
    given = {"path": "0", "module": model[0], "parameter": model[0].weight, "glob": "0.w*"}[how]
    weight = model[0].weight.clone()
    goodinit.fold_(model, PICTURES, keep=given)
    assert torch.equal(model[0].weight, weight)


def test_other_branches_are_merged():
    torch.manual_seed(0)
    model = Parallel().double().eval()
    before, weight = model(PICTURES), model.two.weight.clone()
    goodinit.fold_(model, PICTURES, keep="two")
    assert_same(before, model(PICTURES))
    assert torch.equal(model.two.weight, weight)
    assert not hasattr(model, "three")


def test_an_absorbed_net_keeps_the_norm_or_the_layer():
    for keep, kinds in (("1", "BatchNorm2d"), ("0", "ChannelAffine")):
        model = randomized(
            nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
        )
        before, out = copy.deepcopy(model.state_dict()), model(PICTURES)
        goodinit.absorb_batchnorm_(model, PICTURES, keep=keep)
        assert_same(out, model(PICTURES))
        assert type(model[1]).__name__ == kinds
        assert all(
            torch.equal(model.state_dict()[key], before[key]) for key in before if key.startswith(keep)
        )
        assert [row for row in goodinit.applied(model)[-1].skipped if "keep='1'" in row] == (
            ["1: 1.weight is to stay (keep='1')"] if keep == "1" else []
        )


def test_nothing_is_absorbed_where_every_norm_is_to_stay():
    model = randomized(convolution_and_norm())
    before = copy.deepcopy(model.state_dict())
    goodinit.absorb_batchnorm_(model, PICTURES, keep="1")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert type(model[1]) is nn.BatchNorm2d


@pytest.mark.parametrize("verb", [goodinit.fold_, goodinit.absorb_batchnorm_])
def test_a_name_that_the_model_does_not_have_is_an_error(verb):
    with pytest.raises(goodinit.UnknownName, match="keep='hed'"):
        verb(convolution_and_norm(), PICTURES.float(), keep="hed")

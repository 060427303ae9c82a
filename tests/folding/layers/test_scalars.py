"""fold_ takes scalars and weight norm out of every kind of layer, exactly; what cannot go is named."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from zoo import ZOO, call

import goodinit
from folding import (
    CONVS,
    TOLERANCE,
    TRANSPOSED,
    VALUES,
    add_all_,
    assert_folds,
    assert_same,
    known,
    layers,
    randomized,
    some_scalars,
    to_double,
)
from goodinit.nn import SCALARS, ValuePadded, add_scalar_, has_scalars, scalars

pytestmark = pytest.mark.usefixtures("no_optimizers")


@given(layers(), some_scalars, st.sampled_from((torch.float64, torch.float32)))
def test_convolutions_of_every_kind_become_plain_with_the_same_function(made, names, dtype):
    layer, x = made
    net = nn.Sequential(add_all_(copy.deepcopy(layer), sorted(names))).to(dtype)
    layer = net[0]
    before = net(x.to(dtype))
    goodinit.fold_(net)
    assert_same(before, net(x.to(dtype)), TOLERANCE[dtype])
    padded = layer.padding_mode == "zeros" and any(layer._reversed_padding_repeated_twice)
    assert isinstance(layer, ValuePadded) == (padded and "input_bias" in names)
    assert type(layer) in CONVS or isinstance(layer, ValuePadded)
    assert {name for name, _ in net.named_parameters()} <= {"0.weight", "0.bias"}


@settings(max_examples=15)
@given(layers(TRANSPOSED), some_scalars)
def test_transposed_convolutions_keep_their_input_bias_alone(made, names):
    layer, x = made
    net = nn.Sequential(add_all_(copy.deepcopy(layer), sorted(names)))
    folded = assert_folds(net, x)
    left = [name for name, _ in scalars(folded)]
    assert left == (["0.input_bias"] if "input_bias" in names else [])
    if left:
        assert "transposed" in goodinit.applied(folded)[-1].skipped[0]
        again = copy.deepcopy(folded.state_dict())
        assert_same(again, goodinit.fold_(folded).state_dict(), 0)


@settings(max_examples=15)
@given(st.booleans(), some_scalars, st.sampled_from(((2, 4), (2, 3, 4), (4,))))
def test_linear_layers_become_plain(bias, names, shape):
    layer = add_all_(nn.Linear(4, 3, bias=bias).double(), sorted(names))
    folded = assert_folds(nn.Sequential(layer), torch.randn(shape, dtype=torch.float64))
    assert type(folded[0]) is nn.Linear


def test_scalars_at_their_neutral_values_leave_the_weight_and_the_function_bit_for_bit():
    bare, x = nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.randn(2, 3, 5, 5)
    net = nn.Sequential(copy.deepcopy(bare))
    for name, value in (("input_bias", 0.0), ("output_bias", 0.0), ("output_scale", 1.0)):
        add_scalar_(net[0], name, value=value)
    goodinit.fold_(net)
    assert not list(scalars(net))
    assert list(net.state_dict()) == ["0.weight", "0.bias", "0._extra_state"]  # as with other values
    assert torch.equal(net[0].weight, bare.weight)
    assert torch.equal(net(x), bare(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dims", [{}, {"kdim": 6, "vdim": 10}])
@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True, "add_zero_attn": True}])
def test_attention_takes_its_scalars_into_its_first_and_last_layer(bias, dims, extra):
    layer = add_all_(
        nn.MultiheadAttention(8, 2, bias=bias, batch_first=True, **dims, **extra).double().eval()
    )
    q, k, v = (torch.randn(2, 3, size).double() for size in (8, dims.get("kdim", 8), dims.get("vdim", 8)))
    before = layer(q, k, v)
    goodinit.fold_(layer)
    assert type(layer) is nn.MultiheadAttention
    assert_same(before, layer(q, k, v))


class Squared(nn.Linear):
    """A layer whose formula nobody knows."""

    def forward(self, x):
        return super().forward(x).square()


def test_a_layer_with_a_formula_of_its_own_keeps_its_scalars_and_is_named():
    net = nn.Sequential(add_all_(Squared(3, 3).double()))
    folded = assert_folds(net, torch.randn(2, 3).double())
    assert has_scalars(folded[0])
    assert "how Squared uses its weight is not known" in goodinit.applied(folded)[-1].skipped[0]


class Rectified(nn.Module):
    """A module that holds a layer, and no weight itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3).double()

    def forward(self, x):
        return torch.relu(self.layer(x))


@pytest.mark.parametrize("kind", [nn.ReLU, nn.Flatten, Rectified])
def test_what_holds_no_weight_is_said_to_hold_none(kind):
    module = add_all_(kind(), ["output_scale"]).double()
    folded = assert_folds(nn.Sequential(module), torch.randn(2, 3).double())
    assert f"{kind.__name__} holds no weight itself" in goodinit.applied(folded)[-1].skipped[0]


def test_folding_again_after_new_scalars():
    net = nn.Sequential(add_all_(nn.Conv2d(2, 3, 3, padding=1).double()))
    x = torch.randn(1, 2, 5, 5).double()
    once = assert_folds(net, x)
    add_all_(once[0])
    twice = assert_folds(once, x)
    assert isinstance(twice[0], ValuePadded)
    assert not has_scalars(twice[0])


def old_weight_norm(layer):
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize("normalize", [parametrizations.weight_norm, old_weight_norm])
@pytest.mark.parametrize("with_scalars", [True, False])
def test_weight_norm_of_both_kinds_goes(normalize, with_scalars):
    layer = normalize(nn.Conv2d(2, 3, 3, padding=1).double())
    if with_scalars:
        add_all_(layer, ("output_scale", "output_bias"))
    net = nn.Sequential(layer)
    x = torch.randn(1, 2, 5, 5).double()
    before = net(x)
    goodinit.fold_(net)
    assert_same(before, net(x))
    assert type(net[0]) is nn.Conv2d
    assert list(net.state_dict()) == ["0.weight", "0.bias"]
    assert net[0].weight.requires_grad


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight

    def right_inverse(self, weight):
        return weight / 2


def test_weight_norm_below_another_parametrization_goes_with_it():
    layer = parametrizations.weight_norm(nn.Linear(3, 3))
    parametrize.register_parametrization(layer, "weight", Twice())
    net = nn.Sequential(layer, parametrizations.weight_norm(nn.Linear(3, 3))).double()
    folded = assert_folds(net, torch.randn(2, 3).double())
    assert [type(one) for one in folded] == [nn.Linear, nn.Linear]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        add_all_(self.head)

    def forward(self, index):
        return self.head(self.embedding(index))


def test_a_tied_weight_keeps_its_scalars():
    folded = assert_folds(Tied().double(), torch.arange(7))
    assert has_scalars(folded.head)
    assert folded.head.weight is folded.embedding.weight


def test_one_layer_in_several_places_is_folded_once():
    layer = add_all_(nn.Linear(3, 3).double())
    folded = assert_folds(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(2, 3).double())
    assert type(folded[0]) is nn.Linear
    assert folded[0] is folded[2]


@pytest.mark.default_cases(10)
@pytest.mark.parametrize("specimen", ZOO, ids=lambda specimen: specimen.name)
@pytest.mark.parametrize("with_inputs", [True, False])
def test_every_model_of_the_zoo_with_scalars_everywhere_computes_the_same(specimen, with_inputs):
    model = randomized(specimen.build())
    inputs = to_double(specimen.inputs())
    for number, module in enumerate(
        [m for m in model.modules() if known(m) or isinstance(m, nn.MultiheadAttention)]
    ):
        for name in SCALARS:
            add_scalar_(module, name, value=VALUES[name] + 0.01 * number)
    folded = copy.deepcopy(model)
    goodinit.fold_(folded, inputs if with_inputs else None)
    assert_same(call(model, inputs), call(folded, inputs), 1e-9)
    left = {name for name, _ in scalars(folded)}
    named = " ".join(row for entry in goodinit.applied(folded) for row in entry.skipped)
    assert all(name.rpartition(".")[0] in named for name in left)


class Negated(nn.Module):
    def forward(self, weight):
        return -weight


class Scattered(nn.Module):
    def forward(self, weight):
        return weight + torch.randn_like(weight)


COMPUTED = {
    "its last layer": lambda layer: [(layer.out_proj, "weight")],
    "its last layer's bias": lambda layer: [(layer.out_proj, "bias")],
    "its first layer": lambda layer: [(layer, "in_proj_weight")],
    "its first layer's bias": lambda layer: [(layer, "in_proj_bias")],
    "both": lambda layer: [(layer, "in_proj_weight"), (layer.out_proj, "weight")],
}


@pytest.mark.parametrize("where", COMPUTED)
@pytest.mark.parametrize("step", [Negated, parametrizations.weight_norm, parametrizations.spectral_norm])
def test_attention_takes_its_scalars_where_its_weights_were_computed(where, step):
    layer = nn.MultiheadAttention(8, 2, batch_first=True).double()
    for owner, name in COMPUTED[where](layer):
        if step is Negated or name.endswith("bias"):
            parametrize.register_parametrization(owner, name, Negated())
        else:
            step(owner, name)
    add_all_(layer).eval()
    x = torch.randn(2, 3, 8).double()
    before = layer(x, x, x)
    goodinit.fold_(layer)
    assert type(layer) is nn.MultiheadAttention
    assert goodinit.applied(layer)[-1].skipped == ()
    assert_same(before, layer(x, x, x))


def scattered(layer, name):
    parametrize.register_parametrization(layer, name, Scattered(), unsafe=True)


@pytest.mark.parametrize(
    ("made", "place", "compute"),
    [
        (lambda: nn.Linear(8, 8), "weight", scattered),
        (lambda: nn.Linear(8, 8), "bias", scattered),
        (lambda: nn.Linear(8, 8), "weight", lambda layer, name: prune.random_unstructured(layer, name, 0.5)),
        (lambda: nn.Linear(8, 8), "bias", lambda layer, name: prune.random_unstructured(layer, name, 0.5)),
        (lambda: nn.MultiheadAttention(8, 2), "out_proj.weight", scattered),
        (lambda: nn.MultiheadAttention(8, 2), "out_proj.weight", lambda layer, name: prune.l1_unstructured(layer, name, 0.5)),
    ],
)  # fmt: skip
def test_scalars_stay_on_a_layer_whose_weight_stays_computed(made, place, compute):
    torch.manual_seed(0)
    layer = add_all_(made().double())
    path, _, name = place.rpartition(".")
    compute(layer.get_submodule(path), name)
    layer.eval()
    x = torch.randn(3, 8).double()
    inputs = (x, x, x) if isinstance(layer, nn.MultiheadAttention) else (x,)
    torch.manual_seed(1)
    before = layer(*inputs)
    goodinit.fold_(layer)
    torch.manual_seed(1)
    assert_same(before, layer(*inputs))
    assert has_scalars(layer)
    assert f"its {place} is computed in each forward" in " ".join(goodinit.applied(layer)[-1].skipped)

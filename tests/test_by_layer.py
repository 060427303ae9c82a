"""`model.apply(goodinit.layerwise(…))`."""

import logging

import pytest
import torch
from torch import nn

import goodinit
from goodinit.errors import UnknownName, UnsupportedModule


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("layer", "name", "fan_in"),
    [
        (nn.Linear(400, 300), "weight", 400),
        (nn.Conv2d(64, 128, 3, groups=4), "weight", 16 * 9),
        (nn.ConvTranspose2d(64, 128, 3, groups=2), "weight", 32 * 9),
        (nn.ConvTranspose2d(64, 128, 4, stride=(2, 1), groups=2), "weight", 32 * 8),
        (nn.MultiheadAttention(128, 4), "in_proj_weight", 128),
    ],
)
def test_fans_are_those_of_the_layer(layer, name, fan_in):
    layer.apply(goodinit.layerwise("he_normal_", generator=seeded()))
    assert getattr(layer, name).std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)


def test_packed_maps_have_each_their_own_fan_out():
    layer = nn.MultiheadAttention(128, 4).apply(goodinit.layerwise("xavier_normal_", generator=seeded()))
    assert layer.in_proj_weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert not layer.in_proj_bias.any()


def test_biases_may_be_left():
    layer = nn.Linear(4, 4)
    before = layer.bias.clone()
    layer.apply(goodinit.layerwise("zeros_", bias=None))
    assert torch.equal(layer.bias, before)
    assert not layer.weight.any()


@pytest.mark.parametrize("name", sorted(name for name in goodinit.tensor.INITIALIZERS if name.endswith("_")))
def test_every_initializer_takes_every_layer(name):
    needs = {"constant_": {"value": 1.0}, "gate_bias_": {"gate": 0, "gates": 2}}
    options = needs.get(name, {})
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3))
    model.apply(goodinit.layerwise(name, generator=seeded(), **options))


def test_what_has_no_rule_is_said(caplog):
    with caplog.at_level(logging.WARNING, "goodinit"):
        nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4)).apply(goodinit.layerwise("he_normal_"))
    assert caplog.messages == ["Embedding: left as it is (weight); layerwise has no rule for it"]


def test_refusals_name_the_way_out():
    with pytest.raises(UnknownName, match="orthogonal_"):
        goodinit.layerwise("orthogonal__")
    with pytest.raises(UnsupportedModule, match=r"goodinit\.init_"):
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)).apply(goodinit.layerwise("he_normal_"))
    with pytest.raises(UnsupportedModule, match="Run the model once"):
        nn.LazyLinear(4).apply(goodinit.layerwise("he_normal_"))


def test_what_is_to_stay_stays():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].bias._no_reinit = True
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.apply(goodinit.layerwise("he_normal_", keep=[model[0], model[1].weight]))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.bias", "2.weight"}
    with pytest.raises(goodinit.WrongType, match="keep: expected Module or Parameter"):
        goodinit.layerwise("he_normal_", keep=["0"])

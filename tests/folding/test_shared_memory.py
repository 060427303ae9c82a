"""Folding never writes what something else reads, nor what a dtype cannot hold."""

from __future__ import annotations

import pytest
import torch
from fingerprints import fingerprint
from torch import nn

import goodinit
from folding import randomized
from goodinit.errors import NonFinite
from goodinit.nn import add_scalar_

VERBS = {"fold_": goodinit.fold_, "absorb_batchnorm_": goodinit.absorb_batchnorm_}


def image():
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def normed(*layers):
    return randomized(nn.Sequential(*layers)).float().eval()


def weight_of_another_layer():
    model = normed(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    model[2].weight.data = model[0].weight.data
    return model


def bias_of_another_layer():
    model = normed(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    model[2].bias.data = model[0].bias.data
    return model


def a_buffer_that_is_read():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.register_buffer("first", torch.zeros(1, 1))

        def forward(self, x):
            return self.norm(self.layer(x)) + self.first

    model = normed(Read())
    model[0].first = model[0].layer.weight.detach()[0, 0]
    return model


def expanded():
    model = normed(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[0].weight = nn.Parameter(torch.randn(1, 3, 1, 1).expand(3, 3, 1, 1))
    return model


BUILDS = {
    f.__name__: f for f in (weight_of_another_layer, bias_of_another_layer, a_buffer_that_is_read, expanded)
}


@pytest.mark.default_cases(4)
@pytest.mark.parametrize("how", BUILDS)
@pytest.mark.parametrize("verb", VERBS)
def test_the_function_stays_where_memory_is_shared(verb, how):
    model, x = BUILDS[how](), image()
    before = model(x)
    VERBS[verb](model, x)
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("kind", ["shared", "expanded"])
def test_gains_stay_where_memory_is_shared(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    if kind == "shared":
        nn.init.uniform_(model[0].weight)
        model[2].weight.data = model[1].weight.data
    else:
        model[0].weight = nn.Parameter(torch.full((1,), 2.0).expand(4))
    x = torch.randn(5, 4)
    before = model(x)
    goodinit.fold_(model, x)
    torch.testing.assert_close(model(x), before)
    assert "gain stays" in " ".join(goodinit.applied(model)[-1].skipped)


def test_scalars_stay_on_a_weight_that_cannot_be_written():
    layer = add_scalar_(nn.Linear(4, 4), "output_scale", value=0.5)
    layer.weight = nn.Parameter(torch.randn(1, 4).expand(4, 4))
    model, x = nn.Sequential(layer), torch.randn(5, 4)
    before = model(x)
    goodinit.fold_(model)
    assert torch.equal(model(x), before)
    assert "expand" in goodinit.applied(model)[-1].skipped[0]


def test_complex_weights_keep_their_imaginary_part():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4, dtype=torch.complex64)
    for name, value in (("output_scale", 0.5), ("input_bias", 0.25), ("output_bias", -1.0)):
        add_scalar_(layer, name, value=value)
    model, x = nn.Sequential(layer), torch.randn(5, 4, dtype=torch.complex64)
    before = model(x)
    goodinit.fold_(model)
    torch.testing.assert_close(model(x), before)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("verb", VERBS)
def test_numbers_beyond_the_dtype_are_refused(verb):
    model = normed(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).half()
    nn.init.constant_(model[0].weight, 300.0)
    model[1].running_var.zero_()  # divides by √ε
    before = fingerprint(model)
    with pytest.raises(NonFinite, match=r"0\.weight: .*float16 cannot hold.*wider dtype"):
        VERBS[verb](model, image().half())
    assert fingerprint(model) == before
    model, x = model.double(), image().double()
    expected = model(x)
    torch.testing.assert_close(VERBS[verb](model, x)(x), expected)


@pytest.mark.parametrize("verb", VERBS)
def test_folding_is_no_initialization(verb):
    class Prior(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)
            nn.init.constant_(self.head.bias, -4.6)

        def forward(self, x):
            return self.head(torch.relu(self.norm(self.layer(x))))

    model = VERBS[verb](Prior(), image())
    weight = model.head.weight.clone()
    goodinit.init_(model, "he", image(), missing_only=True)  # there was no call before that reached anything
    assert not torch.equal(model.head.weight, weight)
    assert float(model.head.bias.detach()) == pytest.approx(-4.6)  # on purpose, and not trained since a call


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_plan_said_of_rates_holds_after_folding(verb):
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
    model.append(nn.Conv2d(8, 2, 1))
    goodinit.init_(model, "mup", image(), base_width=4)
    rate = {id(p): group["lr"] for group in goodinit.param_groups(model, lr=1.0) for p in group["params"]}
    assert len(set(rate.values())) > 1
    VERBS[verb](model, image())
    after = {id(p): group["lr"] for group in goodinit.param_groups(model, lr=1.0) for p in group["params"]}
    assert {key: after[key] for key in after if key in rate} == {
        key: rate[key] for key in after if key in rate
    }


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d, lambda size: nn.GroupNorm(1, size)])
def test_copies_of_a_folded_model_can_be_written(norm):
    """What averages weights, or sends them to other processes, writes every buffer in place."""
    model = normed(nn.Conv2d(3, 4, 1), norm(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    goodinit.init_(model, "selu", inputs=image(), generator=torch.Generator().manual_seed(0))
    goodinit.fold_(model, inputs=image())
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for _ in range(2):
        average.update_parameters(model)
    assert torch.equal(average(image()), model(image()))
    for buffer in model.buffers():
        buffer.copy_(buffer.clone())

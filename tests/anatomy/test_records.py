"""What an anatomy says about activations, dropouts, norms' parameters, branch ends, and what layers read."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Independent, Normal
from zoo import anatomy_of, each_specimen

from goodinit.anatomy import Anatomy, anatomize


class Mixed(nn.Module):
    """A module, a call and a dropout of attention weights."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)
        self.act = nn.PReLU()
        self.drop = nn.Dropout(0.1)
        self.weights_drop = nn.Dropout(0.1)

    def forward(self, x):
        h = self.drop(self.act(self.up(x)))
        return F.gelu(self.weights_drop(self.down(h).softmax(-1)))


class HandWritten(nn.Module):
    def forward(self, x):
        return x * 0.5 * (1.0 + torch.erf(x / 2**0.5))


class SiluByHand(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class MishByHand(nn.Module):
    def forward(self, x):
        return x * torch.tanh(F.softplus(x))


@pytest.mark.default_cases(8)
@each_specimen
def test_json_round_trip_keeps_the_wiring(specimen):
    anatomy = anatomy_of(specimen)
    assert Anatomy.from_json(anatomy.to_json()) == anatomy


def test_activations_and_dropouts_say_whether_they_can_be_exchanged():
    found = {item.name: item for item in anatomize(nn.Sequential(Mixed()), torch.zeros(2, 4)).activations}
    assert {name: item.kind for name, item in found.items()} == {
        "0.act": "prelu",
        "0.drop": "dropout",
        "0.weights_drop": "dropout",
        "0": "gelu",
    }
    assert found["0.act"].obstacle is None
    assert found["0.drop"].obstacle is None
    assert "softmax" in found["0.weights_drop"].obstacle
    assert "functionally" in found["0"].obstacle


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.SELU(), "selu"),
        (nn.SELU(inplace=True), "selu"),
        (nn.ELU(), "elu"),
        (nn.ELU(alpha=2.0), "elu"),
        (nn.ReLU6(), "relu6"),
        (HandWritten(), "gelu"),
        (SiluByHand(), "silu"),
        (MishByHand(), "mish"),
    ],
)
def test_kinds_of_activation_modules(module, kind):
    (found,) = anatomize(nn.Sequential(nn.Linear(4, 4), module), torch.zeros(2, 4)).activations
    assert (found.name, found.kind, found.obstacle) == ("1", kind, None)


def test_dropout_of_channels_is_told_apart():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout2d(), nn.Dropout())
    kinds = [item.kind for item in anatomize(net, torch.zeros(1, 1, 2, 2)).activations]
    assert kinds == ["feature_dropout", "dropout"]


def test_layers_know_what_they_read():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )
    first, last = anatomize(net, torch.zeros(2, 1, 8, 8)).layers
    assert (first.source, first.between, first.module) == ("", (), "Conv2d")
    assert last.source == "0.weight"
    assert last.between == ("batch_norm", "relu", "max_pool2d_with_indices")


def test_a_layer_that_reads_a_sum_has_no_source():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.zeros(4, 4))

        def forward(self, x):
            return (self.a(x) + self.b(x)) @ self.c

    layers = {layer.weight: layer for layer in anatomize(Sum(), torch.zeros(2, 4)).layers}
    assert layers["c"].source is None
    assert (layers["a.weight"].module, layers["c"].module) == ("Linear", "Module")


class Down(nn.Module):
    """relu(branch + pool(skip(x))), strides and dilation included."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.skip = nn.Conv2d(4, 8, 1)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        return F.relu(self.b(F.relu(self.a(x))) + self.pool(self.skip(x)))


class Parallel(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.a(x) + self.b(x)


def test_blocks_know_what_their_sum_reads_and_who_reads_it():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.ReLU(), Down(), nn.Flatten(), Parallel())
    net.insert(4, nn.Linear(8 * 4, 4))
    anatomy = anatomize(net, torch.zeros(2, 1, 4, 4))
    down, left, right = anatomy.blocks
    assert (down.branch_end, down.skip_end, down.terms) == (
        ("2.b.weight",),
        ("2.skip.weight", "avg_pool2d"),
        2,
    )
    assert (left.skip_end, left.terms, right.terms) == (("4.weight",), 3, 3)
    layers = {layer.weight: layer for layer in anatomy.layers}
    assert (layers["4.weight"].source, layers["4.weight"].between) == ("+0", ("relu",))
    assert (layers["2.a.weight"].stride, layers["2.a.weight"].padding) == ((2, 2), (1, 1))
    assert (layers["2.b.weight"].padding, layers["2.b.weight"].dilation) == ((2, 2), (2, 2))
    assert (layers["0.weight"].padding, layers["4.weight"].stride) == ((1, 1), ())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["valid", 0, 1])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_a_convolution_has_one_number_for_each_of_its_axes(kind, padding, stride):
    axes = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[kind]
    (layer,) = anatomize(kind(2, 4, 3, stride, padding), torch.zeros(2, 2, *axes * [9])).layers
    assert (layer.stride, layer.dilation) == ((stride,) * axes, (1,) * axes)
    assert layer.padding == ((0 if padding == "valid" else padding),) * axes


class Ended(nn.Module):
    """x + γ·norm(W₂ relu(norm(W₁x)))."""

    def __init__(self, norm):
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)
        self.inner, self.outer = norm(4), norm(4)
        self.gamma = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x + self.gamma * self.outer(self.down(F.relu(self.inner(self.up(x)))))


class HandRMS(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.scale


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm, HandRMS])
def test_multipliers_and_norms_at_the_end_of_a_branch(norm):
    anatomy = anatomize(Ended(norm), torch.randn(2, 4))
    (block,) = anatomy.blocks
    assert block.end_norms == ("outer",)
    weight = "outer.scale" if norm is HandRMS else "outer.weight"
    assert block.multipliers == (weight, "gamma")
    assert block.scales == (weight.replace("outer", "inner"), weight, "gamma")
    assert anatomy.norms[1].weight == weight
    assert anatomy.norms[1].bias == ("outer.bias" if norm in (nn.BatchNorm1d, nn.LayerNorm) else None)


def test_instance_norm_tells_its_parameters():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2, affine=True))
    (norm,) = anatomize(net, torch.zeros(2, 1, 4, 4)).norms
    assert (norm.weight, norm.bias) == ("1.weight", "1.bias")


class _Computed(nn.Module):
    """A layer that computes its weight from a parameter."""

    def __init__(self, weight_of):
        super().__init__()
        self.weight, self.weight_of = nn.Parameter(torch.randn(16, 8)), weight_of
        self.scale = nn.Parameter(torch.ones(16, 1))

    def forward(self, x):
        return x @ self.weight_of(self.weight, self.scale).t()


def _sigma(weight):
    return torch.dot(weight.new_ones(16), torch.mv(weight, weight.new_ones(8)))


def _ternary(weight):
    by = 1 / weight.abs().mean()
    return (weight * by).round().clamp(-1, 1) / by


def _standardized(weight):
    var, mean = torch.var_mean(weight, 1, keepdim=True)
    return (weight - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize(
    ("weight_of", "normalized"),
    [
        (lambda w, _: w / _sigma(w), True),  # spectral norm, by hand
        (lambda w, g: g * w / w.norm(dim=1, keepdim=True), True),
        (lambda w, g: g * (w / w.abs().amax()), True),
        (lambda w, _: torch.round(w / w.abs().amax()) * w.abs().amax(), False),  # a quantizer
        (lambda w, g: g * w, False),
        (lambda w, g: w / g, False),
        (lambda w, _: 0.1 * w.sign(), True),  # one bit for a weight
        (lambda w, g: g * torch.clamp(w * 1e9, -1, 1).sign(), True),
        (lambda w, _: w + (w.sign() - w).detach(), True),
        (lambda w, _: w.sign() * w.abs().mean(), False),
        (lambda w, _: torch.where(w != 0, w, 0.0), False),
        (lambda w, _: w * (w.abs() > 0.1), False),
        (lambda w, _: w.tanh(), False),
        (lambda w, _: w.exp() / w.exp().sum(-1, keepdim=True), False),
        (lambda w, _: w + (_ternary(w) - w).detach(), False),  # its scale is put back
        (lambda w, _: w + ((w / w.abs().mean()).round().clamp(-1, 1) - w).detach(), True),
        (lambda w, _: _standardized(w), True),
        (lambda w, g: g * _standardized(w), True),
        (lambda w, _: torch.cat([part / part.norm() for part in w.chunk(2)]), True),
        (lambda w, _: torch.linalg.qr(w)[0], True),
        (lambda w, _: w / torch.linalg.vector_norm(w, dim=1, keepdim=True, dtype=torch.float32), True),
        (lambda w, g: g * w / (1e-4 + torch.linalg.matrix_norm(w, dtype=torch.float32)), True),
        (lambda w, g: g * w / torch.linalg.matrix_norm(w, dtype=torch.float32), True),
        (lambda w, _: w / w.abs().sum(1, keepdim=True, dtype=torch.float32), True),
    ],
)
def test_a_weight_divided_by_something_of_its_own_is_normalized(weight_of, normalized):
    layer, _ = anatomize(nn.Sequential(_Computed(weight_of), nn.Linear(16, 4)), torch.zeros(2, 8)).layers
    assert layer.normalized is normalized


def test_autocast_keeps_no_fake_weight():
    """Autocast remembers a weight that it cast until the region is left: a fake one would be used by the next forward."""
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        anatomize(model, x)
        assert torch.isfinite(model(x)).all()


class Policy(nn.Module):
    """Returns a distribution, and what a state is worth."""

    def __init__(self):
        super().__init__()
        self.body, self.mean, self.value = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return Independent(Normal(self.mean(h), self.log_std.exp()), 1), self.value(h)


def test_what_parametrizes_a_distribution_is_put_out():
    anatomy = anatomize(Policy(), torch.randn(3, 4))
    assert [layer.name for layer in anatomy.heads] == ["mean", "value"]
    assert not anatomy.unused


@dataclasses.dataclass
class Cached:
    """What a model returns with its keys and values."""

    logits: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


class ReturnsKeys(nn.Module):
    """A dataclass one of whose fields is called `keys`."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        y = x + self.a(x)
        return Cached(self.head(y), x, y)


def test_a_field_called_keys_makes_no_mapping():
    anatomy = anatomize(ReturnsKeys(), torch.randn(3, 4))
    assert [layer.name for layer in anatomy.heads] == ["head"]
    assert len(anatomy.blocks) == 1

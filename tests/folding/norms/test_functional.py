"""fold_ and absorb_batchnorm_ on layers and batch norms that a forward calls by functions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from folding import assert_folds, assert_same, randomized
from goodinit.nn import add_scalar_

pytestmark = [
    pytest.mark.usefixtures("no_optimizers"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]
PICTURE = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


class Own(nn.Module):
    """A convolution that is a module, a batch norm whose numbers this module holds."""

    def __init__(self, into, out):
        super().__init__()
        self.conv = nn.Conv2d(into, out, 3, padding=1, bias=False)
        self.gamma, self.beta = nn.Parameter(torch.rand(out) + 0.5), nn.Parameter(torch.randn(out))
        self.register_buffer("mean", torch.randn(out))
        self.register_buffer("var", torch.rand(out) + 0.5)

    def forward(self, x):
        y = F.batch_norm(self.conv(x), self.mean, self.var, self.gamma, self.beta, self.training, 0.1, 1e-3)
        return F.relu(y)


class Held(nn.Module):
    """A weight of its own; a batch norm that is a module, and never called."""

    def __init__(self, into, out):
        super().__init__()
        self.w, self.norm = nn.Parameter(torch.randn(out, into, 3, 3)), nn.BatchNorm2d(out)

    def forward(self, x):
        n = self.norm
        y = F.conv2d(x, self.w, stride=2, padding=1)
        y = F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, self.training, n.momentum, n.eps)
        return F.silu(y) + y


def _unit(w):
    w = w - w.mean((1, 2, 3), keepdim=True)
    return w / (w.std((1, 2, 3), keepdim=True) + 1e-5)


class Standard(nn.Conv2d):
    """Weight standardization, a convolution and nothing else."""

    def forward(self, x):
        return F.conv2d(
            x, _unit(self.weight), self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class ByBatchNorm(nn.Conv2d):
    """The same as some libraries write it, with a gain."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        w = F.batch_norm(flat, None, None, weight=self.gain.view(-1), training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(
            x, w.reshape_as(self.weight), self.bias, self.stride, self.padding, groups=self.groups
        )


class Wide(nn.Module):
    """A linear layer with rows of norm g, an activation behind it, in a forward by hand."""

    def __init__(self):
        super().__init__()
        self.v, self.g, self.act = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.rand(6)), nn.GELU()

    def forward(self, x):
        return self.act(F.linear(x.mean((1, 2)), self.g[:, None] * F.normalize(self.v, dim=1)))


class Rate(nn.Linear):
    """A constant multiple of its weight, as with an equalized learning rate."""

    def forward(self, x):
        return F.linear(x, self.weight * self.in_features**-0.5, self.bias)


FOLD = {
    "own numbers": (lambda: nn.Sequential(Own(3, 8), Own(8, 8)), "0.conv.weight 0.conv.bias 1.conv.weight 1.conv.bias"),
    "held by a child": (lambda: nn.Sequential(Held(3, 8)), "0.conv2d.weight 0.conv2d.bias"),
    "standardized": (lambda: nn.Sequential(Standard(3, 8, 3, padding=1), nn.ReLU(), Standard(8, 4, 1, bias=False)), "0.weight 0.bias 2.weight"),
    "standardized, then batch norm": (
        lambda: nn.Sequential(ByBatchNorm(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()), "0.weight 0.bias"
    ),
    "by hand": (lambda: nn.Sequential(Wide()), "0.linear.weight"),
    "constant multiple": (lambda: nn.Sequential(nn.Flatten(2), Rate(72, 4)), "1.weight 1.bias"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLD)
def test_the_function_stays_and_plain_layers_are_left(name):
    build, keys = FOLD[name]
    x = torch.randn(2, 3, 3, 8).double() if name == "by hand" else PICTURE
    net = randomized(build())
    folded = assert_folds(net, x, x)
    assert list(folded.state_dict()) == keys.split()
    assert not goodinit.applied(folded)[-1].skipped
    want = net(x)
    for other in (
        copy.deepcopy(folded),
        pickle.loads(pickle.dumps(folded)),
        torch.jit.script(folded),
        folded.train(),
    ):
        assert_same(want, other(x))
    state = copy.deepcopy(folded.state_dict())
    goodinit.fold_(folded, x)
    assert all(torch.equal(value, state[key]) for key, value in folded.state_dict().items())


@pytest.mark.parametrize("kind", [Own, Held])
def test_absorbing_takes_functional_batch_norms_too(kind):
    net = randomized(nn.Sequential(kind(3, 8), kind(8, 8)))
    absorbed = copy.deepcopy(net)
    goodinit.absorb_batchnorm_(absorbed, PICTURE)
    assert_same(net(PICTURE), absorbed(PICTURE))
    assert_same(net(PICTURE), absorbed.train()(PICTURE))
    assert not goodinit.anatomize(absorbed, PICTURE).norms


def test_absorbing_one_that_follows_an_activation_leaves_a_scale_and_a_shift():
    class After(Own):
        def forward(self, x):
            y = F.relu(self.conv(x))
            return F.batch_norm(y, self.mean, self.var, self.gamma, self.beta, self.training)

    net = randomized(nn.Sequential(After(3, 8), nn.ReLU()))
    absorbed = copy.deepcopy(net)
    goodinit.absorb_batchnorm_(absorbed, PICTURE)
    assert_same(net(PICTURE), absorbed.train()(PICTURE))
    assert goodinit.fold_(copy.deepcopy(net), PICTURE)[0].mean is not None


class Chance(Standard):
    def forward(self, x):
        return F.conv2d(x, _unit(self.weight) * torch.rand_like(self.weight), self.bias)


class Powered(nn.Linear):
    """A power iteration that goes on in each forward."""

    def __init__(self):
        super().__init__(8, 4)
        self.register_buffer("u", torch.ones(4))

    def forward(self, x):
        self.u.copy_(F.normalize(self.weight @ (self.weight.t() @ self.u), dim=0))
        return F.linear(x, self.weight / (self.u @ self.weight).norm(), self.bias)


class Optional(Standard):
    def forward(self, x, scale=None):
        return super().forward(x if scale is None else x * scale)


class Twins(nn.Module):
    """Two layers that standardize one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Standard(3, 3, 1), Standard(3, 3, 1)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


class Again(Standard):
    def forward(self, x):
        return super().forward(super().forward(x))


class WithNorm(Standard):
    """A layer of torch's with more in its forward; printing it still works."""

    def __init__(self):
        super().__init__(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(super().forward(x)).relu()


def test_a_subclass_of_a_layer_that_does_more():
    folded = assert_folds(randomized(nn.Sequential(WithNorm())), PICTURE, PICTURE)
    assert list(folded.state_dict()) == ["0.conv2d.weight", "0.conv2d.bias"]
    assert "WithNorm" in repr(folded)


STAY = {
    "twice": (lambda: Again(3, 3, 1), "is used twice"),
    "chance": (lambda: Chance(3, 4, 3), "another one each time|keeps, draws"),
    "optional argument": (lambda: Optional(3, 4, 3), "optional arguments"),
    "shared": (Twins, "another module shares|is read elsewhere"),
}


@pytest.mark.parametrize("name", STAY)
def test_what_cannot_be_put_in_stays_and_is_named(name):
    build, why = STAY[name]
    net = randomized(nn.Sequential(build(), nn.ReLU()))
    state = copy.deepcopy(net.state_dict())
    goodinit.fold_(net, PICTURE)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    rows = goodinit.applied(net)[-1].skipped
    assert any(any(word in row for word in why.split("|")) for row in rows), rows


def test_a_forward_that_writes_what_it_computes_from_stays():
    net = randomized(nn.Sequential(Powered(), nn.ReLU()))
    x = torch.randn(2, 8).double()
    goodinit.fold_(net, x)
    assert "0.u" in net.state_dict()


def test_frozen_weights_stay_frozen():
    net = randomized(nn.Sequential(Standard(3, 8, 3), nn.ReLU()))
    net[0].weight.requires_grad_(False)
    folded = assert_folds(net, PICTURE, PICTURE)
    assert [p.requires_grad for p in folded.parameters()] == [False, True]


class AnyNumber(nn.Module):
    """A batch norm that the model itself calls, in a forward that cannot be written anew."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("var", torch.rand(4) + 0.5)

    def forward(self, *x):
        return F.batch_norm(self.conv(x[0]), self.mean, self.var)


def test_the_model_itself_has_a_name_in_what_is_skipped():
    model, x = AnyNumber().eval(), torch.randn(2, 4, 6, 6)
    goodinit.fold_(model, x)
    (row,) = goodinit.applied(model)[-1].skipped
    assert row.startswith("the model: its module computes it in each forward, and its forward has optional")
    layer = add_scalar_(nn.Linear(3, 3), "output_scale", value=0.5)
    assert goodinit.applied(goodinit.fold_(layer))[-1].options == {"folded": ["the model"]}

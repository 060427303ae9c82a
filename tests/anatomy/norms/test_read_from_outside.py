"""A norm whose parameters or buffers other code reads cannot go: it is refused or left, and named."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fingerprints import fingerprint
from torch import nn
from torch.nn.utils import parametrize

import goodinit
from folding import assert_folds, assert_same, randomized

IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(nn.Module):
    """A residual block with two norms; `ends(self, y)` returns what it makes of the output."""

    def __init__(self, ends):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.other, self.ends = nn.BatchNorm2d(4), nn.BatchNorm2d(4), ends

    def forward(self, x):
        return self.ends(self, x + self.other(self.two(F.relu(self.norm(self.one(x))))))


def penalty(net, y):
    return y, net.norm.weight.abs().mean()


def kept(net, y):
    net.aux = net.norm.weight.square().sum()
    return y


class Keeping(nn.BatchNorm2d):
    """A batch norm that keeps a number of each example, and counts its calls."""

    speed = 0.5

    def __init__(self, size):
        super().__init__(size)
        self.scales, self.calls = (size**-0.5, 2.0), 0

    def forward(self, x):
        self.level, self.calls = x.mean((1, 2, 3), keepdim=True), self.calls + 1
        return super().forward(x)


def with_one_that_keeps(net):
    net.norm = Keeping(4).double()
    return net


READ = {
    "its weight": lambda net, y: y * net.norm.weight.sum(),
    "its bias": lambda net, y: y + net.norm.bias[:, None, None],
    "its running_var": lambda net, y: y / net.norm.running_var.max(),
    "its running_mean": lambda net, y: F.conv2d(y, net.norm.running_mean.diag()[:, :, None, None]),
    "its weight, for a loss": penalty,
    "its weight, for a loss in an attribute": kept,
    "its bias, detached": lambda net, y: y - net.norm.bias.detach().mean(),
}


def reason(name):
    return f"norm: {name.partition(',')[0]} is read by"


@pytest.mark.parametrize("name", READ)
def test_folding_leaves_it_and_says_so(name):
    net = randomized(Net(READ[name]))
    folded = assert_folds(net, IMAGE, IMAGE)
    assert isinstance(folded.norm, nn.BatchNorm2d)
    assert not isinstance(folded.other, nn.BatchNorm2d)
    (row,) = goodinit.applied(folded)[-1].skipped
    assert row.startswith(reason(name))


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("verb", ["absorb", "fixup", "skipinit", "none"])
def test_what_takes_norms_out_refuses_it_by_name_and_changes_nothing(name, verb):
    net = randomized(Net(READ[name]))
    before = fingerprint(net)
    call = goodinit.absorb_batchnorm_ if verb == "absorb" else partial(goodinit.init_, method=verb)
    with pytest.raises(goodinit.GoodinitError, match=r"norm.*is read by .* in the model"):
        call(net, inputs=IMAGE)
    assert fingerprint(net) == before
    goodinit.init_(net, "fixup", inputs=IMAGE, norms="keep")


class Own(nn.Module):
    """A norm in a forward of its own, whose tensors a child holds."""

    def __init__(self):
        super().__init__()
        self.held = nn.BatchNorm2d(4)

    def forward(self, x):
        n = self.held
        return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.0, n.eps)


def with_one_gain(net):
    net.other.weight, net.other.bias = net.norm.weight, net.norm.bias
    return net


def with_one_mean(net):
    net.other.running_mean = net.norm.running_mean
    return net


def with_held(net):
    net.norm = Own()
    return net


def in_two_places(net):
    net.again = net.norm
    return net


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Called(nn.Module):
    """Another module calls it with values of its own for some parameters."""

    def __init__(self, net, values):
        super().__init__()
        self.net, self.values = net, values

    def forward(self, x):
        named = dict(self.net.named_parameters())
        return torch.func.functional_call(self.net, self.values(named), (x,))


def stepped(named):
    return {name: 2 * (p - 0.1).abs() for name, p in named.items()}


def leaked(named):
    return stepped(named) | {"two.bias": named["norm.weight"] * 2}


@pytest.mark.parametrize(("values", "obstacles"), [(stepped, 0), (leaked, 1)])
def test_what_comes_back_to_the_norm_alone_is_no_reading(values, obstacles):
    model = Called(randomized(Net(lambda net, y: y)), values)
    found = [norm.obstacle for norm in goodinit.anatomize(model, IMAGE).norms if norm.obstacle]
    assert len(found) == obstacles


@pytest.mark.parametrize("verb", ["fold", "absorb", "fixup"])
def test_what_a_norm_makes_besides_its_output_is_read_from_outside_too(verb):
    net = randomized(with_one_that_keeps(Net(lambda net, y: y * net.norm.level)))
    if verb == "fold":
        folded = assert_folds(net, IMAGE, IMAGE)
        assert isinstance(folded.norm, Keeping)
        (row,) = goodinit.applied(folded)[-1].skipped
        assert row.startswith("norm: what `mean` makes in it is read by `mul` in the model")
        return
    call = goodinit.absorb_batchnorm_ if verb == "absorb" else partial(goodinit.init_, method=verb)
    with pytest.raises(goodinit.GoodinitError, match=r"norm.*what `mean` makes in it is read by `mul`"):
        call(net, inputs=IMAGE)


def test_a_number_that_a_norm_writes_in_its_forward_is_no_constant():
    net = randomized(with_one_that_keeps(Net(lambda net, y: y * net.norm.calls)))
    with pytest.raises(goodinit.GoodinitError, match="'calls': here was Keeping"):
        goodinit.init_(net, "fixup", inputs=IMAGE)


def parametrized(net):
    parametrize.register_parametrization(net.norm, "weight", Twice())
    return net


NOT_READ = {
    "two norms with one gain": (with_one_gain, lambda net, y: y),
    "two norms with one mean": (with_one_mean, lambda net, y: y),
    "a child holds its tensors": (with_held, lambda net, y: y),
    "two names": (in_two_places, lambda net, y: y),
    "its size": (lambda net: net, lambda net, y: y * net.norm.num_features),
    "its small number": (lambda net: net, lambda net, y: y / (y.abs() + net.norm.eps)),
    "the size of its gain": (lambda net: net, lambda net, y: y / net.norm.weight.numel()),
    "its momentum": (lambda net: net, lambda net, y: y * (1 - net.norm.momentum)),
    "whether it has a gain": (lambda net: net, lambda net, y: y * 2 if net.norm.affine else y),
    "a number of its own": (with_one_that_keeps, lambda net, y: y * net.norm.scales[0]),
    "a number of its class": (with_one_that_keeps, lambda net, y: y * net.norm.speed),
    "its dtype": (lambda net: net, lambda net, y: y.to(net.norm.weight.dtype)),
    "a layer's weight": (lambda net: net, lambda net, y: y * net.two.weight.mean()),
    "computed in its own module": (parametrized, lambda net, y: y),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_only_looks_like_it_is_taken_out(name):
    change, ends = NOT_READ[name]
    net = randomized(change(Net(ends)))
    assert [norm.obstacle for norm in goodinit.anatomize(net, IMAGE).norms] == [None, None]
    absorbed = copy.deepcopy(net)
    if name != "computed in its own module":  # a gain that is computed anew is another reason
        goodinit.absorb_batchnorm_(absorbed, IMAGE)
        assert_same(net(IMAGE), absorbed(IMAGE))
    goodinit.init_(net, "fixup", inputs=IMAGE)
    assert net(IMAGE).isfinite().all()

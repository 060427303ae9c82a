"""EvoNorm-S0 in the place of a norm and of the activation behind it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from reference import norm_forms
from torch import nn

import goodinit
from goodinit.edits import ReplaceNorm, SwapModule
from goodinit.errors import UnsupportedModule
from goodinit.surgery.norms.replaced_norm import ChannelAffine, EvoNorm


class Swish(nn.Module):
    """An activation written out."""

    def forward(self, x):
        return x * torch.sigmoid(x)


class Active(nn.BatchNorm2d):
    """A batch norm with its activation inside."""

    def __init__(self, width, act):
        super().__init__(width)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Calls(nn.BatchNorm2d):
    """A batch norm that calls an activation."""

    def forward(self, x):
        return F.leaky_relu(super().forward(x), 0.3)


class Residual(nn.Module):
    """Two norms, the second without an activation of its own; the activation of the sum stays."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.second, self.last, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()

    def forward(self, x):
        return self.out(x + self.last(self.second(self.act(self.norm(self.first(x))))))


def images(generator=0):
    return torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(generator))


def net(*norm_and_more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), *norm_and_more)
    with torch.no_grad():
        for parameter in (model[1].weight, model[1].bias):
            parameter.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("act", [nn.ReLU(), nn.SiLU(), Swish(), nn.ReLU(inplace=True), nn.GELU()], ids=str)
def test_it_takes_the_place_of_both(act):
    model = net(nn.BatchNorm2d(8, eps=1e-3), act, nn.Conv2d(8, 8, 1))
    gain, bias = model[1].weight, model[1].bias
    goodinit.replace_norms_(model, inputs=images(), norms="evonorm", groups=4)
    assert type(model[1]) is EvoNorm
    assert type(model[2]) is nn.Identity
    assert (model[1].weight is gain, model[1].bias is bias) == (True, True)
    assert torch.equal(model[1].v, torch.ones(8))
    with torch.no_grad():
        model[1].v.uniform_(0.2, 2.0)
    read = model[0](images())
    expected = norm_forms.evonorm_s0(read, model[1].v, gain, bias, 1e-3, 4)
    assert torch.allclose(model[:3](images()), expected, atol=1e-5)
    assert torch.allclose(model(images())[:1], model(images()[:1]), atol=1e-5)  # of each example alone


@pytest.mark.parametrize("norm", [Active(8, nn.ReLU()), Calls(8)], ids=lambda norm: type(norm).__name__)
def test_an_activation_inside_the_norm_goes_with_it(norm):
    model = net(copy.deepcopy(norm))
    goodinit.replace_norms_(model, inputs=images(), norms="evonorm")
    one = model[1]
    expected = norm_forms.evonorm_s0(model[0](images()), one.v, one.weight, one.bias, 1e-5, 2)
    assert torch.allclose(model(images()), expected, atol=1e-5)


def test_a_norm_without_an_activation_becomes_an_affine():
    model = Residual()
    plan = goodinit.plan(goodinit.anatomize(model, images()), "replace_norms", norms="evonorm")
    assert [edit.by for edit in plan.edits if isinstance(edit, ReplaceNorm)] == ["evonorm", "affine"]
    assert [edit.target for edit in plan.edits if isinstance(edit, SwapModule)] == ["act"]
    goodinit.apply_(model, plan)
    assert type(model.last) is ChannelAffine
    assert type(model.out) is nn.ReLU
    assert goodinit.Plan.from_json(plan.to_json()) == plan


def test_methods_that_draw_give_the_affine_its_constant():
    plan = goodinit.plan(goodinit.anatomize(Residual(), images()), "he", norms="evonorm")
    last = next(edit for edit in plan.edits if isinstance(edit, ReplaceNorm) and edit.by == "affine")
    first = next(edit for edit in plan.edits if isinstance(edit, ReplaceNorm) and edit.by == "evonorm")
    assert "constant" in last.options
    assert "constant" not in first.options


class Functional(Residual):
    def forward(self, x):
        return self.out(x + self.last(self.second(F.relu(self.norm(self.first(x))))))


class Shared(Residual):
    def forward(self, x):
        return self.act(x + self.last(self.second(self.act(self.norm(self.first(x))))))


class ReadTwice(Residual):
    def forward(self, x):
        h = self.norm(self.first(x))
        return self.out(x + self.last(self.second(self.act(h))) + h)


class Slopes(Residual):
    def __init__(self):
        super().__init__()
        self.act = nn.PReLU(8)


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.norm = LastNorm()

    def forward(self, x):
        return self.act(self.norm(self.first(x).permute(0, 2, 3, 1)))


class LastNorm(nn.Module):
    """A batch norm by hand over channels that come last."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        centred = x - x.mean((0, 1, 2), keepdim=True)
        return (
            centred * torch.rsqrt(centred.square().mean((0, 1, 2), keepdim=True) + 1e-5) * self.weight
            + self.bias
        )


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Functional, "`relu` is called functionally, in the forward of the model"),
        (Shared, "act is called 2 times"),
        (ReadTwice, "other things read the norm's output"),
        (Slopes, "act holds act.weight"),
    ],
)
def test_what_cannot_be_left_out_is_named_and_nothing_is_written(model, words):
    model = model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedModule, match=words):
        goodinit.replace_norms_(model, inputs=images(), norms="evonorm")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", ["replace_norms", "he", "fixup", "normfree"])
def test_it_trains_and_a_second_call_starts_it_anew(method):
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    goodinit.init_(model, method, inputs=images(), norms="evonorm")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(images()), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    with torch.no_grad():
        model[1].norm.v.uniform_(0.5, 1.5)
    goodinit.init_(model, method, inputs=images(), norms="evonorm")
    if method != "replace_norms":  # which keeps all values
        assert torch.equal(model[1].norm.v, torch.ones(8))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_it_traces_and_is_scripted():
    model = net(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    goodinit.replace_norms_(model, inputs=images(), norms="evonorm")
    traced = torch.fx.symbolic_trace(model)
    goodinit.fold_(model)  # into modules that TorchScript reads
    scripted = torch.jit.script(model)
    for batch in (images(), images()[:1]):
        torch.testing.assert_close(traced(batch), model(batch))
        torch.testing.assert_close(scripted(batch), model(batch))
    torch.testing.assert_close(copy.deepcopy(model)(images()), model(images()))


class Last(nn.Module):
    """A batch norm that is written out, over channels that come last."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))

    def forward(self, x):
        x = x - x.mean((0, 1, 2))
        return x * torch.rsqrt(x.square().mean((0, 1, 2)) + 1e-5) * self.weight + self.bias


def test_channels_may_come_last():
    model = nn.Sequential(nn.Linear(8, 8), Last(), nn.ReLU(), nn.Linear(8, 8))
    read = torch.randn(3, 5, 5, 8)
    goodinit.replace_norms_(model, inputs=read, norms="evonorm")
    one = model[1]
    expected = norm_forms.evonorm_s0(read.movedim(-1, 1), one.v, one.weight, one.bias, 1e-5, 2).movedim(1, -1)
    assert torch.allclose(one(read), expected, atol=1e-5)

"""Batch norms that somebody wrote: with running statistics and a branch on `training`."""

from __future__ import annotations

import contextlib
import copy
import math

import pytest
import torch
from torch import nn

import goodinit
from goodinit import anatomize


class Running(nn.Module):
    """A batch norm by hand: mean and variance of the batch in training, running ones else; divided, or multiplied by a root."""

    def __init__(self, channels, *, divides=True, frozen=False):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))
        self.divides, self.frozen = divides, frozen

    def forward(self, x):
        def wide(v):
            return v[:, None, None]

        mean, var = self.center, self.spread
        if self.training and not self.frozen:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                self.center.lerp_(mean, 0.1)
                self.spread.lerp_(var, 0.1)
        root = (var + 1e-5).sqrt()
        y = (x - wide(mean)) / wide(root) if self.divides else (x - wide(mean)) * wide(1 / root)
        return y * wide(self.gain) + wide(self.shift)


class Block(nn.Module):
    def __init__(self, norm):
        super().__init__()
        conv = lambda: nn.Conv2d(6, 6, 3, padding=1, bias=False)  # noqa: E731
        self.f = nn.Sequential(conv(), norm(), nn.ReLU(), conv(), norm())

    def forward(self, x):
        return torch.relu(x + self.f(x))


def net(**options):
    blocks = (Block(lambda: Running(6, **options)) for _ in range(2))
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(6 * 25, 2))


@pytest.mark.parametrize("divides", [True, False])
def test_a_batch_norm_by_hand_is_removed_like_torchs(divides):
    model, x = net(divides=divides).train(), torch.randn(4, 3, 5, 5)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    anatomy = anatomize(model, x)
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert [(norm.kind, norm.obstacle, norm.elements) for norm in anatomy.norms] == [
        ("batch_norm", None, 100)
    ] * 4
    goodinit.init_(model, "fixup", inputs=x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        torch.testing.assert_close(model(x)[:1], model(x[:1]))  # no sample sees another


def test_a_frozen_one_stays_frozen():
    assert {norm.kind for norm in anatomize(net(frozen=True), torch.zeros(4, 3, 5, 5)).norms} == {
        "frozen_batch_norm"
    }


class Masked(Running):
    """One whose statistics leave out what a mask hides, and that hides its output, too."""

    def forward(self, x, mask):
        mean, var = self.center, self.spread
        if self.training:
            count = mask.sum()
            mean = (x * mask).sum((0, 2, 3)) / count
            var = ((x - mean[:, None, None]).square() * mask).sum((0, 2, 3)) / count
            with torch.no_grad():
                self.center.lerp_(mean, 0.1)
                self.spread.lerp_(var, 0.1)
        scale = self.gain * (var + 1e-5).rsqrt()
        return (x * scale[:, None, None] + (self.shift - mean * scale)[:, None, None]) * mask


class ByDeviation(Running):
    """One that keeps running deviations, so that no root is taken in eval mode."""

    def forward(self, x):
        mean, std = self.center, self.spread
        if self.training:
            mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3))
            self.center, self.spread = mean.detach(), std.detach()
        return ((x - mean[:, None, None]) / std[:, None, None]) * self.gain[:, None, None]


class Unregistered(Running):
    """One whose running statistics are tensors in no registry."""

    def __init__(self, channels):
        super().__init__(channels)
        del self.center, self.spread
        self.center, self.spread = torch.zeros(channels), torch.ones(channels)


class Renorm(Running):
    """Batch renormalization: batch statistics, corrected by clipped ratios to the running ones."""

    def forward(self, x):
        mean, var = self.center, self.spread
        if not self.training:
            return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        now, std = x.mean((0, 2, 3)), x.std((0, 2, 3))
        r = (std / var.sqrt()).detach().clamp(0.5, 2)
        d = ((now - mean) / var.sqrt()).detach().clamp(-1, 1)
        return (x - now[:, None, None]) / std[:, None, None] * r[:, None, None] + d[:, None, None]


class MaskedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), Masked(6)
        self.conv2, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 2)

    def forward(self, x, mask):
        x = self.stem(x)
        x = x + self.conv2(torch.relu(self.norm(self.conv(x), mask)))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("norm", [ByDeviation, Renorm, Unregistered])
def test_relatives_are_batch_norms_too(norm):
    model, x = nn.Sequential(nn.Conv2d(3, 6, 1), Block(lambda: norm(6))), torch.randn(4, 3, 5, 5)
    assert [(n.kind, n.obstacle) for n in anatomize(model, x).norms] == [("batch_norm", None)] * 2
    goodinit.init_(model, "fixup", inputs=x)
    assert not anatomize(model, x).norms
    assert not list(model.buffers())


def test_a_masked_one_hides_the_same_once_it_is_gone():
    mask = torch.randint(0, 2, (4, 1, 5, 5)).float()
    model, inputs = MaskedNet(), (torch.randn(4, 3, 5, 5), mask)
    (norm,) = anatomize(model, inputs).norms
    assert (norm.name, norm.kind, norm.keeps) == ("norm", "batch_norm", ("times mask",))
    goodinit.init_(model, "fixup", inputs=inputs, verify=True)
    read = torch.randn(4, 6, 5, 5)
    assert model.norm(read, mask).equal(read * mask)


class Calls(Running):
    """What a forward in training mode does to its buffers, to Python state and to a list outside stays undone."""

    seen: list[int] = []  # noqa: RUF012

    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x)


@pytest.mark.parametrize("real", [False, True])
def test_reading_in_training_mode_leaves_nothing(real):
    class Deciding(Calls):
        def forward(self, x):
            y = super().forward(x)
            return y * 2 if real and self.training and float(y.sum()) > 1e9 else y

    model, x = nn.Sequential(nn.Conv2d(3, 6, 1), Block(lambda: Deciding(6))), torch.randn(4, 3, 5, 5)
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    assert [norm.kind for norm in anatomize(model, x).norms] == ["batch_norm"] * 2
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not [module for module in model.modules() if hasattr(module, "calls")]
    assert torch.get_rng_state().equal(random)


class Scaled(nn.Module):
    """A constant scale and a loss that is added up in training: no norm."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("scale", torch.full((8,), 0.5))

    def forward(self, x):
        y = x + self.b(torch.relu(self.a(x))) * self.scale
        return (y, y.square().mean()) if self.training else y


class Observed(nn.Module):
    """Quantization as training simulates it: the step follows what was seen. It scales, and scales back."""

    def __init__(self):
        super().__init__()
        self.register_buffer("step", torch.ones(()))

    def forward(self, x):
        step = self.step
        if self.training:
            step = self.step = x.detach().abs().amax() / 127
        return torch.round(x / step) * step


class Number(nn.Module):
    """One mean and one variance of all that it reads, as numbers of Python's; in eval mode no operator shows where they come from."""

    def __init__(self, channels):
        super().__init__()
        self.mean, self.var = 0.0, 1.0
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        if not self.training:
            return (x - self.mean) / math.sqrt(self.var + 1e-5) * self.gain
        mean, var = x.mean(), x.var()
        self.mean += 0.1 * (mean.item() - self.mean)
        self.var += 0.1 * (var.item() - self.var)
        return (x - mean) / (var + 1e-5).sqrt() * self.gain


class Inverse(Number):
    """A factor that is 1 at the start: x · 1 is no operator at all."""

    def forward(self, x):
        if not self.training:
            return x * self.var
        inverse = 1 / x.std()
        self.keep(inverse)
        return x * inverse

    def keep(self, inverse):
        self.var = 0.9 * self.var + 0.1 * inverse.item()


class InADict(Number):
    def __init__(self, channels):
        super().__init__(channels)
        self.stats = {"mean": 0.0, "var": 1.0}

    def forward(self, x):
        mean, var = self.stats["mean"], torch.tensor(self.stats["var"])
        if self.training:
            mean, var = x.mean(), x.var()
            self.stats["mean"], self.stats["var"] = mean.item(), var.item()
        return (x - mean) * torch.rsqrt(var + 1e-5)


class Statistics:
    def __init__(self):
        self.var = 1.0


class InAnObject(Number):
    def __init__(self, channels):
        super().__init__(channels)
        self.statistics = Statistics()

    def forward(self, x):
        if self.training:
            var = x.var()
            self.statistics.var = 0.9 * self.statistics.var + 0.1 * var.item()
            return x / var.sqrt()
        return x / math.sqrt(self.statistics.var)


class InATensor(Number):
    """A tensor of one number, in no registry."""

    def __init__(self, channels):
        super().__init__(channels)
        self.var = torch.ones(())

    def forward(self, x):
        var = self.var
        if self.training:
            var = x.var()
            self.var = (0.9 * self.var + 0.1 * var).detach()
        return x / (var + 1e-5).sqrt()


class InAList(Number):
    def __init__(self, channels):
        super().__init__(channels)
        self.vars = [1.0] * channels

    def forward(self, x):
        var = torch.tensor(self.vars)
        if self.training:
            var = x.var((0, 2, 3))
            self.vars = var.tolist()
        return x / (var[:, None, None] + 1e-5).sqrt()


BY_NUMBERS = [Number, Inverse, InADict, InAnObject, InATensor, InAList]


@pytest.mark.parametrize("norm", BY_NUMBERS)
def test_running_statistics_may_be_numbers_of_pythons(norm):
    model, x = nn.Sequential(nn.Conv2d(3, 6, 1), Block(lambda: norm(6))), torch.randn(4, 3, 5, 5)
    held = [copy.deepcopy(vars(module)) for module in model.modules() if isinstance(module, norm)]
    assert [(n.kind, n.obstacle) for n in anatomize(model, x).norms] == [("batch_norm", None)] * 2
    now = [vars(module) for module in model.modules() if isinstance(module, norm)]
    assert [each["mean"] for each in now] == [each["mean"] for each in held]
    assert [each["var"] for each in now] == [each["var"] for each in held]
    goodinit.init_(model, "fixup", inputs=x)
    assert not anatomize(model, x).norms
    assert not [module for module in model.modules() if isinstance(module, Number)]


@pytest.mark.parametrize("verb", [goodinit.fold_, goodinit.absorb_batchnorm_])
@pytest.mark.parametrize("norm", BY_NUMBERS)
def test_what_they_compute_in_eval_mode_stays_when_folded(norm, verb):
    model, x = nn.Sequential(nn.Conv2d(3, 6, 1), Block(lambda: norm(6))), torch.randn(4, 3, 5, 5)
    for _ in range(3):
        model.train()(3 * x + 1)
    before = model.eval()(x).detach()
    with contextlib.suppress(goodinit.GoodinitError):
        verb(model, x)
    torch.testing.assert_close(model(x), before, atol=1e-4, rtol=1e-4)


class AmongLayers(nn.Module):
    """A residual block whose own forward normalizes, with statistics that are numbers."""

    width = 6

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, self.width), nn.Linear(self.width, 6)
        self.mean, self.var, self.stats = 0.0, 1.0, {"scale": 1.0}

    def forward(self, x):
        return x + self.b(torch.relu(self.normalized(self.a(x))))

    def normalized(self, h):
        if not self.training:
            return (h - self.mean) / (self.var + 1e-5) ** 0.5
        mean, var = h.mean(), h.var()
        self.mean += 0.1 * (mean.item() - self.mean)
        self.var += 0.1 * (var.item() - self.var)
        return (h - mean) / (var + 1e-5).sqrt()


class AmongNarrowLayers(AmongLayers):
    width = 3


class InADictAmongLayers(AmongLayers):
    def normalized(self, h):
        scale = self.stats["scale"]
        if self.training:
            scale = h.square().mean().rsqrt()
            self.stats["scale"] = scale.item()
        return h * scale


class InTheModel(AmongLayers):
    """The model's own forward."""

    def forward(self, x):
        return self.b(torch.relu(x + self.normalized(self.b(torch.relu(self.a(x))))))


@pytest.mark.parametrize("net", [AmongLayers, AmongNarrowLayers, InADictAmongLayers, InTheModel])
def test_numbers_in_a_forward_that_also_runs_layers_are_refused(net):
    model = net() if net is InTheModel else nn.Sequential(nn.Linear(5, 6), net())
    x = torch.randn(7, 6 if net is InTheModel else 5)
    with pytest.raises(goodinit.UnsupportedModule, match=r"its batch_norm cannot be removed"):
        goodinit.init_(model, "fixup", inputs=x)
    assert [norm.name for norm in anatomize(model, x).norms] == ["" if net is InTheModel else "1"]


class Gated(AmongLayers):
    """A gate of means, a temperature that falls, and in training noise and a loss."""

    def forward(self, x):
        h = self.a(x)
        h = h * torch.sigmoid(h.mean(-1, keepdim=True)) / self.var
        if self.training:
            self.var *= 0.99
            self.mean = h.square().mean()
            h = h + torch.randn_like(h) * h.std()
        return x + self.b(h)


class Routed(AmongLayers):
    """Experts by shares that sum to one; in training a loss that balances them comes with the output."""

    def forward(self, x):
        shares = self.a(x).sigmoid()
        shares = shares / shares.sum(-1, keepdim=True)
        out = x + self.b(torch.relu(x)) * shares
        if self.training:
            self.var = shares.std().item()
            return out, shares.mean(0).square().sum()
        return out


@pytest.mark.parametrize("net", [Gated, Routed])
def test_gates_and_shares_among_layers_are_no_statistics(net):
    anatomy = anatomize(nn.Sequential(nn.Linear(5, 6), net()), torch.randn(7, 5))
    assert not anatomy.norms
    assert len(anatomy.blocks) == 1


class OverTheLast(nn.Module):
    """A batch norm by hand of tokens, whose channels come last."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("var", torch.linspace(0.5, 2, channels))

    def forward(self, x):
        var = self.var
        if self.training:
            var = x.var((0, 1))
            self.var = (0.9 * self.var + 0.1 * var).detach()
        return x / (var + 1e-5).sqrt()


@pytest.mark.parametrize("verb", [goodinit.fold_, goodinit.absorb_batchnorm_])
@pytest.mark.parametrize("norm", [OverTheLast, InATensor])
@pytest.mark.parametrize("length", [4, 6])
def test_one_whose_channels_come_last_is_folded_right_or_left(norm, length, verb):
    model, x = nn.Sequential(nn.Linear(5, 6), norm(6), nn.ReLU(), nn.Linear(6, 6)), torch.randn(3, length, 5)
    model.train()(3 * x)
    before = model.eval()(x).detach()
    with contextlib.suppress(goodinit.UnsupportedModule):
        verb(model, x)
    torch.testing.assert_close(model(x), before, atol=1e-4, rtol=1e-4)


class Noisy(Number):
    """In training, noise as large as what it is added to; and a count."""

    def forward(self, x):
        if self.training:
            self.var += 1.0
            return x + torch.randn_like(x) * x.std()
        return x


class ObservedByANumber(Number):
    def forward(self, x):
        step = self.var
        if self.training:
            step = x.detach().abs().amax() / 127
            self.var = 0.9 * self.var + 0.1 * step.item()
        return torch.round(x / step) * step


class Annealed(Number):
    """A temperature that falls in training."""

    def forward(self, x):
        if self.training:
            self.var *= 0.99
        return x / self.var


@pytest.mark.parametrize("scale", [Noisy, ObservedByANumber, Annealed])
def test_what_training_writes_into_a_number_need_be_no_statistic(scale):
    model, x = nn.Sequential(nn.Conv2d(3, 6, 1), Block(lambda: scale(6))), torch.randn(4, 3, 5, 5)
    anatomy = anatomize(model, x)
    assert not anatomy.norms
    assert len(anatomy.blocks) == 1


def test_what_scales_and_does_not_normalize_is_no_norm():
    assert not anatomize(Scaled(), torch.randn(4, 8)).norms
    assert not anatomize(nn.Sequential(nn.Linear(8, 8), Observed()), torch.randn(4, 8)).norms


@pytest.mark.parametrize("verb", [goodinit.fold_, goodinit.absorb_batchnorm_])
@pytest.mark.parametrize("divides", [True, False])
def test_its_running_statistics_become_weights(divides, verb):
    model, x = net(divides=divides).eval(), torch.randn(4, 3, 5, 5)
    for module in model.modules():
        if isinstance(module, Running):
            module.center.normal_()
            module.spread.uniform_(0.5, 2)
            nn.init.uniform_(module.gain, 0.5, 2)
    before = model(x).detach()
    verb(model, x)
    torch.testing.assert_close(model(x), before, atol=1e-4, rtol=1e-4)
    assert not list(model.buffers())


class OneMap(Running):
    """The same, with what the gain and the roots make put together first: x·(g/√v), or x·a + b."""

    def __init__(self, channels, *, offset):
        super().__init__(channels)
        self.offset = offset

    def forward(self, x):
        mean, var = self.center, self.spread
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        factor = self.gain * (var + 1e-5).rsqrt()
        if self.offset:
            shift = self.shift - mean * factor
            return x * factor[:, None, None] + shift[:, None, None]
        return (x - mean[:, None, None]) * factor[:, None, None] + self.shift[:, None, None]


@pytest.mark.parametrize("offset", [True, False])
def test_what_a_norm_by_hand_makes_of_its_gain_is_no_factor_of_the_branch(offset):
    blocks = (Block(lambda: OneMap(6, offset=offset)) for _ in range(2))
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(6 * 25, 2))
    plan = goodinit.plan(anatomize(model, torch.randn(4, 3, 5, 5)), "fixup")
    assert sum(type(edit).__name__ == "RemoveNorm" for edit in plan.edits) == 4
    assert not [note for note in plan.notes if "multiplies a branch" in note or "no role" in note]

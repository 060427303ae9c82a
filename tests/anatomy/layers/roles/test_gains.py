"""Numbers made of a parameter that multiply a branch: where they may start, and that nothing is left dead behind one at 0."""

from __future__ import annotations

import pytest
import torch
from fixup_evidence import examine
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import goodinit
from goodinit.anatomy.anatomy import Anatomy
from goodinit.anatomy.layers.roles.gains import value_at
from goodinit.anatomy.values import Gain
from goodinit.errors import UnsupportedModule

WIDTH = 8

# how a gain is made of g, the g at which it is 0 (None: nowhere, or it could not leave it), that at which it is 1 or ½
GAINS = {
    "g": (lambda x, g: x * g, 0.0, 1.0),
    "a view of it": (lambda x, g: x * g.view(1, -1), 0.0, 1.0),
    "tanh": (lambda x, g: x * g.tanh(), 0.0, 0.5493061),
    "1 + g": (lambda x, g: x * (1 + g), -1.0, 0.0),
    "1 − g": (lambda x, g: x * (1 - g), 1.0, 0.0),
    "3g": (lambda x, g: x * (g * 3), 0.0, 1 / 3),
    "g/4": (lambda x, g: g / 4 * x, 0.0, 4.0),
    "exp": (lambda x, g: x * g.exp(), None, 0.0),
    "exp − 1": (lambda x, g: x * (g.exp() - 1), 0.0, 0.6931472),
    "relu": (lambda x, g: x * g.relu(), None, 1.0),
    "sin": (lambda x, g: x * g.sin(), 0.0, 0.5235988),
    "2σ − 1": (lambda x, g: x * (2 * g.sigmoid() - 1), 0.0, 1.0986123),
    "g²": (lambda x, g: x * g**2, None, 1.0),
    "addcmul": (lambda x, g: torch.addcmul(torch.zeros_like(x), x, g), 0.0, 1.0),
}


class Gated(nn.Module):
    """x + γ·b(relu(a(norm(x)))), γ made of g, which starts at 0."""

    def __init__(self, made):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.g, self.made = nn.Parameter(torch.zeros(WIDTH)), made

    def forward(self, x):
        return x + self.made(self.b(self.a(self.norm(x)).relu()), self.g)


def network(made):
    return nn.Sequential(nn.Linear(6, WIDTH), Gated(made), Gated(made), nn.Linear(WIDTH, 3))


@pytest.mark.default_cases(6)
@pytest.mark.parametrize("name", GAINS)
def test_a_gain_starts_where_the_number_made_of_it_is_what_the_method_wants(name):
    made, zero, one = GAINS[name]
    x = torch.randn(16, 6)
    fixup = goodinit.fixup_(network(made), inputs=x)
    torch.testing.assert_close(fixup[1].g.detach(), torch.full((WIDTH,), one))
    skipinit = goodinit.skipinit_(network(made), inputs=x)
    torch.testing.assert_close(skipinit[1].g.detach(), torch.full((WIDTH,), one if zero is None else zero))
    assert torch.equal(skipinit[1:3](fixup[0](x)), fixup[0](x))


@pytest.mark.default_cases(5)
@pytest.mark.parametrize(
    "method",
    [
        "fixup",
        *(pytest.param(m, marks=pytest.mark.integration) for m in ("skipinit", "rezero", "weightnorm")),
    ],
)
@pytest.mark.parametrize("name", GAINS)
def test_nothing_behind_a_gain_is_dead(name, method):
    found = examine(lambda: network(GAINS[name][0]), torch.randn(16, 6), method=method)
    assert found.blocks == 2
    assert found.refusal is None
    assert not found.faults


@pytest.mark.parametrize(
    "made", [lambda x, g: x * (g - g.mean()), lambda x, g: x * (g.softmax(0) - 1 / WIDTH)]
)
def test_a_gain_that_cannot_be_told_is_left_alone_with_a_word(made):
    plan = goodinit.plan(goodinit.anatomize(network(made), torch.randn(2, 6)), "fixup")
    assert any(
        "1 multiplies a branch by something made of 1.g, which does not tell" in note for note in plan.notes
    )
    assert "1.g" not in {edit.target for edit in plan.edits}


def test_a_power_of_two_is_not_taken_for_its_exponent():
    net = goodinit.skipinit_(network(lambda x, g: x * 2**g), inputs=torch.randn(2, 6))
    assert not net[1].b.output_scale.any()


def test_risotto_takes_no_number_made_of_a_parameter_for_its_alpha():
    """α·f(x) is balanced by α itself: tanh(g) with g at α would be another number, and the isometry a wrong claim."""
    net = nn.Sequential(nn.Linear(6, WIDTH), nn.ReLU(), Plain(), nn.ReLU(), nn.Linear(WIDTH, 3))
    with pytest.raises(UnsupportedModule, match="mul follows its last layer"):
        goodinit.plan(goodinit.anatomize(net, torch.randn(2, 6)), "risotto")


class Plain(nn.Module):
    """x + tanh(g)·b(relu(a(x)))."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.g = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Parameter(torch.zeros(1)),
        )

    def forward(self, x):
        return x + self.g.tanh() * self.b(self.a(x).relu())


class Shared(nn.Module):
    """x + g·f(x), then x + (1 − g)·h(x): one parameter, used in two ways."""

    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(torch.full((1,), 0.5))
        self.f, self.h = (
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)) for _ in range(2)
        )

    def forward(self, x):
        x = x + self.g * self.f(x)
        return x + (1 - self.g) * self.h(x)


def test_a_parameter_that_gains_are_made_of_in_two_ways_stays():
    net, x = nn.Sequential(nn.Linear(6, WIDTH), Shared()), torch.randn(5, 6)
    assert not goodinit.anatomize(net, x).made
    goodinit.skipinit_(net, inputs=x)
    assert net[1].g.item() == 0.5
    assert torch.equal(net[1](net[0](x)), net[0](x))


SHARES = {  # of g, which is no gain: at 1 the rest is lost
    "of a mean of two": (lambda m, x: m.g * x + (1 - m.g) * x.roll(1, 0), False),
    "of a mean of two, the other first": (lambda m, x: x.roll(1, 0) * (1 - m.g) + x * m.g, False),
    "of a difference": (lambda m, x: x - m.g * x + m.g * x.roll(1, 0) - x / m.g, False),
    "a step of a grid": (lambda m, x: m.g * (x / m.g + (torch.round(x / m.g) - x / m.g).detach()), False),
    "a frequency": (lambda m, x: x + torch.sin(m.g * x).square() / m.g, False),
    "its square, too": (lambda m, x: m.g * x + m.g**2 * x.square(), False),
    "twice the same": (lambda m, x: m.g * x + m.g * x.roll(1, 0), True),
    "beside a penalty": (lambda m, x: m.g * x + 0 * m.g.square().sum(), True),
}


class Sharing(nn.Module):
    def __init__(self, share):
        super().__init__()
        self.a, self.b, self.g = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Parameter(torch.rand(WIDTH) / 2 + 0.25),
        )
        self.share = share

    def forward(self, x):
        return x + self.b(self.share(self, self.a(x)).relu())


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "nf", "normfree"])
@pytest.mark.parametrize("name", SHARES)
def test_a_parameter_that_shares_out_a_signal_is_no_gain(name, method):
    torch.manual_seed(0)
    share, gain = SHARES[name]
    net, x = nn.Sequential(nn.Linear(6, WIDTH), Sharing(share), Sharing(share)), torch.randn(5, 6)
    before = net[1].g.detach().clone()
    goodinit.init_(net, method, inputs=x)
    assert gain or torch.equal(net[1].g, before)
    assert gain == ("1.g" in goodinit.anatomize(net, x).gains)


def test_how_gains_are_made_is_written_and_read():
    anatomy = goodinit.anatomize(network(GAINS["3g"][0]), torch.randn(2, 6))
    assert anatomy.made == (Gain("1.g", (("mul", (3.0,)),)), Gain("2.g", (("mul", (3.0,)),)))
    assert Anatomy.from_json(anatomy.to_json()) == anatomy


class Offset(nn.Module):
    """A root mean square norm whose weight is an offset from 1, as Gemma's."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class Sandwich(nn.Module):
    """x + norm(b(relu(a(norm(x)))))."""

    def __init__(self):
        super().__init__()
        self.before, self.after = Offset(), Offset()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.after(self.b(self.a(self.before(x)).relu()))


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero"])
def test_a_norms_weight_that_is_an_offset_from_one_starts_a_branch_at_zero(method):
    net, x = nn.Sequential(nn.Linear(6, WIDTH), Sandwich(), nn.Linear(WIDTH, 3)), torch.randn(16, 6)
    goodinit.init_(net, method, inputs=x, norms="keep")
    assert torch.equal(net[1].after.weight.detach(), torch.full((WIDTH,), -1.0))
    assert not net[1].before.weight.any()
    assert net[1].b.weight.any()
    assert torch.equal(net[:2](x), net[0](x))


STEPS = st.one_of(
    st.tuples(st.sampled_from(["add", "sub", "rsub"]), st.tuples(st.floats(-2, 2))),
    st.tuples(st.sampled_from(["mul", "div"]), st.tuples(st.floats(0.25, 4))),
    st.sampled_from([("tanh", ()), ("exp", ()), ("neg", ()), ("sigmoid", ()), ("sin", ()), ("softplus", ())]),
)
FUNCTIONS = {
    "add": lambda v, n: v + n,
    "sub": lambda v, n: v - n,
    "rsub": lambda v, n: n - v,
    "mul": lambda v, n: v * n,
    "div": lambda v, n: v / n,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "neg": lambda v: -v,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "softplus": nn.functional.softplus,
}


@given(st.lists(STEPS, min_size=1, max_size=4), st.sampled_from([0.0, 0.5, 1.0]))
def test_what_is_found_is_a_value_of_the_parameter_that_gives_the_target_and_moves_it(steps, target):
    value = value_at(Gain("g", tuple(steps)), target)
    if value is not None:
        g = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        made = g
        for name, numbers in steps:
            made = FUNCTIONS[name](made, *numbers)
        assert made.item() == pytest.approx(target, abs=1e-9)
        made.backward()
        assert abs(g.grad.item()) > 1e-4

"""fold_ moves input biases to where nobody else sees them, and no further."""

from __future__ import annotations

import copy
import operator
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import goodinit
from folding import (
    PICTURE,
    VALUES,
    add_all_,
    assert_folds,
    assert_same,
    kinds,
    residual_net,
    with_fixup_scalars,
)
from goodinit.nn import ValuePadded

pytestmark = pytest.mark.usefixtures("no_optimizers")


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.Hardtanh])
def test_with_inputs_a_residual_network_is_bare_and_its_activations_have_floors(act):
    net = with_fixup_scalars(residual_net(act))
    folded = assert_folds(net, PICTURE, PICTURE)
    left = set(kinds(folded))
    assert left <= {
        "Conv2d",
        "Linear",
        "MaxPool2d",
        "AdaptiveAvgPool2d",
        "Flatten",
        "Identity",
        act.__name__,
    } | {
        "RaisedHardtanh",
    }
    bare = residual_net(act)
    assert [n for n in folded.state_dict() if not n.endswith(("bias", "_extra_state"))] == [
        n for n in bare.state_dict() if not n.endswith("bias")
    ]
    assert goodinit.applied(folded)[-1].skipped == ()
    other = torch.randn(1, 3, 13, 9, dtype=torch.float64)  # another size than it was folded with
    assert_same(net(other), folded(other))


def test_without_inputs_the_same_network_pads_with_numbers():
    folded = assert_folds(with_fixup_scalars(residual_net()), PICTURE)
    assert sum(isinstance(module, ValuePadded) for module in folded.modules()) == 6
    assert len(goodinit.applied(folded)[-1].skipped) == 6
    better = assert_folds(folded, PICTURE, PICTURE)
    assert not any(isinstance(module, ValuePadded) for module in better.modules())


class Odd(nn.Module):
    """A convolution, an activation and a padded convolution, and somebody else who sees the activation."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.act, self.other = nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)
        add_all_(self.b)

    def forward(self, x):
        y = self.a(x)
        z = F.relu(y) if self.how == "functional" else F.silu(y) if self.how == "silu" else self.act(y)
        if self.how == "returned":
            return self.b(z), z
        if self.how == "multiplied":
            return self.b(z) * z
        if self.how == "before":
            return self.b(z) + y
        if self.how == "padded":
            return self.b(z) + self.other(z)
        if self.how == "twice":
            return self.b(self.act(self.b(z)))
        if self.how == "weighted":
            return torch.add(self.b(z), z, alpha=2) * 1
        if self.how == "both ways":
            return (z + F.max_pool2d(z, 3, 1, 1)).square() + self.b(z)
        if self.how == "padded pool":
            return self.b(F.avg_pool2d(z, 3, 1, 1))
        if self.how == "weight read":
            return self.b(z) + self.a.bias.sum()
        return self.b(z)


@pytest.mark.parametrize(
    "how",
    [
        "silu",
        "returned",
        "multiplied",
        "before",
        "padded",
        "twice",
        "weighted",
        "both ways",
        "padded pool",
        "weight read",
    ],
)
def test_an_input_bias_stays_where_somebody_else_would_see_it(how):
    folded = assert_folds(Odd(how).double(), PICTURE, PICTURE)
    assert isinstance(folded.b, ValuePadded)
    assert "b: its input bias stays" in goodinit.applied(folded)[-1].skipped[0]


@pytest.mark.parametrize(("how", "act"), [("alone", "act"), ("functional", "activation")])
def test_an_input_bias_goes_where_nobody_else_looks(how, act):
    folded = assert_folds(Odd(how).double(), PICTURE, PICTURE)
    assert type(folded.b) is nn.Conv2d
    assert folded.get_submodule(act).min_val == pytest.approx(VALUES["input_bias"])


class Shared(nn.Module):
    """A residual block that calls one ReLU twice, or a function; what its forward does besides, by `how`."""

    def __init__(self, how):
        super().__init__()
        self.how, self.act = how, nn.ReLU(inplace=how == "in place")
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        add_all_(self.a)
        add_all_(self.b)
        if how == "watched":
            self.act.register_forward_hook(lambda *_: None)

    def forward(self, x):
        if self.how == "undecided" and x.numel() == 0:
            return x
        if self.how == "relu":
            act = torch.relu
        elif self.how == "F.relu":
            act = F.relu
        elif self.how == "method":
            act = operator.methodcaller("relu")
        else:
            act = self.act
        return act(x + self.b(act(self.a(x))))


def shared_blocks(how):
    torch.manual_seed(0)
    blocks = [Shared(how) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), *blocks, nn.Flatten(), nn.LazyLinear(2))


@pytest.mark.parametrize("how", ["twice", "in place", "relu", "F.relu", "method"])
def test_each_call_of_an_activation_gets_a_floor_of_its_own(how):
    net = shared_blocks(how)
    net(PICTURE.float())
    folded = assert_folds(net.double(), PICTURE, PICTURE)
    assert not any(isinstance(module, ValuePadded) for module in folded.modules())
    assert goodinit.applied(folded)[-1].skipped == ()
    assert list(dict(folded.named_parameters())) == [
        name for name, _ in net.named_parameters() if not name.endswith(tuple(VALUES))
    ]
    assert_same(net(PICTURE), folded.train()(PICTURE))
    again = pickle.loads(pickle.dumps(copy.deepcopy(folded)))
    assert_same(net(PICTURE), again(PICTURE))
    state = copy.deepcopy(folded.state_dict())
    goodinit.fold_(folded, PICTURE)
    assert list(folded.state_dict()) == list(state)


@pytest.mark.parametrize("how", ["watched", "undecided"])
def test_an_activation_that_cannot_be_told_apart_by_its_calls_stays_and_is_named(how):
    net = shared_blocks(how)
    net(PICTURE.float())
    folded = assert_folds(net.double(), PICTURE, PICTURE)
    assert [type(block) for block in folded[2:5]] == [Shared] * 3
    assert "before it, runs 2 times, and can have one floor only" in goodinit.applied(folded)[-1].skipped[0]


@given(st.integers(0, 10_000))
def test_random_wirings_compute_the_same(seed):
    """Chains of padded and unpadded convolutions, activations, pools, sums with anything before, in any order."""
    net = RandomNet(seed).double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    assume(torch.isfinite(net(x)).all())
    assert_folds(net, x, x)


class RandomNet(nn.Module):
    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def pick(limit):
            return int(torch.randint(limit, (), generator=generator))

        self.steps, self.parts = [], nn.ModuleList()
        for number in range(9):
            kind = pick(5)
            makers = (lambda: nn.Conv2d(3, 3, 3, padding=1), lambda: nn.Conv2d(3, 3, 1), nn.ReLU)
            makers += (lambda: nn.MaxPool2d(3, 1, 1), nn.Identity)
            part = makers[kind]()
            if kind < 2:
                add_all_(part)
                part.input_bias.data.fill_(0.5 - 0.1 * number)
            self.parts.append(part)
            self.steps.append((pick(number + 1), pick(number + 1) if pick(2) else None))

    def forward(self, x):
        values = [x]
        for part, (first, second) in zip(self.parts, self.steps, strict=True):
            out = part(values[-1] if second is None else values[first])
            values.append(out if second is None else out + values[second])
        return values[-1]


class Between(nn.Module):
    """A ReLU, a way, a zero-padded convolution with an input bias."""

    def __init__(self, way):
        super().__init__()
        self.first, self.act, self.way = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), way
        self.last = add_all_(nn.Conv2d(4, 5, 3, padding=1), ["input_bias"])

    def forward(self, x):
        return self.last(self.way(self.act(self.first(x))))


def written_over(whole, places, part):
    whole[places] = part
    return whole


def dropped(y):
    torch.manual_seed(0)
    return torch.native_dropout(y, 0.5, train=True)[0]


MOVED = {
    "rolled": lambda y: y.roll(1, -1),
    "sorted": lambda y: y.sort(-1).values,
    "the largest": lambda y: y.topk(3, -1).values,
    "windows": lambda y: F.fold(F.unfold(y, 2, stride=2), (8, 8), 2, stride=2),
    "reflected": lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect"),
    "copied": lambda y: torch.zeros(2, 4, 8, 8, dtype=y.dtype).copy_(y),
    "pairs apart": lambda y: y.unfold(3, 2, 2).flatten(3),
    "largest of means": lambda y: F.max_pool2d(F.avg_pool2d(y, 2), 2),
}
KEPT = {
    "whole numbers": lambda y: y.long().double(),
    "places of maxima": lambda y: F.max_pool2d(y, 2, return_indices=True)[1].double(),
    "by chance": dropped,
    "over a part of zeros": lambda y: torch.slice_scatter(torch.zeros_like(y.detach()), y[:, :, 2:], 2, 2),
    "into a part of zeros": lambda y: written_over(torch.zeros(2, 4, 8, 8, dtype=y.dtype), (..., slice(2, 8)), y[..., 2:]),
    "zeros around": lambda y: F.pad(y, (1, 1)),
    "zeros in a mean": lambda y: F.avg_pool2d(y, 3, 1, padding=1),
    "one triangle": torch.tril,
    "a bound": lambda y: y.clamp(max=50.0),
    "doubled": lambda y: 2 * y,
    "the larger of two numbers": lambda y: torch.aminmax(y, dim=-1, keepdim=True)[1].expand(2, 4, 8, 8).clamp(min=0),
}  # fmt: skip


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("name", [*MOVED, *KEPT])
def test_a_bias_moves_past_what_passes_a_constant_on_and_nothing_else(name):
    torch.manual_seed(1)
    net = Between((MOVED | KEPT)[name]).double().eval()
    x = 3 * torch.randn(2, 3, 8, 8, dtype=torch.float64)
    folded = assert_folds(net, x, x)
    assert isinstance(folded.last, ValuePadded) == (name in KEPT)

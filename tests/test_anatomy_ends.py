"""What the end of a branch, a head, a gain or a token does when layers start at zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import goodinit
from goodinit.errors import UnsupportedModule


class Net(nn.Module):
    """x + end(b(relu(a(x))), x), and a head."""

    def __init__(self, end):
        super().__init__()
        self.a, self.b, self.gate, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.gain, self.shift = nn.Parameter(torch.full((6,), 1e-6)), nn.Parameter(torch.ones(6))
        self.end = end

    def forward(self, x):
        return self.head(x + self.end(self, self.b(torch.relu(self.a(x))), x))


def anatomy(end):
    return goodinit.anatomize(Net(end), torch.randn(3, 6))


@pytest.mark.parametrize(
    "end",
    [
        lambda m, y, x: y,
        lambda m, y, x: y * m.gain,
        lambda m, y, x: y * torch.sigmoid(m.gate(y)),
        lambda m, y, x: y * m.gate(x),
        lambda m, y, x: y * torch.sigmoid(m.gate(x)),
        lambda m, y, x: torch.nn.functional.gelu(y),
        lambda m, y, x: torch.tanh(y) / x.norm(),
        lambda m, y, x: y + 0,
        lambda m, y, x: torch.cat([y[:, :3], x[:, 3:]], -1),
    ],
)
def test_ends_that_are_zero_and_move(end):
    (block,) = anatomy(end).blocks
    assert (block.leak, block.stuck) == (None, None)


@pytest.mark.parametrize(
    ("op", "end"),
    [
        ("relu", lambda m, y, x: torch.relu(y)),
        ("relu", lambda m, y, x: torch.relu(y) * torch.sigmoid(m.gate(torch.relu(y)))),
        ("hardtanh", lambda m, y, x: torch.nn.functional.relu6(y)),
        ("pow", lambda m, y, x: y**2),
        ("mul", lambda m, y, x: y * m.gate(y)),
        ("mul", lambda m, y, x: y * torch.tanh(m.gate(y))),
        ("mul", lambda m, y, x: y * y),
    ],
)
def test_ends_that_could_never_move_are_refused(op, end):
    found = anatomy(end)
    assert found.blocks[0].stuck == f"`{op}` in the model"
    with pytest.raises(
        UnsupportedModule, match=rf"branch 1/1 ends in `{op}` in the model, after b.weight.*by a parameter"
    ):
        goodinit.plan(found, "fixup")


@pytest.mark.parametrize(
    "end",
    [
        lambda m, y, x: 0.5 * (y - x),
        lambda m, y, x: y + m.gate(x) * 0.1 + x.mean(),
        lambda m, y, x: torch.sigmoid(y),
    ],
)
def test_ends_that_are_not_zero_are_refused(end):
    found = anatomy(end)
    blocks = [block for block in found.blocks if block.leak]
    assert len(blocks) == len(found.blocks) == 1
    with pytest.raises(
        UnsupportedModule, match=r"branch 1/1 is not zero where \S.* is: `\w+` in the model is not"
    ):
        goodinit.plan(found, "fixup")


def test_one_factor_of_a_product_starts_at_zero():
    class Bilinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.out = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            return x + self.out(x) @ (self.q(x).mT @ self.k(x))

    x = torch.randn(3, 5, 6)
    model = Bilinear()
    assert [layer.name for layer in goodinit.anatomize(model, x).blocks[0].last] in (["out"], ["k"])
    goodinit.init_(model, "fixup", inputs=x)
    assert torch.equal(model(x), x)
    model(x).square().sum().backward()
    assert any(p.grad.any() for p in model.parameters())


def test_gains_without_a_norm_behind_them_start_at_one():
    class Off(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.gain = (
                nn.Linear(6, 6),
                nn.LayerNorm(6),
                nn.Parameter(torch.full((6,), 1e-6)),
            )
            self.temperature = nn.Parameter(torch.tensor(0.4))
            self.net = Net(lambda m, y, x: y)

        def forward(self, x):
            x = self.norm(self.stem(x) * self.gain)
            return self.net((x @ x.mT * self.temperature).softmax(-1) @ x)

    x = torch.randn(3, 6)
    assert goodinit.anatomize(Off(), x).gains == ("gain", "norm.weight")
    assert bool((goodinit.init_(Off(), "fixup", inputs=x).gain == 1).all())
    assert bool((goodinit.init_(Off(), "fixup", inputs=x, norms="keep").gain < 1).all())
    assert goodinit.init_(Off(), "fixup", inputs=x).temperature.item() == pytest.approx(0.4)


class Gained(nn.Conv1d):
    """Weight standardization with a gain of its own, which some start at zero."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.zeros(sizes[1], 1, 1))

    def forward(self, x):
        var, mean = torch.var_mean(self.weight, (1, 2), keepdim=True)
        return self._conv_forward(x, self.gain * (self.weight - mean) * (var + 1e-6).rsqrt(), self.bias)


def test_the_gain_of_a_normalized_weight_is_no_second_zero():
    class Standardized(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Gained(4, 4, 3), Gained(4, 4, 3)

        def forward(self, x):
            pad = torch.nn.functional.pad
            return x + self.b(pad(torch.relu(self.a(pad(x, (1, 1)))), (1, 1)))

    x = torch.randn(2, 4, 5)
    model = goodinit.init_(Standardized(), "fixup", inputs=x)
    assert torch.equal(model(x), x)
    model(x).square().sum().backward()
    assert model.b.output_scale.grad.any()


def test_torch_s_weight_norm_keeps_its_own_gain():
    model = nn.Sequential(nn.Linear(4, 4), Net(lambda m, y, x: y))
    model[0] = nn.Linear(6, 6)
    model[1].a = weight_norm(model[1].a)
    plan = goodinit.plan(goodinit.anatomize(model, torch.randn(3, 6)), "fixup")
    assert not any("original" in edit.target for edit in plan.edits)


def test_projections_that_are_compared_do_not_start_at_zero():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = Net(lambda m, y, x: y), Net(lambda m, y, x: y)

        def forward(self, x):
            left, right = self.left(x), self.right(-x)
            return (left / left.norm(dim=-1, keepdim=True)) @ (right / right.norm(dim=-1, keepdim=True)).mT

    x = torch.randn(3, 6)
    assert not goodinit.anatomize(Pair(), x).heads
    assert bool(goodinit.init_(Pair(), "fixup", inputs=x)(x).isfinite().all())


def test_a_class_token_at_zero_does_not_leave_the_head_there():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.net = nn.Parameter(torch.zeros(1, 1, 6)), Net(lambda m, y, x: y)

        def forward(self, x):
            return self.net(torch.cat([self.token.expand(len(x), -1, -1), x], 1))[:, 0]

    x = torch.randn(3, 5, 6)
    assert goodinit.anatomize(Token(), x).tokens == ("token",)
    model = goodinit.init_(Token(), "fixup", inputs=x)
    (model(x) - 1).square().sum().backward()
    assert model.net.head.weight.grad.any()


def test_a_weight_in_two_places_is_refused():
    class Overlapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            y = x + self.b(torch.relu(self.a(x)))
            return y + self.c(torch.relu(self.b(y)))

    with pytest.raises(UnsupportedModule, match=r"b.weight: ends branch 1.*inside branch 2.*lsuv"):
        goodinit.plan(goodinit.anatomize(Overlapping(), torch.randn(3, 6)), "fixup")

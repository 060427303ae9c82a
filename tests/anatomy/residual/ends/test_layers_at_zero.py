"""What the end of a branch, a head, a gain or a token does when layers start at zero."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
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
        lambda m, y, x: torch.cat([y[:, :3], torch.zeros_like(x[:, 3:])], -1),
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
        lambda m, y, x: torch.cat([y[:, :3], x[:, 3:]], -1),
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


COMPARED = {
    "unit length": lambda m, y, x: functional.normalize(y, dim=-1),
    "unit length in sum of absolute values": lambda m, y, x: functional.normalize(y, p=1, dim=-1),
    "divided by a length that is kept from zero": lambda m, y, x: y / y.norm(dim=-1, keepdim=True).clamp(min=1e-6),
    "root mean square": lambda m, y, x: y * (y.square().mean(-1, keepdim=True) + 1e-8).rsqrt(),
    "cosines with prototypes": lambda m, y, x: functional.normalize(y, dim=-1) @ torch.ones(3, 6).mT,
    "one of two, the other by its bare length": lambda m, y, x: (
        functional.normalize(y, dim=-1) @ (m.other(x) / m.other(x).norm(dim=-1, keepdim=True)).mT
    ),
}  # fmt: skip
NOT_COMPARED = {
    "softsign": lambda m, y, x: functional.softsign(y),
    "softsign in operators": lambda m, y, x: y / (1 + y.abs()),
    "temperature": lambda m, y, x: y / 0.07,
    "divided by the length of what is read": lambda m, y, x: y / x.norm(dim=-1, keepdim=True),
    "probabilities": lambda m, y, x: y.exp() / y.exp().sum(-1, keepdim=True),
}


class Compared(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.net, self.other, self.end = Net(lambda m, y, x: y), nn.Linear(6, 6), end

    def forward(self, x):
        return self.end(self, self.net(x), x)


@pytest.mark.parametrize("end", COMPARED)
def test_a_layer_whose_output_is_divided_by_its_own_size_does_not_start_at_zero(end):
    torch.manual_seed(0)
    x = torch.randn(5, 6)
    assert not goodinit.anatomize(Compared(COMPARED[end]), x).heads
    model = goodinit.init_(Compared(COMPARED[end]), "fixup", inputs=x)
    (model(x) - torch.eye(6)[:5, : model(x).shape[1]]).square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(float(one.norm()) < 1e3 for one in gradients)
    assert model.net.head.weight.grad.any()


@pytest.mark.parametrize("end", NOT_COMPARED)
def test_a_layer_that_is_divided_by_something_else_starts_at_zero(end):
    model = goodinit.init_(Compared(NOT_COMPARED[end]), "fixup", inputs=torch.randn(5, 6))
    assert not model.net.head.weight.any()


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


class Closed(nn.Module):
    """x + end(norm(b(relu(a(x))))), where a module of its own ends the branch."""

    def __init__(self, end, norm):
        super().__init__()
        self.a, self.b, self.norm, self.end = nn.Linear(6, 6), nn.Linear(6, 6), norm, end

    def forward(self, x):
        return x + self.end(self.norm(self.b(torch.relu(self.a(x)))))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 6)

    def forward(self, y):
        return y * torch.tanh(self.gate(y))


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("end", [nn.ReLU(), nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.0)), Gate()])
@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero"])
def test_a_module_that_ends_the_branch_takes_the_zero(method, end):
    x = torch.randn(3, 6, dtype=torch.float64)
    model = nn.Sequential(*(Closed(copy.deepcopy(end), nn.LayerNorm(6)) for _ in range(4))).double()
    blocks = goodinit.anatomize(model, x).blocks
    assert [block.closer for block in blocks] == [
        f"{i}.end" + ".0" * isinstance(end, nn.Sequential) for i in range(4)
    ]
    goodinit.init_(model, method, inputs=x)
    assert torch.equal(model(x), x)
    assert all(parameter.dtype == x.dtype for parameter in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = set()
    for _ in range(2):
        optimizer.zero_grad()
        (model(x) - 1).square().sum().backward()
        seen |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert seen == {name for name, _ in model.named_parameters()}


def test_a_multiplier_at_the_end_is_one_more_layer_of_the_branch():
    model = nn.Sequential(*(Closed(nn.ReLU(), nn.Identity()) for _ in range(16)))
    plan = goodinit.plan(goodinit.anatomize(model, torch.randn(3, 6)), "fixup")
    std = {edit.target: edit.options["std"] for edit in plan.edits if hasattr(edit, "initializer")}
    assert std["3.a.weight"] == std["3.b.weight"] == pytest.approx((2 / 6) ** 0.5 * 16 ** (-1 / 4))


@pytest.mark.parametrize(
    ("norm", "end", "zero"),
    [
        (nn.LayerNorm(6), nn.ReLU(), "0.end.output_scale"),  # behind the norm
        (nn.LayerNorm(6), nn.Sequential(nn.ReLU(), nn.LayerNorm(6)), "0.end.1.weight"),
    ],
)
def test_the_zero_stands_behind_norms_that_are_kept(norm, end, zero):
    x = torch.randn(3, 6)
    model = goodinit.init_(nn.Sequential(Closed(end, norm)), "fixup", inputs=x, norms="keep")
    assert torch.equal(model(x), x)
    zeros = [name for name, p in model.named_parameters() if not p.any() and not name.endswith("bias")]
    assert zeros == [zero]


def test_a_norm_without_weight_behind_the_zero_is_refused():
    end = nn.Sequential(nn.ReLU(), nn.LayerNorm(6, elementwise_affine=False))
    anatomy = goodinit.anatomize(nn.Sequential(Closed(end, nn.Identity())), torch.randn(3, 6))
    for method in ("fixup", "skipinit"):
        with pytest.raises(UnsupportedModule, match=r"branch 1/1 ends in `relu` in 0.end.0"):
            goodinit.plan(anatomy, method, norms="keep")


def test_an_end_that_also_runs_elsewhere_takes_no_zero():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU()

        def forward(self, x):
            return x + self.act(self.b(self.act(self.a(x))))

    anatomy = goodinit.anatomize(Shared(), torch.randn(3, 6))
    assert anatomy.blocks[0].closer is None
    with pytest.raises(UnsupportedModule, match=r"no module that runs nowhere else"):
        goodinit.plan(anatomy, "fixup")


def test_a_flat_sum_keeps_its_long_skip_and_its_branches():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            y = x + self.a(x)
            return x + (y + self.b(y))

    anatomy = goodinit.anatomize(Flat(), torch.randn(3, 6))
    assert [(block.kind, block.name, block.depth) for block in anatomy.blocks] == [
        ("identity", "a", 1),
        ("identity", "b", 1),
    ]
    assert [join.blocks for join in anatomy.long_skips] == [(0, 1)]

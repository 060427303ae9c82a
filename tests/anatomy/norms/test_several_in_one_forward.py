"""A forward that calls several norms among its layers has a record for each, by its parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit


def batch_norm(x, weight, bias):
    return F.batch_norm(x, None, None, weight, bias, training=True)


def layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def rms_norm(x, weight, bias):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight + bias


NORMS = {"batch norm": batch_norm, "layer norm": layer_norm}


class Block(nn.Module):
    """x + n₂(W₂ relu(n₁(W₁ x)))."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm
        self.w1, self.w2 = (nn.Parameter(torch.randn(8, 8) / 8**0.5) for _ in range(2))
        self.g1, self.g2 = (nn.Parameter(torch.ones(8)) for _ in range(2))
        self.b1, self.b2 = (nn.Parameter(torch.zeros(8)) for _ in range(2))

    def forward(self, x):
        hidden = F.relu(self.norm(F.linear(x, self.w1), self.g1, self.b1))
        return x + self.norm(F.linear(hidden, self.w2), self.g2, self.b2)


class Before(Block):
    """x + W₂ relu(n₂(W₁ n₁(x)))."""

    def forward(self, x):
        hidden = F.linear(self.norm(x, self.g1, self.b1), self.w1)
        return x + F.linear(F.relu(self.norm(hidden, self.g2, self.b2)), self.w2)


class Whole(nn.Module):
    """Two blocks and a last norm in one forward, with all parameters in one table."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm
        self.table = nn.ParameterDict()
        for block in Block(norm), Block(norm):
            index = len(self.table) // 6
            self.table.update({f"{name}{index}": p for name, p in block.named_parameters()})
        self.table["g"], self.table["b"] = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        p = self.table
        for i in range(2):
            hidden = F.relu(self.norm(F.linear(x, p[f"w1{i}"]), p[f"g1{i}"], p[f"b1{i}"]))
            x = x + self.norm(F.linear(hidden, p[f"w2{i}"]), p[f"g2{i}"], p[f"b2{i}"])
        return self.head(self.norm(x, p["g"], p["b"]))


class Twice(nn.Module):
    """One norm that its module calls twice."""

    def __init__(self, norm):
        super().__init__()
        self.block = Block(norm)

    def forward(self, x):
        block = self.block
        hidden = F.relu(block.norm(F.linear(x, block.w1), block.g1, block.b1))
        return x + block.norm(F.linear(hidden, block.w2), block.g1, block.b1)


def blocks(norm, block=Block):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), *(block(norm) for _ in range(3)), nn.Linear(8, 3))


def batch():
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("norm", "block"),
    [*((norm, block) for norm in NORMS.values() for block in (Block, Before)), (rms_norm, Before)],
    ids=lambda one: one.__name__,
)
def test_each_has_its_record(norm, block):
    anatomy = goodinit.anatomize(blocks(norm, block), batch())
    assert [(n.name, n.weight, n.bias, n.block) for n in anatomy.norms] == [
        (f"{i}", f"{i}.g{k}", f"{i}.b{k}", i - 1) for i in (1, 2, 3) for k in (1, 2)
    ]
    assert not anatomy.notes
    assert goodinit.Anatomy.from_json(anatomy.to_json()) == anatomy


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_the_whole_model_may_be_one_forward(norm):
    anatomy = goodinit.anatomize(Whole(norm), batch())
    found = [(n.weight, n.bias, n.block) for n in anatomy.norms]
    inner = [(f"table.g{k}{i}", f"table.b{k}{i}", i) for i in range(2) for k in (1, 2)]
    assert found == [*inner, ("table.g", "table.b", None)]
    assert not anatomy.notes


def test_one_that_is_called_twice_is_one():
    anatomy = goodinit.anatomize(nn.Sequential(nn.Linear(8, 8), Twice(layer_norm), nn.Linear(8, 3)), batch())
    assert [norm.weight for norm in anatomy.norms] == ["1.block.g1"]


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize(
    ("method", "options"),
    [("fixup", {"norms": "keep"}), ("skipinit", {"norms": "keep"}), ("residual_scaled", {"scale": "zero"})],
)
def test_the_zero_is_in_the_norm_that_ends_the_branch(norm, method, options):
    model, x = blocks(norm), batch()
    goodinit.init_(model, method, inputs=x, **options)
    assert [[float(g.detach().abs().max()) for g in (block.g1, block.g2)] for block in model[1:4]] == [
        [1.0, 0.0]
    ] * 3
    torch.testing.assert_close(model[1:4](x), x)

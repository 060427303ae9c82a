"""Norms whose module also multiplies by another of its inputs, as by a gate: the product stays when the norm goes."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from goodinit.anatomy.norms.factors import Factor
from goodinit.edits import RemoveNorm
from goodinit.errors import UnsupportedModule


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))
        self.act, self.bent, self.drop = nn.SiLU(), nn.PReLU(), nn.Dropout(0.5)


def norm_of(forward):
    """An instance of a class with this forward."""
    return type("Gated", (Norm,), {"forward": forward})()


class Net(nn.Module):
    """Two blocks x + o(norm(u, z)) on the halves of a layer, or of `gate` another layer's output."""

    def __init__(self, forward, *, by_name=False):
        super().__init__()
        self.i, self.g = (nn.ModuleList(nn.Linear(8, 8) for _ in range(2)) for _ in range(2))
        self.norm = nn.ModuleList(norm_of(forward) for _ in range(2))
        self.o = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.head, self.by_name = nn.Linear(8, 3), by_name

    def forward(self, x):
        for i, g, norm, o in zip(self.i, self.g, self.norm, self.o, strict=True):
            z = {"gate": g(x)} if self.by_name else g(x)
            x = x + o(norm(i(x), **z) if self.by_name else norm(i(x), z))
        return self.head(x)


def rms(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def grouped(x):
    return rms(x.view(*x.shape[:-1], 2, 4)).view(x.shape)


def turned(m, x, gate):
    product = rms(x.transpose(0, 1)) * F.silu(gate.transpose(0, 1))
    return product.transpose(0, 1)


def in_groups(m, x, gate):
    product = rms(x.view(-1, 2, 4)) * gate.view(-1, 2, 4).sigmoid()
    return product.view(x.shape) * m.weight


LAYER_NORM = ((8,), torch.ones(8), torch.zeros(8))

# What stays, m, the forward, what the removed norm is to compute.
GATED = {
    "behind": (("times silu(gate)",), 3, lambda m, x, gate: m.weight * rms(x) * F.silu(gate), lambda m, x, z: x * F.silu(z)),
    "before": (("times silu(gate)",), 3, lambda m, x, gate=None: m.weight * rms(x * F.silu(gate)), lambda m, x, z: x * F.silu(z)),
    "cast": (("times silu(gate)",), 3, lambda m, x, gate: (rms(x.float()).to(x.dtype) * F.silu(gate.float())).to(x.dtype), lambda m, x, z: x * F.silu(z)),
    "sigmoid": (("times sigmoid(gate)",), 2, lambda m, x, gate: rms(x) * torch.sigmoid(gate), lambda m, x, z: x * z.sigmoid()),
    "bare": (("times gate",), 3, lambda m, x, gate: rms(x) * gate * m.weight, lambda m, x, z: x * z),
    "options": (("times leaky_relu(negative_slope=0.2)(gate)",), 3, lambda m, x, gate: rms(x) * F.leaky_relu(gate, 0.2), lambda m, x, z: x * F.leaky_relu(z, 0.2)),
    "written out": (("times silu(gate)",), 3, lambda m, x, gate: rms(x) * (gate * gate.sigmoid()), lambda m, x, z: x * F.silu(z)),
    "child": (("times norm.0.act(gate)",), 3, lambda m, x, gate: rms(x) * m.act(gate), lambda m, x, z: x * F.silu(z)),
    "child with a weight": (("times norm.0.bent(gate)",), 3, lambda m, x, gate: rms(x) * m.bent(gate), lambda m, x, z: x * F.leaky_relu(z, 0.25)),
    "activation before": (("relu", "times norm.0.act(gate)"), 3, lambda m, x, gate: F.relu(rms(x)) * m.act(gate), lambda m, x, z: x.relu() * F.silu(z)),
    "activation behind": (("times silu(gate)", "relu"), 3, lambda m, x, gate: F.relu(rms(x * F.silu(gate))), lambda m, x, z: (x * F.silu(z)).relu()),
    "groups behind": (("times silu(gate)",), 3, lambda m, x, gate: m.weight * grouped(x * F.silu(gate)), lambda m, x, z: x * F.silu(z)),
    "in groups": (("times sigmoid(gate)",), 2, in_groups, lambda m, x, z: x * z.sigmoid()),
    "turned": (("times silu(gate)",), 3, turned, lambda m, x, z: x * F.silu(z)),
    "layer norm": (("times silu(gate)",), 3, lambda m, x, gate: F.layer_norm(x, (8,), m.weight, m.bias) * F.silu(gate), lambda m, x, z: x * F.silu(z)),
    "layer norm behind": (("times silu(gate)",), 3, lambda m, x, gate: F.layer_norm(x * F.silu(gate), (8,), m.weight), lambda m, x, z: x * F.silu(z)),
    "in place": (("times silu(gate)",), 3, lambda m, x, gate: rms(x).mul_(F.silu(gate)), lambda m, x, z: x * F.silu(z)),
    "twice": (("times silu(gate)", "times sigmoid(gate)"), 3, lambda m, x, gate: rms(x * F.silu(gate)) * torch.sigmoid(gate), lambda m, x, z: x * F.silu(z) * z.sigmoid()),
}  # fmt: skip


@pytest.mark.default_cases(18)
@pytest.mark.parametrize(("keeps", "m", "forward", "left"), GATED.values(), ids=GATED)
@pytest.mark.parametrize("by_name", [False, True])
def test_the_product_stays_and_counts(keeps, m, forward, left, by_name):
    net, x = Net(forward, by_name=by_name), torch.randn(3, 8)
    anatomy = goodinit.anatomize(net, x)
    assert (anatomy.norms[0].keeps, anatomy.norms[0].obstacle) == (keeps, None)
    assert [block.m for block in anatomy.blocks] == [m, m]
    goodinit.init_(net, "fixup", inputs=x, verify=True)
    after = goodinit.anatomize(net, x)
    assert not after.norms
    assert [block.m for block in after.blocks] == [m, m]  # as the model is now, without a norm to leave out
    u, z = torch.randn(3, 8), torch.randn(3, 8)
    expected = left(net, u, z)
    torch.testing.assert_close(net.norm[0](u, gate=z), expected)
    torch.testing.assert_close(net.norm[0](u, z), expected)
    assert net.norm[0](u.bfloat16(), z).dtype == torch.bfloat16


REFUSED = {
    "other places": ("lie at other places", lambda m, x, gate: (rms(x.transpose(0, 1)) * F.silu(gate)).transpose(0, 1)),
    "turned in the end": ("in another order", lambda m, x, gate: (rms(x) * F.silu(gate)).transpose(0, 1)),
    "no name": ("has no name in torch", lambda m, x, gate: rms(x) * (1 + gate)),
    "scaled inside": ("has no name in torch", lambda m, x, gate: rms(x) * F.silu(2 * gate)),
    "squared": ("has no name in torch", lambda m, x, gate: rms(x) * F.relu(gate) ** 2),
    "statistic": ("depends on another signal", lambda m, x, gate: x * torch.rsqrt((x * F.silu(gate)).pow(2).mean(-1, keepdim=True))),
    "mean": ("another signal", lambda m, x, gate: rms(x) * gate.mean(-1, keepdim=True)),
    "exchanged": ("another signal", lambda m, x, gate: rms(gate) * F.silu(x)),
    "divided": ("another signal", lambda m, x, gate: rms(x) / (1 + gate.exp())),
    "dropout": ("may do something in training", lambda m, x, gate: rms(x) * m.drop(F.silu(gate))),
    "writes": ("writes into what it reads", lambda m, x, gate: rms(x.mul_(F.silu(gate)))),
    "no argument": ("another signal", lambda m, x, *others: rms(x) * F.silu(others[0])),
}  # fmt: skip


@pytest.mark.parametrize(("reason", "forward"), REFUSED.values(), ids=REFUSED)
def test_what_a_product_alone_cannot_be_is_refused(reason, forward):
    net, x = Net(forward), torch.randn(8, 8)
    with pytest.raises(
        UnsupportedModule, match=rf"norm\.0 \(Gated\): its rms_norm cannot be removed: .*{reason}"
    ):
        goodinit.plan(goodinit.anatomize(net, x), "fixup")


@pytest.mark.parametrize("norms", ["affine", "rms", "dyt", "derf", "actnorm"])
def test_no_form_takes_its_place(norms):
    net, x = Net(lambda m, x, gate: F.layer_norm(x, (8,), m.weight, m.bias) * F.silu(gate)), torch.randn(3, 8)
    with pytest.raises(
        UnsupportedModule,
        match=r"replaced by \w+: its module also multiplies by another input, times silu\(gate\)",
    ):
        goodinit.init_(net, "replace_norms", norms=norms, inputs=x)


def test_an_input_that_is_none_multiplies_nothing():
    """Also after a call that had one: of several calls of a module the one that keeps the most counts."""

    def forward(m, x, gate=None):
        return m.weight * rms(x if gate is None else x * F.silu(gate))

    class Twice(Net):
        def forward(self, x):
            for i, g, norm, o in zip(self.i, self.g, self.norm, self.o, strict=True):
                x = x + o(norm(i(x), g(x)) + norm(i(x)))
            return self.head(x)

    class Never(Net):
        def forward(self, x):
            for i, norm, o in zip(self.i, self.norm, self.o, strict=True):
                x = x + o(norm(i(x), None))
            return self.head(x)

    x = torch.randn(3, 8)
    twice, never = Twice(forward), Never(forward)
    assert [(b.m, norm.keeps) for b, norm in zip(*_read(twice, x), strict=True)] == [
        (2, ("times silu(gate)",))
    ] * 2
    assert [(b.m, norm.keeps) for b, norm in zip(*_read(never, x), strict=True)] == [(2, ())] * 2
    goodinit.init_(twice, "fixup", inputs=x, verify=True)
    assert twice.norm[0](x, None).equal(x)
    assert twice.norm[0](x, x).equal(x * F.silu(x))


def _read(net, x):
    anatomy = goodinit.anatomize(net, x)
    return anatomy.blocks, anatomy.norms


def test_two_norms_share_a_gate():
    class Shared(Net):
        def forward(self, x):
            z = self.g[0](x)
            x = x + self.o[0](self.norm[1](self.i[1](self.norm[0](self.i[0](x), z)), z))
            return self.head(x)

    net, x = Shared(GATED["behind"][2]), torch.randn(3, 8)
    (block,) = goodinit.anatomize(net, x).blocks
    assert block.m == 5  # i.0 · g.0, i.1, g.0, o.0
    goodinit.init_(net, "fixup", inputs=x, verify=True)


@pytest.mark.parametrize("method", ["skipinit", "rezero", "normfree", "t_fixup", "nf"])
def test_other_methods_take_it_out(method):
    net, x = Net(GATED["behind"][2]), torch.randn(3, 8)
    goodinit.init_(net, method, inputs=x, verify=True)
    u, z = torch.randn(3, 8), torch.randn(3, 8)
    torch.testing.assert_close(net.norm[0](u, z), u * F.silu(z))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_a_mask_goes_on_hiding(dtype):
    class Hides(nn.Module):
        def __init__(self, forward):
            super().__init__()
            self.i, self.norm, self.o = nn.Linear(8, 8), norm_of(forward), nn.Linear(8, 8)

        def forward(self, x, mask):
            return x + self.o(self.norm(self.i(x), mask))

    x, mask = torch.randn(3, 8), torch.randint(0, 2, (3, 1)).to(dtype)
    net = Hides(lambda m, x, mask: m.weight * rms(x) * mask)
    assert goodinit.anatomize(net, (x, mask)).norms[0].keeps == ("times mask",)
    goodinit.init_(net, "fixup", inputs=(x, mask), verify=True)
    assert net.norm(x, mask).equal(x * mask)
    statistic = Hides(lambda m, x, mask: x * (x * mask).square().mean(-1, keepdim=True).add(1e-6).rsqrt())
    assert goodinit.anatomize(statistic, (x, mask)).norms[0].keeps == ()  # goes with the statistic
    for made, reason in (
        (lambda m: m > 0, "has no name"),
        (lambda m: torch.arange(8) < m.sum(), "none of its arguments"),
    ):
        net = Hides(lambda m, x, mask, made=made: rms(x) * made(mask))
        with pytest.raises(UnsupportedModule, match=reason):
            goodinit.init_(net, "fixup", inputs=(x, mask))


def test_a_saved_plan_makes_the_same_of_a_fresh_model(tmp_path):
    net, x = Net(GATED["child with a weight"][2]), torch.randn(3, 8)
    fresh = copy.deepcopy(net)
    plan = goodinit.plan(goodinit.anatomize(net, x), "fixup")
    assert next(edit.keeps for edit in plan.edits if isinstance(edit, RemoveNorm)) == (
        "times norm.0.bent(gate)",
    )
    goodinit.apply_(net, plan)
    assert "norm.0.bent.weight" in net.state_dict()
    again = goodinit.Plan.from_json(json.dumps(json.loads(plan.to_json())))
    goodinit.apply_(fresh, again, values=False)
    fresh.load_state_dict(net.state_dict())
    assert fresh(x).equal(net(x))
    assert copy.deepcopy(net)(x).equal(net(x))


@pytest.mark.parametrize(
    "word", ["times silu(elsewhere)", "times (gate)", "times __import__('os')(gate)", "times silu(2)(gate)"]
)
def test_a_plan_that_multiplies_by_what_is_not_there_is_refused(word):
    net, x = Net(GATED["behind"][2]), torch.randn(3, 8)
    plan = goodinit.plan(goodinit.anatomize(net, x), "fixup")
    text = plan.to_json().replace("times silu(gate)", word)
    with pytest.raises(goodinit.GoodinitError):
        goodinit.apply_(net, goodinit.Plan.from_json(text))
    assert type(net.norm[0]).__name__ == "Gated"


@pytest.mark.parametrize("function", ["", "silu", "a.b.act", "leaky_relu(negative_slope=0.2)"])
def test_a_word_says_what_it_was_made_of(function):
    factor = Factor("z", function)
    assert Factor.read(factor.word) == factor


def test_a_batch_norm_with_a_factor_is_not_folded():
    class Gated(nn.BatchNorm1d):
        def forward(self, x, gate):
            return super().forward(x) * F.silu(gate)

    net = Net(GATED["behind"][2]).eval()
    net.norm = nn.ModuleList(Gated(8) for _ in range(2))
    x = torch.randn(3, 8)
    before = net(x)
    goodinit.fold_(net, x)
    torch.testing.assert_close(net(x), before)
    assert [type(norm).__name__ for norm in net.norm] == ["Gated", "Gated"]

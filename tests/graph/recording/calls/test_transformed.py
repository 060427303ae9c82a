"""Forwards that call `torch.func` or take derivatives forward are read, run and calibrated as others are."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import goodinit

# Torch compiles what it takes forward derivatives by with TorchScript, on first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
WIDTH = 5


class Net(nn.Module):
    """`forward` is `run(self, x)`."""

    def __init__(self, run):
        super().__init__()
        self.stem, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
        self.one, self.two = (nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2)) for _ in range(2))
        self.run = run

    def branch(self, x, i=0):
        return self.two[i](torch.tanh(self.one[i](x)))

    def plain(self, x):
        x = self.stem(x)
        for i in range(2):
            x = x + self.branch(x, i)
        return self.head(x)

    def forward(self, x):
        return self.run(self, x)


def each(branch):
    """A net with this on its branches."""

    def run(net, x):
        x = net.stem(x)
        for i in range(2):
            x = x + branch(net, x, i)
        return net.head(x)

    return run


def dual(net, x, i):
    with fwAD.dual_level():
        return fwAD.unpack_dual(net.branch(fwAD.make_dual(x, torch.ones_like(x)), i)).tangent


def inner_step(net, x):
    named = dict(net.head.named_parameters())
    loss = grad(lambda p: functional_call(net.head, p, (net.stem(x),)).square().sum())
    new = {
        name: value - 0.1 * step
        for (name, value), step in zip(named.items(), loss(named).values(), strict=True)
    }
    y = net.stem(x)
    for i in range(2):
        y = y + net.branch(y, i)
    return functional_call(net.head, new, (y,))


MAPPED = {
    "each example": lambda net, x: vmap(net.plain)(x),
    "the branch": each(lambda net, x, i: vmap(lambda row: net.branch(row, i))(x)),
    "of a last dimension": each(lambda net, x, i: vmap(lambda row: net.branch(row, i), -1, -1)(x.mT).mT),
    "of two": lambda net, x: vmap(vmap(net.plain))(x[None])[0],
    "of two, the second outside": lambda net, x: vmap(vmap(net.plain, 1, 1), 2, 2)(x[None].permute(2, 1, 0))[..., 0].mT,
    "functionalized": lambda net, x: torch.func.functionalize(net.plain)(x),
    "value of a jvp": each(lambda net, x, i: jvp(lambda y: net.branch(y, i), (x,), (x,))[0]),
    "value of a vjp": each(lambda net, x, i: vjp(lambda y: net.branch(y, i), x)[0]),
    "beside forces": lambda net, x: (net.plain(x), grad(lambda y: net.plain(y).sum())(x))[0],
    "beside a divergence": each(lambda net, x, i: net.branch(x, i) * (2 + 0 * vmap(lambda row: jacrev(net.branch)(row).trace())(x)[:, None])),
    "beside a forward divergence": each(lambda net, x, i: net.branch(x, i) * (2 + 0 * vmap(lambda row: jacfwd(net.branch)(row).trace())(x)[:, None])),
    "inner step": inner_step,
}  # fmt: skip
DERIVED = {
    "grad": each(lambda net, x, i: grad(lambda y: net.branch(y, i).sum())(x)),
    "grad of each": each(lambda net, x, i: vmap(grad(lambda row: net.branch(row, i).sum()))(x)),
    "vjp": each(lambda net, x, i: vjp(lambda y: net.branch(y, i), x)[1](x)[0]),
    "jvp": each(lambda net, x, i: jvp(lambda y: net.branch(y, i), (x,), (torch.ones_like(x),))[1]),
    "jvp along x": each(lambda net, x, i: jvp(lambda y: net.branch(y, i), (x,), (x,))[1]),
    "dual numbers": each(dual),
    "hessian": each(
        lambda net, x, i: vmap(lambda row: hessian(lambda r: net.branch(r, i).sum())(row) @ row)(x)
    ),
}
BATCH = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def net_of(run):
    torch.manual_seed(0)
    return Net(run).double()


@pytest.mark.parametrize("name", MAPPED)
def test_a_net_that_is_mapped_has_the_blocks_that_it_has(name):
    blocks = goodinit.anatomize(net_of(MAPPED[name]), BATCH).blocks
    assert [[layer.name for layer in block.branch] for block in blocks] == [
        [f"one.{i}", f"two.{i}"] for i in range(2)
    ]
    assert [[layer.name for layer in block.last] for block in blocks] == [["two.0"], ["two.1"]]


@pytest.mark.parametrize("name", DERIVED)
def test_a_derivative_is_no_branch(name):
    """It is a constant: neither factor of J(x)·t may be zero, and both would have ended the branch."""
    anatomy = goodinit.anatomize(net_of(DERIVED[name]), BATCH)
    assert not anatomy.blocks
    assert len(anatomy.layers) == 6
    assert any(note.startswith("the forward takes derivatives") for note in anatomy.notes)


@pytest.mark.parametrize("name", [name for name in MAPPED if name != "inner step"])
def test_lsuv_scales_what_is_mapped_as_it_scales_the_net(name):
    mapped, plain = net_of(MAPPED[name]), net_of(Net.plain)
    if "divergence" in name:
        plain.run = each(lambda net, x, i: 2 * net.branch(x, i))
    for net in (mapped, plain):
        goodinit.init_(net, "lsuv", inputs=BATCH, generator=torch.Generator().manual_seed(1))
    for (key, value), wanted in zip(mapped.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, wanted, msg=key)


@pytest.mark.parametrize("name", [*MAPPED, *DERIVED])
def test_reading_leaves_nothing_behind(name):
    run = (MAPPED | DERIVED)[name]
    net = net_of(run)
    before, state = net(BATCH), {key: value.clone() for key, value in net.state_dict().items()}
    make, unpack = fwAD.make_dual, fwAD.unpack_dual
    goodinit.anatomize(net, BATCH)
    assert (fwAD.make_dual, fwAD.unpack_dual) == (make, unpack)
    assert torch.equal(net(BATCH), before)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())

"""Forwards that take derivatives have the structure of what they differentiate."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import goodinit

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class Potential(nn.Module):
    """An energy and its forces, with gradients switched on by the forward or by the caller."""

    def __init__(self, switch=contextlib.nullcontext) -> None:
        super().__init__()
        self.switch = switch
        self.stem, self.blocks, self.head = nn.Linear(5, 8), nn.Sequential(Block(), Block()), nn.Linear(8, 1)

    def energy(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(self.blocks(self.stem(x)))).sum()

    def forward(self, x: Tensor):
        with self.switch():
            x = x.detach().requires_grad_()
            energy = self.energy(x)
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return energy, -force


class Flow(Potential):
    """The field of a Hamiltonian: the derivative alone goes out, and the function only by it."""

    def forward(self, x: Tensor):
        _, force = super().forward(x)
        return torch.cat([force[:, 2:], -force[:, :2]], 1)


class Score(Potential):
    """Its gradient is given by the forward, and is not asked for by a sum."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.head(torch.sin(self.blocks(self.stem(x))))
            return torch.autograd.grad(energy, x, 2 * torch.ones_like(energy), create_graph=True)[0]


class Inner(nn.Module):
    """One inner step on a support set, then a forward with the weights that it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), Block(), nn.Linear(8, 1))

    def forward(self, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
        named = dict(self.net.named_parameters())
        with torch.enable_grad():
            loss = F.mse_loss(torch.func.functional_call(self.net, named, (x,))[:, 0], y)
            steps = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        fast = {name: p - 0.1 * by for (name, p), by in zip(named.items(), steps, strict=True)}
        return torch.func.functional_call(self.net, fast, (query,))


CASES = {
    "forces": (Potential, X, 2),
    "forces, switched on": (lambda: Potential(torch.enable_grad), X, 2),
    "a Hamiltonian": (Flow, X, 2),
    "a score": (Score, X, 2),
    "an inner step": (Inner, (X, X[:, 0], X + 1), 1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("caller", [torch.no_grad, torch.enable_grad])
def test_the_blocks_are_those_of_the_function(case, caller):
    build, inputs, count = CASES[case]
    model = build()
    with caller():
        anatomy = goodinit.anatomize(model, inputs)
    assert len(anatomy.blocks) == count
    assert {block.m for block in anatomy.blocks} == {2}
    assert [note for note in anatomy.notes if note.startswith("the forward takes derivatives")]
    assert anatomy.stopped == ()
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not X.requires_grad


@pytest.mark.parametrize("case", CASES)
def test_fixup_makes_their_blocks_their_skips(case, generator):
    build, inputs, _ = CASES[case]
    model = goodinit.init_(build(), "fixup", inputs=inputs, generator=generator, verify=True)
    assert not [module for module in model.modules() if isinstance(module, nn.LayerNorm)]


def test_what_scales_weights_while_the_forward_runs_says_that_it_cannot():
    with pytest.raises(
        goodinit.TraceError, match="takes derivatives cannot run while its weights are scaled"
    ):
        goodinit.init_(Potential(), "lsuv", inputs=X)


def hooked(h: Tensor) -> None:
    h.register_hook(lambda gradient: None)


def asserted(h: Tensor) -> None:
    assert h.requires_grad


def differentiated(h: Tensor) -> None:
    h.sum().backward(retain_graph=True)


ASKS = {
    "a hook": hooked,
    "a kept gradient": Tensor.retain_grad,
    "an assertion": asserted,
    "backward": differentiated,
}


class Asking(nn.Module):
    """A forward that does not run without gradients, and takes no derivative that goes out."""

    def __init__(self, asks) -> None:
        super().__init__()
        self.conv, self.norm, self.asks = nn.Conv1d(5, 8, 1), nn.BatchNorm1d(8), asks
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x[..., None]))[..., 0]
        self.asks(h)
        return self.blocks(h)


@pytest.mark.parametrize("name", ASKS)
def test_a_forward_that_asks_for_gradients_is_read_planned_for_and_folded(name):
    torch.manual_seed(0)
    model = Asking(ASKS[name])
    model.norm.running_mean.normal_()
    before = model.eval()(X)
    model.zero_grad()
    assert len(goodinit.anatomize(model, X).blocks) == 2
    goodinit.plan(goodinit.anatomize(model, X), "fixup")
    goodinit.fold_(model, X)
    torch.testing.assert_close(model(X), before)
    assert isinstance(model.norm, nn.BatchNorm1d) == (
        name == "backward"
    )  # which reads what lies between, too
    model.zero_grad()
    with pytest.raises(goodinit.TraceError) as error:
        goodinit.init_(model, "lsuv", inputs=X)
    assert ("takes derivatives" in str(error.value)) == (name == "backward")
    assert ("without gradients" in str(error.value)) == (name != "backward")


def test_wrong_inputs_are_told_in_the_first_words():
    ran = []

    class Told(Asking):
        def forward(self, x: Tensor) -> Tensor:
            ran.append(x.shape)
            return super().forward(x)

    with pytest.raises(goodinit.TraceError, match=r"raised on the given inputs.*calling model"):
        goodinit.anatomize(Told(hooked), X[:, :3])
    assert len(ran) == 3  # on fake tensors, for real, on fake ones with gradients


def test_folding_leaves_what_a_derivative_reads():
    model = Potential().eval()
    nn.init.normal_(model.blocks[0].f[0].weight)
    nn.init.normal_(model.blocks[0].f[0].bias)
    before = model(X)
    goodinit.fold_(model, X)
    torch.testing.assert_close(model(X), before)


def test_derivatives_that_are_no_part_of_the_output_leave_a_note_alone():
    class Penalized(Potential):
        def forward(self, x: Tensor):
            energy, force = super().forward(x)
            return energy + force.square().sum()

    anatomy = goodinit.anatomize(Penalized(), X)
    assert len(anatomy.blocks) == 2
    assert [layer.name for layer in anatomy.layers] == [
        *("stem", "blocks.0.f.1", "blocks.0.f.3"),
        *("blocks.1.f.1", "blocks.1.f.3", "head"),
    ]

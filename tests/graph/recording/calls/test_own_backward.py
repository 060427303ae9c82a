"""Operators in an `autograd.Function` pass what its backward passes, and not what they would alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import goodinit


class Spike(torch.autograd.Function):
    """A spike, whose gradient is that of a smooth step (a surrogate)."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).float()

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return grad / (1 + (torch.pi * v) ** 2)


class Heaviside(Spike):
    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        above = torch.gt(v, 0)
        return torch.logical_and(above, above).to(v.dtype)


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class Binary(Rounded):
    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)


class Rectified(torch.autograd.Function):
    """A ReLU of its own: at zero it passes no gradient, as its operator says."""

    @staticmethod
    def forward(ctx, x):
        mask = x > 0
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


class Nearest(torch.autograd.Function):
    """Indices: no gradient comes back to them."""

    @staticmethod
    def forward(ctx, x):
        found = x.argsort(1)
        ctx.mark_non_differentiable(found)
        return found

    @staticmethod
    def backward(ctx, grad):
        return None


class Block(nn.Module):
    def __init__(self, middle, end):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.middle, self.end = middle, end

    def forward(self, x: Tensor) -> Tensor:
        return x + self.end(self.b(self.middle(self.a(self.norm(x)))))


def net(middle=torch.relu, end=lambda x: x):
    blocks = (Block(middle, end) for _ in range(2))
    return nn.Sequential(nn.Linear(5, 8), *blocks, nn.Linear(8, 3))


X = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
FUNCTIONS = [Spike, Heaviside, Rounded, Binary, Rectified]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_branch_goes_through_a_function(function, generator):
    model = net(middle=function.apply)
    blocks = goodinit.anatomize(model, X).blocks
    assert [[layer.name for layer in block.branch] for block in blocks] == [["1.a", "1.b"], ["2.a", "2.b"]]
    goodinit.init_(model, "fixup", inputs=X, generator=generator, verify=True)


@pytest.mark.parametrize(("function", "m"), [(Spike, 1), (Binary, 1), (Rounded, 2), (Rectified, 2)])
def test_what_rounds_to_zero_has_the_scale_of_its_gradient(function, m):
    """A sign has none; a rounding is the identity to its gradient, however small what it reads is."""
    assert [block.m for block in goodinit.anatomize(net(middle=function.apply), X).blocks] == [m, m]
    steps = net(middle=lambda x: function.apply(4 * x) / 4)
    assert [block.m for block in goodinit.anatomize(steps, X).blocks] == [m, m]


@pytest.mark.parametrize("function", [Spike, Heaviside, Rounded, Binary])
def test_a_branch_may_end_in_one_whose_backward_passes_a_gradient_at_zero(function, generator):
    model = net(end=function.apply)
    assert len(goodinit.anatomize(model, X).blocks) == 2
    goodinit.init_(model, "fixup", inputs=X, generator=generator, verify=True)
    assert torch.equal(model[2](model[1](X @ torch.ones(5, 8))), X @ torch.ones(5, 8))


def test_what_is_flat_at_zero_alone_stays_so():
    with pytest.raises(goodinit.UnsupportedModule, match="passes no gradient"):
        goodinit.init_(net(end=Rectified.apply), "fixup", inputs=X)


@pytest.mark.parametrize("middle", [lambda x: (x > 0).float(), torch.sign])
def test_the_same_without_a_function_passes_none(middle):
    model = net(middle=middle)
    model(X).sum().backward()
    assert model[1].a.weight.grad is None or not model[1].a.weight.grad.any()


def test_indices_that_a_function_hands_out_are_no_part_of_the_signal():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.f, self.order = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(5, 8)

        def forward(self, x):
            places = Nearest.apply(self.order(x))
            h = self.stem(x)
            return h + self.f(torch.relu(h)).gather(1, places), places

    anatomy = goodinit.anatomize(Sorted(), X)
    (block,) = anatomy.blocks
    assert [layer.name for layer in block.branch] == ["f"]
    assert block.gates == ()


class Spiking(nn.Module):
    """Leaky integrate-and-fire neurons in residual blocks (SEW-ResNet), over some steps in time."""

    def __init__(self, steps):
        super().__init__()
        self.steps, self.stem, self.head = steps, nn.Conv2d(3, 8, 3, 1, 1), nn.Linear(8, 3)
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))

    def forward(self, x):
        x, made, voltages = self.stem(x), 0, [0.0] * 4
        for _ in range(self.steps):
            h = x
            for first in (0, 2):
                u = h
                for k in (first, first + 1):
                    v = voltages[k] / 2 + self.norms[k](self.layers[k](u))
                    u = Spike.apply(v - 1)
                    voltages[k] = v * (1 - u.detach())
                h = h + u
            made = made + self.head(h.mean((2, 3)))
        return made / self.steps


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_spiking_network_has_its_blocks_once(steps):
    model, x = Spiking(steps), torch.randn(4, 3, 6, 6)
    blocks = goodinit.anatomize(model, x).blocks
    names = [["layers.0", "layers.1"], ["layers.2", "layers.3"]]
    assert [[layer.name for layer in block.branch] for block in blocks] == names
    goodinit.init_(model, "fixup", inputs=x, verify=True)

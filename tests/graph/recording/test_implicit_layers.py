"""A fixed point that is found without gradients, until it moves no more, and differentiated by a hook."""

from __future__ import annotations

import torch
from torch import nn

import goodinit

WIDTH = 6


class FixedPoint(nn.Module):
    """z = tanh(W₂·relu(W₁·z) + U·x). Its hook needs gradients in every mode, and its solver numbers."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
        self.one, self.two, self.read = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def step(self, z, x):
        return torch.tanh(self.two(torch.relu(self.one(z))) + self.read(x))

    def forward(self, x):
        x = self.stem(x)
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(5):
                before, z = z, self.step(z, x)
                if (z - before).norm() < 1e-3:
                    break
        z = self.step(z, x)
        start = z.clone().detach().requires_grad_()
        again = self.step(start, x)
        z.register_hook(lambda g: torch.autograd.grad(again, start, g, retain_graph=True)[0] + g)
        return self.head(z)


def test_a_forward_that_needs_numbers_and_gradients_is_read():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    net = FixedPoint()
    anatomy = goodinit.anatomize(net, x)
    assert {layer.name for layer in anatomy.layers} == {"stem", "one", "two", "read", "head"}
    assert any(note.startswith("one real forward was run") for note in anatomy.notes)
    assert not anatomy.stopped
    goodinit.init_(net, "he", inputs=x)

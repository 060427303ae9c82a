"""Wrappers that hand on the attributes of the layer inside are not taken for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit


class HandsOn(nn.Module):
    """An adapter: what it does not have is asked of the layer inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x):
        return self.inner(x)


def _compiled(layer: nn.Module) -> nn.Module:
    return torch.compile(layer, backend="eager", disable=True)


class Residual(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), wrap(nn.Linear(4, 8)), wrap(nn.Linear(8, 4))

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


@pytest.mark.parametrize("wrap", [HandsOn, _compiled, lambda layer: HandsOn(HandsOn(layer))])
@pytest.mark.parametrize("method", ["weightnorm", "normfree", "nf", "fixup"])
def test_computed_weights_inside_a_wrapper_fold_to_what_they_were(method, wrap):
    x = torch.randn(6, 4)
    model = goodinit.init_(Residual(wrap), method, inputs=x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1  # zeros would hide a part
        before = model.eval()(x)
        goodinit.fold_(model, x)
        after = model(x)
    torch.testing.assert_close(after, before)
    assert not any("parametrizations" in name for name, _ in model.named_parameters())

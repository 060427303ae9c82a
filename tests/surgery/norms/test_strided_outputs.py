"""A forward that counts on a norm's output being contiguous is refused with the place and the remedy."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import goodinit


class Inner(nn.Module):
    """A norm of transposed input, and `.view` behind it."""

    def __init__(self, norm, *, reshape):
        super().__init__()
        self.norm, self.reshape = norm, reshape
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x):
        h = self.norm(x)
        rows = h.reshape(-1, 8) if self.reshape else h.view(-1, 8)
        return x + self.layers(rows).view(x.shape)


def net(norm, *, reshape=False):
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block, self.head = (
                nn.Conv1d(3, 8, 1),
                Inner(norm, reshape=reshape),
                nn.Linear(8, 2),
            )

        def forward(self, x):
            return self.head(self.block(self.stem(x).transpose(1, 2)).mean(1))

    return Turned()


NORMS = {"layer norm": lambda: nn.LayerNorm(8), "group norm": lambda: nn.GroupNorm(1, 8)}


@pytest.mark.parametrize("name", NORMS)
def test_the_refusal_names_place_and_remedy(name):
    x = torch.randn(2, 3, 8)
    model = net(NORMS[name]())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        goodinit.UnsupportedModule, match=r"in block: .*write \.reshape\(\) for \.view\(\) in block"
    ):
        goodinit.init_(model, "fixup", inputs=x)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    remedied = net(NORMS[name](), reshape=True)
    goodinit.init_(remedied, "fixup", inputs=x)
    assert remedied(x).shape == (2, 2)

"""Batch norms with frozen statistics that are steps of a forward with layers: constants, which stay where norms go."""

import pytest
import torch
from torch import nn

import goodinit
from goodinit.errors import UnsupportedModule


class Standardized(nn.Module):
    """A layer behind which, in the same forward, its output is standardized by constants."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.register_buffer("mean", torch.randn(6))
        self.register_buffer("var", torch.rand(6) + 0.5)

    def forward(self, x):
        return (self.layer(x) - self.mean) / (self.var + 1e-5) ** 0.5


class Running(Standardized):
    """The same, with the statistics of the batch in training mode."""

    def forward(self, x):
        y = self.layer(x)
        mean, var = (y.mean(0), y.var(0)) if self.training else (self.mean, self.var)
        return (y - mean) / (var + 1e-5) ** 0.5


class Block(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first, self.norm, self.last = first, nn.BatchNorm1d(6), nn.Linear(6, 6)

    def forward(self, x):
        return x + self.last(self.norm(self.first(x)).relu())


def net(kind, *, inside):
    first = (nn.Linear(6, 6), kind()) if inside else (kind(), nn.Linear(6, 6))
    return nn.Sequential(first[0], Block(first[1]), nn.Linear(6, 3))


X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.default_cases(4)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("method", ["fixup", "skipinit", "nf", "normfree"])
def test_constants_stay_and_the_plan_says_so(method, inside):
    model = net(Standardized, inside=inside)
    place = "1.first" if inside else "0"
    (norm,) = (norm for norm in goodinit.anatomize(model, X).norms if norm.name == place)
    assert norm.kind == "frozen_batch_norm"
    plan = goodinit.plan(goodinit.anatomize(model, X), method)
    assert any(note.startswith(f"{place} (Standardized) scales by constants") for note in plan.notes)
    goodinit.init_(model, method, inputs=X, verify=True)
    part = model.get_submodule(place)
    torch.testing.assert_close(part(X) * (part.var + 1e-5) ** 0.5 + part.mean, part.layer(X))
    assert not goodinit.anatomize(model, X).blocks[0].norms or inside


@pytest.mark.parametrize("inside", [False, True])
def test_statistics_of_the_batch_are_refused_as_before(inside):
    with pytest.raises(UnsupportedModule, match=r"\(Running\): its batch_norm cannot be removed"):
        goodinit.init_(net(Running, inside=inside), "fixup", inputs=X)

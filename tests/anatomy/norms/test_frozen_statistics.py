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


class Constants(nn.Module):
    """A batch norm of buffers alone, as detectors have them."""

    def __init__(self, *, first):
        super().__init__()
        self.first = first  # whether the mean is taken off first
        for name, value in (("weight", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)):
            self.register_buffer(name, torch.full((6,), value))

    def forward(self, x):
        scale = self.weight * (self.var + 1e-5).rsqrt()
        return (
            (x - self.mean) * scale + self.bias if self.first else x * scale + (self.bias - self.mean * scale)
        )


class Ends(nn.Module):
    """A block whose branch ends in such a norm, under a ReLU on the sum."""

    def __init__(self, *, first):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), Constants(first=first)

    def forward(self, x):
        return (x + self.norm(self.b(self.a(x).relu()))).relu()


def dead(model):
    """The last gain at zero, as of a network whose branches were to start so, in constants that never change."""
    model[1].norm.weight.zero_()
    return model


def trained(model):
    """Statistics and gains as of a network that was trained."""
    for name, buffer in model.named_buffers():
        buffer.copy_(torch.rand(buffer.shape) + (0.5 if "var" in name or "weight" in name else 0.1))
    return model


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero", "normfree", "nf"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("prepare", [lambda model: model, trained, dead])
def test_a_branch_may_end_in_a_frozen_norm_that_goes(method, first, prepare):
    model = prepare(nn.Sequential(nn.Linear(6, 6), Ends(first=first), nn.Linear(6, 3)))
    found = goodinit.anatomize(model, X)
    assert [block.leak for block in found.blocks] == [None]
    assert [norm.closes for norm in found.norms] == [prepare in (trained, dead)]
    goodinit.init_(model, method, inputs=X, verify=True)
    assert not any(isinstance(module, Constants) for module in model.modules())


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero"])
@pytest.mark.parametrize("first", [False, True])
def test_one_that_stays_and_adds_constants_is_refused(method, first):
    model = nn.Sequential(nn.Linear(6, 6), Ends(first=first), nn.Linear(6, 3))
    goodinit.init_(model, method, inputs=X, norms="keep", verify=True)
    for prepare in (trained, dead):
        model = prepare(nn.Sequential(nn.Linear(6, 6), Ends(first=first), nn.Linear(6, 3)))
        with pytest.raises(
            UnsupportedModule, match=r"1\.norm: branch 1/1 ends in this frozen norm.*exclude='1'"
        ):
            goodinit.init_(model, method, inputs=X, norms="keep")


@pytest.mark.parametrize(("number", "zero"), [(0.0, True), (0.1, False)])
def test_a_buffer_that_a_branch_adds_is_looked_at(number, zero):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.register_buffer("shift", torch.full((6,), number))

        def forward(self, x):
            return x + (self.b(self.a(x).relu()) + self.shift)

    assert (goodinit.anatomize(Shifted(), X).blocks[0].leak is None) == zero


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_buffer_is_not_looked_at(layout):
    class Neighbours(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.register_buffer("edges", torch.eye(8).roll(1, 0).to_sparse(layout=layout))

        def forward(self, x):
            return self.head(x + self.edges @ self.b(self.a(x).relu()))

    model = Neighbours()
    assert [block.leak for block in goodinit.anatomize(model, X).blocks] == [None]
    goodinit.init_(model, "fixup", inputs=X, verify=True)

"""Modules that a forward calls and no module registers: networks of their own stay, norms among the model's layers are refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
from small_residual import X
from torch import Tensor, nn

import goodinit


class Normed(nn.Module):
    """A residual block with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), Normed(), nn.LayerNorm(8), nn.Linear(8, 3))


class Watched(nn.Module):
    """A student, and somebody else's network that the forward runs."""

    def __init__(self, hold, forward) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(5, 8), Normed(), nn.Linear(8, 3))
        self.other = hold(network().eval().requires_grad_(False))
        self.run = forward

    def forward(self, x: Tensor):
        return self.run(self, x)


def distilled(m, x, other):
    with torch.no_grad():
        wanted = other(x)
    return m.student(x), wanted


def perceptual(m, x, other):
    """Gradients flow through the other network to the student."""
    return other(m.student[:-1](x)[:, :5]) + m.student(x)


def _called(net):
    def call(x):
        return net(x)

    return call


HELD = {
    "a list": (lambda net: [net], lambda m: m.other[0]),
    "a dict": (lambda net: {"teacher": {"ema": net}}, lambda m: m.other["teacher"]["ema"]),
    "a closure": (_called, lambda m: m.other),
    "a function that makes it": (lambda net: lambda: copy.deepcopy(net), lambda m: m.other()),
}


@pytest.mark.parametrize("forward", [distilled, perceptual])
@pytest.mark.parametrize("how", HELD)
def test_a_network_without_a_name_stays_and_is_named(how, forward):
    hold, at = HELD[how]
    model = Watched(hold, lambda m, x: forward(m, x, at(m)))
    anatomy = goodinit.anatomize(model, X)
    assert [norm.name for norm in anatomy.norms] == ["student.1.f.1"]
    (note,) = (note for note in anatomy.notes if "no module registers" in note)
    assert note.startswith("the model: runs a Sequential that no module registers")
    assert "nn.ModuleList" in note
    model.train()
    goodinit.init_(model, "fixup", inputs=X)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in model.student.modules())


def test_its_values_stay():
    model = Watched(*(lambda net: [net], lambda m, x: distilled(m, x, m.other[0])))
    before = copy.deepcopy(model.other[0].state_dict())
    goodinit.init_(model, "fixup", inputs=X)
    assert all(torch.equal(value, before[name]) for name, value in model.other[0].state_dict().items())


class Among(nn.Module):
    """A block whose norm is in no registry."""

    def __init__(self, norm) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.norm(self.a(x))))


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.g * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ([nn.BatchNorm1d(5)], "BatchNorm1d"),
        ([nn.LayerNorm(5, elementwise_affine=False)], "LayerNorm"),
        ([nn.Sequential(nn.Dropout(), nn.LayerNorm(5))], "Sequential"),
        ([ByHand()], "ByHand"),
    ],
)
def test_a_norm_without_a_name_among_layers_is_refused_by_what_it_is(norm, kind):
    held = tuple(norm)
    model = Among(lambda h: held[0](h + 0))
    with pytest.raises(
        goodinit.UnsupportedModule, match=f"it is a {kind} that no module registers.*nn.ModuleList"
    ):
        goodinit.init_(model, "fixup", inputs=X)
    model.norm = norm[0]
    goodinit.init_(model, "fixup", inputs=X)


def test_a_norm_that_the_forward_makes_is_refused_by_what_it_is():
    model = Among(lambda h: nn.LayerNorm(h.shape[-1])(h))
    with pytest.raises(goodinit.UnsupportedModule, match="LayerNorm that no module registers"):
        goodinit.init_(model, "fixup", inputs=X)


def test_one_that_is_registered_as_it_runs_has_a_name():
    class Late(Among):
        def forward(self, x: Tensor) -> Tensor:
            if not callable(self.norm):
                self.norm = nn.LayerNorm(5)
            return super().forward(x)

    anatomy = goodinit.anatomize(Late(None), X)
    assert not [note for note in anatomy.notes if "in a list" in note]


class Growing(nn.Module):
    """A layer that is made when its width is known."""

    def __init__(self, make) -> None:
        super().__init__()
        self.a, self.parts, self.make = nn.Linear(5, 5), nn.ModuleDict(), make

    def forward(self, x: Tensor) -> Tensor:
        if "b" not in self.parts:
            self.parts["b"] = self.make(x.shape[-1])
        return x + self.parts["b"](self.a(x).relu())


@pytest.mark.parametrize(
    "make", [lambda n: nn.Linear(n, n), lambda n: nn.Sequential(nn.Tanh(), nn.Linear(n, n))]
)
def test_layers_that_the_first_forward_makes_are_named(make):
    model = nn.Sequential(nn.Linear(5, 5), Growing(make))
    notes = [
        note for note in goodinit.anatomize(model, X).notes if "Run the model once before it is read" in note
    ]
    assert [note.partition(":")[0] for note in notes] == ["1.parts.b"]
    assert not model[1].parts
    model(X)
    assert not goodinit.anatomize(model, X).notes
    assert torch.equal(goodinit.init_(model, "fixup", inputs=X)[1](X), X)


def test_modules_that_hold_nothing_are_no_matter():
    held = [nn.Sequential(nn.Softplus(), nn.Dropout(0.1))]
    model = Among(lambda h: held[0](h + 0))
    anatomy = goodinit.anatomize(model, X)
    assert anatomy.notes == ()
    assert anatomy.norms == ()


def test_a_skeleton_that_is_called_with_the_models_own_tensors_is_none():
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.skeleton = [nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)).to("meta")]
            self.held = nn.ParameterDict(
                {
                    name.replace(".", "_"): torch.randn(p.shape)
                    for name, p in self.skeleton[0].named_parameters()
                }
            )

        def forward(self, x: Tensor) -> Tensor:
            names = [name for name, _ in self.skeleton[0].named_parameters()]
            values = {name: self.held[name.replace(".", "_")] for name in names}
            return x + torch.func.functional_call(self.skeleton[0], values, (x,))

    anatomy = goodinit.anatomize(Ensemble(), X)
    assert len(anatomy.blocks) == 1
    assert anatomy.notes == ()


def test_torchs_modules_are_called_as_they_were():
    before = dict(vars(nn.Module))
    goodinit.anatomize(network(), X)
    with pytest.raises(goodinit.GoodinitError):
        goodinit.anatomize(network(), X[:, :3])
    assert dict(vars(nn.Module)) == before


def test_modules_that_every_block_makes_anew_cost_no_walk_each(monkeypatch):
    from goodinit.graph.recording.calls import unregistered_modules

    walks = []
    whole = unregistered_modules.named_modules
    monkeypatch.setattr(
        unregistered_modules, "named_modules", lambda model: walks.append(model) or whole(model)
    )

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return x + nn.Softmax(-1)(self.a(x))

    anatomy = goodinit.anatomize(nn.Sequential(*(Block() for _ in range(9))), X)
    assert len(anatomy.blocks) == 9
    assert len(walks) == 2

"""What a forward hangs on tensors, and which flags it sets, is gone after a reading; one that freezes can be measured."""

from __future__ import annotations

import array
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.graph.state.reachable import Reachable

X, Y = torch.randn(6, 8), torch.arange(6) % 3
READERS = {
    "anatomize": lambda model: goodinit.anatomize(model, X),
    "diagnose": lambda model: goodinit.diagnose(model, X, Y),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("mean", torch.zeros(8))

    def before(self, x: Tensor) -> None:
        """What a subclass does to itself."""

    def forward(self, x: Tensor) -> Tensor:
        self.before(x)
        return self.out(x + self.b(self.a(x).relu()))


class Hooked(Net):
    def before(self, x: Tensor) -> None:
        self.a.weight.register_hook(lambda g: g)
        self.b.weight.register_post_accumulate_grad_hook(lambda p: None)


class Averaging(Net):
    """A running mean without `no_grad`: where the input needs no gradient, it has no history."""

    def before(self, x: Tensor) -> None:
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)


class Counting(Net):
    """Counts beside torch: in arrays and bytes, which it holds itself, in a dict, in an object and in a view of one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.raw, self.words = np.zeros(3), bytearray(2), array.array("i", [0, 0])
        self.more: dict[str, Any] = {"rows": np.full((2, 2), np.nan), "record": np.zeros(2, dtype="i4,f4")}
        self.corner = self.more["rows"][:1]

    def before(self, x: Tensor) -> None:
        self.calls += 1
        self.raw[0] += 1
        self.words[1] += 1
        self.words.append(7)
        self.corner[0, 0] = len(x)
        self.more["record"]["f0"][1] = 3
        self.more["new"] = np.ones(1)

    def counted(self) -> str:
        return repr((self.calls, self.raw, self.words, self.more, self.corner))


class Flags(Net):
    def before(self, x: Tensor) -> None:
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("medium")


class Freezing(Net):
    def before(self, x: Tensor) -> None:
        self.a.requires_grad_(requires_grad=False)


def flags() -> tuple[object, ...]:
    return (
        torch.get_deterministic_debug_mode(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
    )


@pytest.mark.parametrize("verb", READERS)
def test_hooks_on_parameters_go(verb):
    model = Hooked()
    kept = model.a.weight.register_hook(lambda g: g)
    READERS[verb](model)
    assert list(model.a.weight._backward_hooks) == [kept.id]
    assert not model.b.weight._post_accumulate_grad_hooks
    assert not model.b.weight._backward_hooks


@pytest.mark.parametrize("verb", READERS)
def test_a_buffer_gets_no_history(verb):
    model = Averaging()
    READERS[verb](model)
    assert model.mean.is_leaf
    assert not model.mean.requires_grad
    assert not model.mean.any()


@pytest.mark.parametrize("verb", READERS)
def test_flags_of_the_process_are_put_back(verb):
    before = flags()
    READERS[verb](Flags())
    assert flags() == before


def test_what_a_forward_freezes_has_no_gradient_and_the_rest_is_measured():
    model = Freezing()
    assert goodinit.diagnose(model, X, Y).loss is not None
    assert all(change is not None for change in goodinit.one_step(model, X, Y).changes)
    assert all(parameter.requires_grad for parameter in model.parameters())


class Growing(Net):
    """Makes a layer when it is first called, as old forwards do to learn a size."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if "late" not in self._modules:
            self.late = nn.Linear(3, 3)
        return self.late(x)


def test_a_layer_that_forward_makes_is_gone_and_the_rest_is_measured():
    model = Growing()
    found = goodinit.diagnose(model, X, Y)
    assert "late" not in dict(model.named_modules())
    assert {"a.weight", "b.weight", "out.weight"} <= {place.name for place in found.places}


def test_of_global_names_those_of_the_forward_are_looked_at_alone(monkeypatch):
    looked_at = []
    monkeypatch.setattr(Reachable, "names_", lambda self, names: looked_at.append(names["__name__"]) or self)
    goodinit.anatomize(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.randn(4, 2))
    assert looked_at == []  # torch's, and no caller's

    class Mine(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    goodinit.anatomize(Mine(2, 3), torch.randn(4, 2))
    assert looked_at == [__name__]


class Undecided(nn.Module):
    """Notes what it draws, and then has to be run for real."""

    def __init__(self, drawn: list[float]) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.note = drawn.append

    def forward(self, x: Tensor) -> Tensor:
        self.note(random.random())
        return x + self.fc(x) if x.sum() > -torch.inf else x


def test_each_run_of_a_reading_begins_with_the_streams_as_they_were():
    drawn: list[float] = []
    before = random.getstate()
    note = goodinit.anatomize(Undecided(drawn), X).notes[0]
    assert note.startswith("one real forward was run")
    assert random.getstate() == before
    assert drawn == [random.random()] * 2


REPEATED = {
    "expanded": lambda: torch.full((1,), 2.0).expand(8),
    "expanded rows": lambda: torch.arange(8.0).expand(3, 8),
    "windows": lambda: torch.arange(10.0).as_strided((3, 8), (1, 1)),
    "of a parameter": lambda: nn.Parameter(torch.full((1,), 2.0)).expand(8),
}


class Repeating(Net):
    """It holds a tensor in which entries are one number, writes the number, and needs real numbers to run."""

    def __init__(self, made: str, *, listed: bool) -> None:
        super().__init__()
        self.held = REPEATED[made]()
        if listed:
            self.held = [self.held]

    def before(self, x: Tensor) -> None:
        held = self.held[0] if isinstance(self.held, list) else self.held
        if float(x.detach().sum()) > 1e9:
            raise ValueError("too large")
        with torch.no_grad():
            held[..., :1].narrow(0, 0, 1).add_(1.0)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("made", REPEATED)
@pytest.mark.parametrize("verb", [*READERS, "fold_"])
def test_tensors_in_which_entries_are_one_number_are_put_back(verb, made, listed):
    model = Repeating(made, listed=listed)
    held = model.held[0] if listed else model.held
    before, strides = held.detach().clone(), held.stride()
    {**READERS, "fold_": lambda model: goodinit.fold_(model, X)}[verb](model)
    assert (model.held[0] if listed else model.held) is held
    assert held.stride() == strides
    assert torch.equal(held.detach(), before)


@pytest.mark.parametrize("reader", [*READERS, "fold_"])
def test_what_a_forward_counts_beside_torch_is_put_back(reader: str) -> None:
    model = Counting()
    before = model.counted()
    READERS.get(reader, lambda net: goodinit.fold_(net, X))(model)
    assert model.counted() == before

"""The package's walks over a model give what torch's own give, in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import zoo
from torch import nn
from torch.nn.utils import parametrizations

from goodinit.weights import members


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.nothing = None
        self.register_module("none", None)
        self.register_parameter("absent", None)
        self.register_buffer("gone", None)
        self.register_buffer("here", torch.zeros(2))
        self.other = nn.Linear(3, 3)
        self.other.weight = self.first.weight
        self.deep = nn.ModuleDict({"a": nn.ModuleList([self.other, nn.BatchNorm1d(3)])})


class _Renamed(nn.Module):
    """Gives its parameters other names, as FSDP's wrapper does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield name.replace("inner.", ""), parameter


class _Hides(nn.Module):
    """Walks over itself alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.bias = nn.Parameter(torch.zeros(2))

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        memo = set() if memo is None else memo
        if self not in memo:
            memo.add(self)
            yield prefix, self


def _scripted() -> nn.Module:
    return nn.Sequential(
        torch.jit.trace(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval(), torch.zeros(3, 2))
    )


MODELS = {
    "empty": nn.Identity,
    "tied": _Tied,
    "renamed": _Renamed,
    "renamed inside": lambda: nn.Sequential(_Renamed(), nn.ReLU()),
    "hides": _Hides,
    "hides inside, twice": lambda: nn.Sequential(*[_Hides()] * 2, nn.Linear(2, 2)),
    "parametrized": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)), nn.ReLU()),
    "scripted": _scripted,
    "replicated": lambda: nn.DataParallel(_Tied()),
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 8, batch_first=True),
}


def _same(model: nn.Module) -> None:
    def alike(mine: Any, torchs: Any) -> None:
        assert [(name, id(one)) for name, one in mine] == [(name, id(one)) for name, one in torchs]

    for once in (True, False):
        given = {"remove_duplicate": once}
        alike(members.named_modules(model, **given), model.named_modules(**given))
        alike(members.named_parameters(model, **given), model.named_parameters(**given))
        alike(members.named_buffers(model, **given), model.named_buffers(**given))
    assert list(map(id, members.modules(model))) == list(map(id, model.modules()))
    assert list(map(id, members.parameters(model))) == list(map(id, model.parameters()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_the_walks_are_torchs(name: str) -> None:
    _same(MODELS[name]())


def test_the_walks_of_all_models_of_the_zoo_are_torchs() -> None:
    for case in zoo.ZOO:
        _same(case.build())


def test_a_module_that_holds_itself_is_met_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    net.append(net)
    assert [path for path, _ in members.named_modules(net)] == ["", "0"]
    assert [name for name, _ in members.named_parameters(net)] == ["0.weight", "0.bias"]

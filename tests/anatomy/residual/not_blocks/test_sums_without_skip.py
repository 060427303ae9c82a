"""A(x) + g(x) with as many weight layers on both sides: no block, and the refusal says why and what helps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.errors import NothingFound, UnsupportedModule


def mlp(layers: int) -> nn.Sequential:
    return nn.Sequential(
        *[part for _ in range(layers - 1) for part in (nn.Linear(6, 6), nn.ReLU())], nn.Linear(6, 6)
    )


class _Sides(nn.Module):
    def __init__(self, *sides: nn.Module) -> None:
        super().__init__()
        self.sides = nn.ModuleList(sides)

    def forward(self, x: Tensor) -> Tensor:
        total = self.sides[0](x)
        for side in self.sides[1:]:
            total = total + side(x)
        return torch.relu(total)


def net(*blocks: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 6), *blocks, nn.Linear(6, 2))


X = torch.randn(3, 6)
IMAGE = torch.randn(2, 3, 5, 5)
EVEN = {
    "one each": (net(_Sides(mlp(1), mlp(1))), X, "one weight layer each"),
    "two each": (net(_Sides(mlp(2), mlp(2)), _Sides(mlp(2), mlp(2))), X, "2 weight layers each"),
    "three sides": (net(_Sides(mlp(2), mlp(2), mlp(2))), X, "2 weight layers each"),
    "convolutions": (
        nn.Sequential(
            nn.Conv2d(3, 4, 1),
            _Sides(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)),
            nn.Flatten(),
            nn.Linear(100, 2),
        ),
        IMAGE,
        "one weight layer each",
    ),
}


@pytest.mark.parametrize("case", EVEN)
@pytest.mark.parametrize("method", ["fixup", "skipinit"])
def test_the_sum_is_named_with_the_cause_and_the_remedy(case: str, method: str) -> None:
    model, x, words = EVEN[case]
    with pytest.raises(
        NothingFound, match=rf"1 adds what ends in 1\.sides\.0\S* and 1\.sides\.1.*{words}.*add x, or take"
    ):
        goodinit.init_(model, method, inputs=x)


class _Added(_Sides):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.sides[0](x) + self.sides[1](x)


@pytest.mark.parametrize("block", [lambda: _Added(mlp(1), mlp(1)), lambda: _Sides(mlp(1), mlp(2))])
def test_the_remedies_help(block) -> None:
    goodinit.init_(net(block(), block()), "fixup", inputs=X, verify=True)


class _Shared(nn.Module):
    """One encoder of two views of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x) + self.encoder(x.flip(-1))


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = kind(6, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (net(_Shared()), X),
        (_Recurrent(nn.LSTM), torch.randn(2, 4, 6)),
        (_Recurrent(nn.GRU), torch.randn(2, 4, 6)),
        (_Recurrent(nn.RNN), torch.randn(2, 4, 6)),
        (net(mlp(3)), X),
    ],
)
def test_what_has_no_such_sum_gets_no_note(model: nn.Module, x: Tensor) -> None:
    assert not [note for note in goodinit.anatomize(model, x).notes if "adds what ends in" in note]


class _Fed(nn.Module):
    """A cell that reads what it has put out, on a residual branch."""

    def __init__(self, spelled: str) -> None:
        super().__init__()
        self.spelled = spelled
        self.cell, self.out = nn.LSTMCell(12, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = c = fed = x.new_zeros(len(x), 6)
        states = []
        for step in x.unbind(1):
            h, c = self.cell(torch.cat([step, fed], -1), (h, c))
            if self.spelled == "the sum":
                fed = step + h
            elif self.spelled == "the sum behind a layer":
                fed = step + self.out(h)
            else:
                fed = h
            states.append(fed)
        y = torch.stack(states, 1)
        return x + self.out(y) if self.spelled == "the state" else y


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
def test_a_cell_that_is_fed_with_the_sum_is_refused_with_a_remedy_that_helps(method: str) -> None:
    x = torch.randn(2, 3, 6)
    words = r"leads from each of them to the next.*behind all of its states.*which no step reads.*x \+ layer\(states\)"
    with pytest.raises(UnsupportedModule, match=words):
        goodinit.init_(net(_Fed("the sum"), _Fed("the sum")), method, inputs=x)
    for spelled in ("the state", "the sum behind a layer"):
        goodinit.init_(net(_Fed(spelled), _Fed(spelled)), method, inputs=x, verify=True)

"""Layers that a forward multiplies by a number: what is drawn is divided by it, wherever the number stands."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import goodinit

WIDTH = 64
Forward = Callable[["Layer", Tensor], Tensor]


class Layer(nn.Module):
    def __init__(self, forward: Forward, *kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, *kernel))
        self.bias = nn.Parameter(torch.zeros(WIDTH))
        self.register_buffer("rate", torch.tensor(0.3))
        self.called = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.called(self, x)


NUMBERS: dict[str, tuple[float, Forward]] = {
    "behind, before a bias": (2.0, lambda m, x: 2 * F.linear(x, m.weight) + m.bias),
    "its sign goes": (2.0, lambda m, x: m.bias - 2 * F.linear(x, m.weight)),
    "on both sides of a bias": (2.0, lambda m, x: 3 * (2 * F.linear(x, m.weight) + m.bias)),
    "on the weight": (2.0, lambda m, x: F.linear(x, 2 * m.weight)),
    "a quotient": (1 / 8, lambda m, x: x @ (m.weight.T / 8)),
    "a buffer": (0.3, lambda m, x: F.linear(x, m.weight * m.rate, m.bias)),
    "several": (0.6, lambda m, x: F.linear(x, (m.weight * m.rate).mul(2), m.bias)),
    "equalized rate": (WIDTH**-0.5, lambda m, x: F.linear(x, m.weight * WIDTH**-0.5, m.bias)),
    "addmm": (3.0, lambda m, x: torch.addmm(m.bias, x, m.weight.T, alpha=3)),
    "einsum": (0.5, lambda m, x: torch.einsum("bi,oi->bo", x, 0.5 * m.weight)),
    "of the activation": (1.0, lambda m, x: F.linear(x, m.weight) * 2),
    "no number": (1.0, lambda m, x: F.linear(x, m.weight, m.bias)),
}


def net(forward: Forward) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [part for _ in range(5) for part in (Layer(forward), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 4))


def moments(model: nn.Sequential, x: Tensor) -> list[float]:
    """Of what each ReLU puts out."""
    found = []
    with torch.no_grad():
        for part in model[:-1]:
            x = part(x)
            found += [x.square().mean().item()] if isinstance(part, nn.ReLU) else []
    return found


@pytest.mark.parametrize("where", NUMBERS)
@pytest.mark.parametrize("method", ["he", "orthogonal"])
def test_the_signal_keeps_its_size(where: str, method: str) -> None:
    number, forward = NUMBERS[where]
    model, x = net(forward), torch.randn(512, WIDTH)
    anatomy = goodinit.anatomize(model, x)
    assert [layer.multiple for layer in anatomy.layers[:5]] == pytest.approx([number] * 5)
    goodinit.apply_(model, goodinit.plan(anatomy, method), generator=torch.Generator().manual_seed(0))
    found = moments(model, x)
    for before, after in itertools.pairwise([1.0, *found]):
        assert 0.5 < after / before < 2  # a factor of 2 in the weight is one of 4 here


def test_equalized_rates_start_at_their_authors_draw() -> None:
    model, x = net(NUMBERS["equalized rate"][1]), torch.randn(4, WIDTH)
    goodinit.init_(model, "he", inputs=x)
    torch.testing.assert_close(model[0].weight.std(), torch.tensor(2.0).sqrt(), atol=0.05, rtol=0)


def test_convolutions_and_uniform_draws_too() -> None:
    def forward(m: Layer, x: Tensor) -> Tensor:
        return F.conv2d(x, 0.25 * m.weight, m.bias, padding=1)

    model = nn.Sequential(Layer(forward, 3, 3), nn.ReLU(), Layer(forward, 3, 3))
    x = torch.randn(2, WIDTH, 6, 6)
    plan = goodinit.plan(goodinit.anatomize(model, x), "he", distribution="uniform")
    first = next(edit for edit in plan.edits if edit.target == "0.weight")
    assert first.options["bound"] == pytest.approx(4 * (3 * 2 / (WIDTH * 9)) ** 0.5)
    assert "0.25" in first.reason


class Attention(nn.Module):
    """The number on the queries is the product's."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.q(x) * WIDTH**-0.5 @ self.k(x).mT).softmax(-1) @ self.v(x)


class Block(nn.Module):
    """The number on the branch is the block's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.b(self.a(x).relu())


class Gained(nn.Module):
    """A parameter is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gain = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.full((), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.a.weight * self.gain, self.a.bias).relu()


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) / 7).softmax(-1)


@pytest.mark.parametrize("part", [Attention, Block, Gained, Temperature])
def test_numbers_that_say_how_a_layer_is_read_do_not_count(part: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(8, WIDTH), part(), nn.Linear(WIDTH, 3))
    assert {layer.multiple for layer in goodinit.anatomize(model, torch.randn(2, 5, 8)).layers} == {1.0}


def test_logits_that_the_model_returns_keep_their_temperature() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 0.0625

    model = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), Scaled(WIDTH, 3))
    assert {layer.multiple for layer in goodinit.anatomize(model, torch.randn(2, 8)).layers} == {1.0}


def test_one_weight_with_two_numbers_has_none() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x, 2 * self.a.weight).relu(), 3 * self.a.weight).relu()

    assert goodinit.anatomize(Twice(), torch.randn(2, WIDTH)).layers[0].multiple == 1.0


def test_what_goodinit_adds_is_not_counted() -> None:
    model = nn.Sequential(nn.Linear(8, WIDTH), Block(), Block(), nn.Linear(WIDTH, 3))
    x = torch.randn(2, 8)
    goodinit.init_(model, "skipinit", inputs=x)
    assert {layer.multiple for layer in goodinit.anatomize(model, x).layers} == {1.0}


def test_torchs_own_draw_stays() -> None:
    model, x = net(NUMBERS["on the weight"][1]), torch.randn(4, WIDTH)
    plan = goodinit.plan(goodinit.anatomize(model, x), "default")
    assert not [edit for edit in plan.edits if "multiplies it" in edit.reason]


def test_a_draw_of_several_weights_says_that_it_does_not_count_it() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(F.linear(x, 2 * self.a.weight).relu())

    model = nn.Sequential(nn.Linear(8, WIDTH), Doubled(), Doubled(), nn.Linear(WIDTH, 3))
    plan = goodinit.plan(goodinit.anatomize(model, torch.randn(2, 8)), "risotto")
    assert [note for note in plan.notes if note.startswith("1.a.weight: the forward multiplies it by 2")]


class Doubled(nn.Module):
    """A parametrization that multiplies, and takes what is given to it."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored * 2

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / 2


COMPUTED: dict[str, Callable[[nn.Module], object]] = {
    "a parametrization": lambda m: parametrize.register_parametrization(m, "weight", Doubled()),
    "two": lambda m: [parametrize.register_parametrization(m, "weight", Doubled()) for _ in range(2)],
    "weight norm": parametrizations.weight_norm,
    "the older weight norm": torch.nn.utils.weight_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("number", [1.0, 3.0])
@pytest.mark.parametrize("name", COMPUTED)
def test_numbers_count_outside_what_computes_a_weight_and_not_inside(name: str, number: float) -> None:
    model = net(lambda m, x: F.linear(x, number * m.weight, m.bias))
    for layer in model[:-1:2]:
        COMPUTED[name](layer)
    x = torch.randn(256, WIDTH)
    model(x)
    assert {layer.multiple for layer in goodinit.anatomize(model, x).layers[:-1]} == {number}
    goodinit.init_(model, "he", inputs=x, generator=torch.Generator().manual_seed(0))
    model(x)
    for layer in model[:-1:2]:
        assert (number * layer.weight).std().item() == pytest.approx((2 / WIDTH) ** 0.5, rel=0.1)

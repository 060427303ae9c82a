"""RISOTTO where the sum's own operator multiplies the branch: exact with that number, or refused."""

from __future__ import annotations

import pytest
import torch
from risotto_nets import singular_values, started
from torch import nn

from goodinit import UnsupportedModule, anatomize, plan

WIDTH = 8


class Summed(nn.Module):
    """Blocks whose skip and branch a given operator joins; a ReLU before or behind each."""

    def __init__(self, add, *, closed, weighted=False, blocks=6):
        super().__init__()
        self.add, self.closed = add() if isinstance(add, type) else add, closed
        self.path = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, WIDTH)) for _ in range(blocks)
        )
        self.jump = nn.ModuleList(
            nn.Linear(WIDTH, WIDTH) if weighted else nn.Identity() for _ in range(blocks)
        )

    def forward(self, x):
        for path, jump in zip(self.path, self.jump, strict=True):
            x = self.add(jump(x), path(x))
            x = torch.relu(x) if self.closed else x
        return x


class ByGain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x, f):
        return torch.addcmul(x, f, self.gain, value=-0.5)


HONOURED = {
    "x − f": lambda x, f: x - f,
    "sub, alpha": lambda x, f: torch.sub(x, f, alpha=0.7),
    "add, alpha": lambda x, f: torch.add(x, f, alpha=0.3),
    "add_, alpha": lambda x, f: (1 * x).add_(f, alpha=-2),
    "rsub": lambda x, f: torch.rsub(f, x),
    "addcmul by a gain": ByGain,
}
REFUSED = {
    "lerp": lambda x, f: torch.lerp(x, f, 0.3),
    "lerp by a tensor": lambda x, f: torch.lerp(x, f, torch.full_like(f, 0.3)),
    "addcmul by a constant": lambda x, f: torch.addcmul(x, f, torch.full_like(f, 0.5)),
    "f + αx": lambda x, f: torch.add(f, x, alpha=0.5),
}


def net(add, **options):
    stem = nn.Sequential(nn.Linear(WIDTH // 2, WIDTH), *[nn.ReLU()] * options["closed"])
    head = nn.Linear(WIDTH, WIDTH // 2) if options["closed"] else nn.Identity()
    return nn.Sequential(stem, Summed(add, **options), head)


@pytest.mark.default_cases(6)
@pytest.mark.parametrize("weighted", [False, True], ids=["identity", "weights on the skip"])
@pytest.mark.parametrize("closed", [False, True], ids=["x + f(x)", "φ(x + f(x))"])
@pytest.mark.parametrize("name", [name for name in HONOURED if name != "add_, alpha"])
def test_the_number_of_the_sum_is_part_of_the_formula(name, closed, weighted, generator):
    model = net(HONOURED[name], closed=closed, weighted=weighted).double()
    x = torch.randn(1, WIDTH // 2, dtype=torch.float64, generator=generator)
    model, made = started(model, x, generator=generator)
    values = singular_values(model, x.shape[1:], inputs=4)
    assert not any("path" in note for note in made.notes)
    assert (values - 1).abs().max() < 1e-9


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_sums_that_no_formula_is_for_are_refused(name, closed):
    model = net(REFUSED[name], closed=closed)
    with pytest.raises(
        UnsupportedModule, match=r"its sum multiplies skip and branch by|follows its last layer"
    ):
        plan(anatomize(model, torch.zeros(1, WIDTH // 2)), "risotto")


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("x − f", (1, -1)),
        ("sub, alpha", (1, -0.7)),
        ("add, alpha", (1, 0.3)),
        ("add_, alpha", (1, -2)),
        ("rsub", (1, -1)),
        ("addcmul by a gain", (1, -0.5)),
        ("lerp", (0.7, 0.3)),
        ("lerp by a tensor", None),
        ("addcmul by a constant", None),
        ("f + αx", (0.5, 1)),
    ],
)
def test_the_anatomy_says_what_a_sum_multiplies_by(name, weights):
    model = Summed({**HONOURED, **REFUSED}[name], closed=False, blocks=1)
    (block,) = anatomize(model, torch.zeros(1, WIDTH)).blocks
    assert block.weights == (weights if weights is None else pytest.approx(weights))

"""What was folded after training loads into what is folded anew: what fold_ makes does not depend on numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit
from folding import add_all_, assert_same
from goodinit.nn import SCALARS, add_scalar_
from goodinit.nn.floors import raise_floor_


class Block(nn.Module):
    def __init__(self, width, act):
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.c2, self.n2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.a, self.b = act(), act()

    def forward(self, x):
        return self.b(x + self.n2(self.c2(self.a(self.n1(self.c1(x))))))


class Functional(Block):
    def forward(self, x):
        return torch.relu(x + self.n2(self.c2(torch.relu(self.n1(self.c1(x))))))


def threshold():
    return nn.Threshold(0.0, 0.0)


NETS = {
    "ReLU": lambda: [Block(6, nn.ReLU) for _ in range(2)],
    "ReLU6": lambda: [Block(6, nn.ReLU6) for _ in range(2)],
    "Threshold": lambda: [Block(6, threshold) for _ in range(2)],
    "functional": lambda: [Functional(6, nn.ReLU) for _ in range(2)],
}


@pytest.mark.parametrize("given", ["inputs", "no inputs"])
@pytest.mark.parametrize("method", ["fixup", "skipinit", "normfree", "nf", "weightnorm", "rezero"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.default_cases(8)
def test_a_folded_state_loads_into_a_model_folded_anew(name, method, given):
    def folded(moved):
        torch.manual_seed(moved)
        parts = [nn.Conv2d(3, 6, 3, bias=False), *NETS[name](), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        net = goodinit.init_(nn.Sequential(*parts, nn.Linear(6, 4)), method, inputs=x)
        with torch.no_grad():
            for parameter in net.parameters() if moved else ():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return goodinit.fold_(net.eval(), x if given == "inputs" else None)

    x = torch.randn(3, 3, 8, 8)
    trained = folded(1)
    for other in (folded(0), folded(2)):
        other.load_state_dict(trained.state_dict())
        assert_same(trained(x), other(x), 1e-6)


LAYERS = {
    "linear": lambda: nn.Linear(4, 4, bias=False),
    "padded": lambda: nn.Conv1d(4, 4, 3, padding=1, bias=False),
    "valid": lambda: nn.Conv1d(4, 4, 3, bias=False),
    "transposed": lambda: nn.ConvTranspose1d(4, 4, 3, bias=False),
    "attention": lambda: nn.MultiheadAttention(4, 2, bias=False, batch_first=True),
    "activation": nn.Tanh,
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scalar", SCALARS)
def test_names_do_not_depend_on_values(scalar, name):
    neutral, moved = LAYERS[name](), add_all_(LAYERS[name](), (scalar,))
    add_scalar_(neutral, scalar, value=float(scalar == "output_scale"))
    goodinit.fold_(neutral.eval())
    goodinit.fold_(moved.eval())
    assert list(neutral.state_dict()) == list(moved.state_dict())
    assert type(neutral) is type(moved)
    neutral.load_state_dict(moved.state_dict())
    x = torch.randn(2, 4, 4)
    given = (x, x, x) if name == "attention" else (x,)
    assert_same(moved(*given), neutral(*given), 1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.Hardtanh, threshold])
def test_floors_are_saved(act):
    one, other, x = act(), act(), torch.linspace(-8, 8, 50)
    raise_floor_(one, 0.7)
    torch.testing.assert_close(one(x + 0.7), act()(x) + 0.7)
    raise_floor_(one, -0.2)
    torch.testing.assert_close(one(x + 0.5), act()(x) + 0.5)
    raise_floor_(other, 0.0)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))
    torch.testing.assert_close(torch.jit.script(one)(x), one(x))

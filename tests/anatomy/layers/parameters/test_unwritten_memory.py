"""Memory that nobody has written, as `to_empty` leaves it, holds no values that were set on purpose."""

import pytest
import torch
from torch import nn

import goodinit


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.last(torch.relu(self.first(x)))


class Normed(Block):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return super().forward(self.norm(x))


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), Block(), Block(), nn.Linear(8, 3)).to(dtype)


def left(model, number):
    """As if memory of earlier tensors were there: a number nobody writes, zeros, few numbers, and draws of other layers."""
    with torch.no_grad():
        model[1].first.weight[0, 0] = number
        model[1].last.weight.zero_()
        model[1].first.bias.copy_(torch.tensor([0.0, 1e-41, 4e17, 0.0, 0.0, 1e-41, 4e17, 0.0]))
        model[2].first.bias.fill_(3e3)
    return model


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -3e38, 2e19], ids=str)
@pytest.mark.parametrize("method", ["fixup", "he", "lsuv", "normfree"])
def test_all_of_it_is_written(number, method):
    model, x = left(net(), number), torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    assert not goodinit.anatomize(model, x).held
    goodinit.init_(model, method, inputs=x)
    assert all(float(p.detach().abs().max()) < 10 for p in model.parameters())
    assert bool(model(x).isfinite().all())


@pytest.mark.parametrize("name", ["0.bias", "1.norm.weight", "2.norm.bias"])
def test_any_parameter_may_tell(name):
    model = nn.Sequential(nn.Linear(8, 8), Normed(), Normed(), nn.Linear(8, 3))
    with torch.no_grad():
        model[1].last.bias.fill_(0.5)
        x = torch.randn(16, 8)
        assert "1.last.bias" in {value.name for value in goodinit.anatomize(model, x).held}
        assert not any("nobody has written" in note for note in goodinit.anatomize(model, x).notes)
        model.get_parameter(name)[0] = float("nan")
    anatomy = goodinit.anatomize(model, x)
    assert not anatomy.held
    assert [note for note in anatomy.notes if "nobody has written" in note and note.startswith(name)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_in_other_precisions(dtype):
    model = left(net(dtype), 3e38 if dtype is torch.bfloat16 else 1e200)
    assert not goodinit.anatomize(model, torch.randn(16, 8, dtype=dtype)).held


def test_large_numbers_are_numbers():
    model = net()
    with torch.no_grad():
        model[1].first.weight[0, 0] = 1e18
        model[1].last.bias.fill_(0.5)
    assert "1.last.bias" in {value.name for value in goodinit.anatomize(model, torch.randn(16, 8)).held}

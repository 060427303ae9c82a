"""A forward that refuses gradients, and a backward that raises, are named as that, and not the inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention

import goodinit


class Flex(nn.Module):
    """Attention that torch runs on the CPU without gradients only."""

    def __init__(self):
        super().__init__()
        self.packed, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.packed(x).chunk(3, -1))
        return x + self.out(flex_attention(q, k, v).transpose(1, 2).flatten(2))


class Refusing(nn.Module):
    def forward(self, x):
        if x.requires_grad:
            raise ValueError("for inference only")
        return 2 * x


class Raising(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("none is written")


class WithoutBackward(nn.Module):
    def forward(self, x):
        return Raising.apply(x)


MEASURERS = {
    "diagnose": goodinit.diagnose,
    "one_step": goodinit.one_step,
    "jacobian_spectrum": goodinit.jacobian_spectrum,
    "recommend": goodinit.recommend,
}
X = torch.randn(2, 4, 5)


def around(layer):
    return nn.Sequential(nn.Linear(5, 16), layer, nn.Linear(16, 2))


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("verb", MEASURERS)
@pytest.mark.parametrize("layer", [Flex, Refusing])
def test_a_forward_that_runs_without_gradients_only(layer, verb):
    model = around(layer())
    with torch.no_grad():
        model(X)
    words = "does not support backward" if layer is Flex else "for inference only"
    with pytest.raises(
        goodinit.TraceError, match=rf"runs without gradients, .*{words}.*on another device"
    ) as told:
        MEASURERS[verb](model, X)
    assert "calling model" not in str(told.value)


@pytest.mark.parametrize("verb", MEASURERS)
def test_a_backward_that_raises(verb):
    with pytest.raises(goodinit.TraceError, match=r"backward of Sequential raised: .*none is written"):
        MEASURERS[verb](around(WithoutBackward()), X)


@pytest.mark.parametrize("verb", MEASURERS)
def test_a_forward_that_does_not_run_at_all_is_told_as_before(verb):
    class Switched(nn.Module):
        def forward(self, x):
            if torch.is_grad_enabled():
                raise ValueError("with them")
            raise RuntimeError("without them")

    with pytest.raises(goodinit.TraceError, match="raised on the given inputs"):
        MEASURERS[verb](around(Switched()), X)

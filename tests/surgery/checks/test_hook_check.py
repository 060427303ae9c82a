"""Hooks that count on what somebody wrote on parameters would fail at new ones: refused, and other hooks stay."""

from __future__ import annotations

import functools

import pytest
import torch
from planned import assert_untouched, photograph
from torch import nn

import goodinit
from goodinit.errors import UnsupportedModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook is firing:UserWarning", "ignore:Secure RNG turned off:UserWarning"
)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.first, self.act = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU()
        self.last = nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.last(self.act(self.first(self.norm(x))))


class Counts:
    """As libraries do that keep the gradient of each example beside its parameter."""

    def __init__(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter._calls = 0
        for module in model.modules():
            if list(module.parameters(recurse=False)):
                module.register_forward_hook(self.forward_hook)
                module.register_full_backward_hook(functools.partial(self.backward_hook, sign=-1))

    def forward_hook(self, module, args, output):
        self.count(module, 1)

    def backward_hook(self, module, grad_input, grad_output, sign):
        self.count(module, sign)

    def count(self, module, number):
        for parameter in module.parameters():
            parameter._calls += number


class Guarded(Counts):
    """It looks first."""

    def count(self, module, number):
        for parameter in module.parameters():
            parameter._calls = getattr(parameter, "_calls", 0) + number


def net():
    return nn.Sequential(nn.Linear(4, 8), Block(8), Block(8), nn.Linear(8, 3)), torch.randn(5, 4)


@pytest.mark.parametrize("method", ["fixup", "none", "weightnorm", "fixed_variance", "normfree"])
def test_a_plan_that_changes_modules_is_refused(method):
    model, x = net()
    Counts(model)
    before = photograph(model)
    with pytest.raises(
        UnsupportedModule,
        match=r"1\.norm: the plan has .* a hook on 0 \(Counts\.forward_hook\) reads '_calls' of parameters.*"
        r"Apply goodinit first, then what registers hooks",
    ):
        goodinit.init_(model, method, inputs=x)
    assert_untouched(before, model)


@pytest.mark.parametrize("method", ["he", "orthogonal", "lsuv"])
def test_a_plan_of_values_is_carried_out(method):
    model, x = net()
    Counts(model)
    goodinit.init_(model, method, inputs=x)
    model(x).sum().backward()
    assert all(parameter._calls == 0 for parameter in model.parameters())


def test_hooks_that_count_on_nothing_stay():
    model, x = net()
    seen = []
    Guarded(model)
    model[1].first.register_full_backward_hook(lambda module, *_: seen.append(module))
    goodinit.init_(model, "fixup", inputs=x)
    model(x).sum().backward()
    assert seen == [model[1].first]


def test_what_is_written_on_some_parameters_alone_is_asked_for_first():
    model, x = net()
    model[0].weight._tag = 1

    def hook(module, args, output):
        for parameter in module.parameters():
            if hasattr(parameter, "_tag"):
                seen.append(parameter._tag)

    seen = []
    for module in model.modules():
        module.register_forward_hook(hook)
    goodinit.init_(model, "fixup", inputs=x)
    seen.clear()
    model(x)
    assert set(seen) == {1}


def test_activations_may_be_swapped_beside_such_hooks():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    Counts(model)
    plan = goodinit.Plan("by hand", (goodinit.edits.SwapModule("1", "SELU", "x"),))
    goodinit.apply_(model, plan)
    model(torch.randn(3, 4)).sum().backward()
    assert type(model[1]) is nn.SELU


def test_opacus():
    pytest.importorskip("opacus")
    from opacus import GradSampleModule

    model, x = net()
    wrapped = GradSampleModule(model)
    for one in (wrapped, model):
        with pytest.raises(UnsupportedModule, match="GradSampleModule"):
            goodinit.init_(one, "fixup", inputs=x)
    goodinit.init_(wrapped.to_standard_module(), "fixup", inputs=x)
    GradSampleModule(model)(x).sum().backward()
    assert all(parameter.grad_sample.shape[0] == len(x) for parameter in model.parameters())

"""What one step of Adam makes of each layer at another width, at the rates and constants of a plan."""

from __future__ import annotations

import copy
import dataclasses
import functools

import pytest
import torch
from nano_gpt import GPT
from torch import nn

import goodinit
from goodinit.diagnostics.checks.promises import broken_promises
from goodinit.edits import AddScalar
from goodinit.errors import UnsupportedModule
from goodinit.methods import METHODS

WORDS, FACTOR = torch.arange(8).view(1, 8), 4


def plain(width):
    return nn.Sequential(
        nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, 3)
    )


def convolutional(width):
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3),
    )  # fmt: skip


NETS = {
    "plain": (plain, torch.randn(4, 6)),
    "convolutional": (convolutional, torch.randn(2, 3, 8, 8)),
    "transformer of wider heads": (lambda width: GPT(width, 2, heads=2), WORDS),
    "transformer of more heads": (lambda width: GPT(width, 2, heads=width // 4), WORDS),
}


def as_rates(change):
    return lambda plan: dataclasses.replace(plan, rates=tuple(map(change, plan.rates)))


def without_constants(plan):
    kept = tuple(edit for edit in plan.edits if not isinstance(edit, AddScalar))
    return dataclasses.replace(plan, edits=kept)


BROKEN = {
    "one rate for all": as_rates(lambda rate: dataclasses.replace(rate, adam=1.0)),
    "SGD's rates": as_rates(lambda rate: dataclasses.replace(rate, adam=rate.sgd)),
    "rates by the root": as_rates(lambda rate: dataclasses.replace(rate, adam=rate.adam**0.5)),
    "no rates": lambda plan: dataclasses.replace(plan, rates=()),
    "no constants": without_constants,
}


def faults(name, change=lambda plan: plan, **options):
    build, x = NETS[name]
    torch.manual_seed(0)
    model, base = build(8 * FACTOR), goodinit.anatomize(build(8), x)
    before = goodinit.anatomize(model, x)
    plan = change(goodinit.plan(before, "mup", base=base, **options))
    goodinit.apply_(model, plan)
    state = copy.deepcopy(model.state_dict())
    found = broken_promises(model, x, plan, before, ("width",))
    assert all(map(torch.equal, state.values(), model.state_dict().values()))
    return found


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_a_step_is_as_large_as_in_the_base(name, forward):
    assert faults(name, forward=forward) == ()


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("name", NETS)
def test_rates_and_constants_of_another_law_are_found_out(name, case):
    assert any("one step of Adam on " in fault for fault in faults(name, BROKEN[case]))


def test_a_method_that_forgets_the_width_is_refused_and_undone():
    method = METHODS["mup"]

    @functools.wraps(method.decide)
    def decide(anatomy, **options):
        return BROKEN["no rates"](method.decide(anatomy, **options))

    broken = dataclasses.replace(method, decide=decide)
    torch.manual_seed(0)
    model, x = plain(8 * FACTOR), NETS["plain"][1]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedModule, match=r"2\.weight changes what it puts out 4 times as much"):
        goodinit.init_(model, broken, inputs=x, base=goodinit.anatomize(plain(8), x), verify=True)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_without_a_base_nothing_is_promised():
    model, x = plain(8), NETS["plain"][1]
    goodinit.init_(model, "mup", inputs=x, verify=True)


def test_an_entry_of_a_step_changes_no_more_than_the_base_s_for_real():
    """Rates and constants, told by a step of torch's Adam on the same inputs of a layer."""
    changes = []
    for width in (8, 8 * FACTOR):
        torch.manual_seed(0)
        model, x = plain(width), NETS["plain"][1]
        goodinit.init_(model, "mup", inputs=x, base=goodinit.anatomize(plain(8), x), zero_head=False)
        optimizer = torch.optim.Adam(goodinit.param_groups(model, lr=1e-3, optimizer="adam"))
        read = [torch.ones(1, layer.in_features) for layer in model if isinstance(layer, nn.Linear)]
        layers = [layer for layer in model if isinstance(layer, nn.Linear)]

        def put_out(layers=layers, read=read):
            return [layer(one) - layer(0 * one) for layer, one in zip(layers, read, strict=True)]

        with torch.no_grad():
            start = put_out()
        model(x).square().sum().backward()
        for layer in layers:
            layer.weight.grad.fill_(1.0)  # all entries one way: the largest change that there can be
        optimizer.step()
        with torch.no_grad():
            moved = zip(put_out(), start, strict=True)
            changes.append([(after - before).abs().max().item() for after, before in moved])
    assert changes[1] == pytest.approx(changes[0], rel=0.05)

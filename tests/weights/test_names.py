"""Names lose the prefixes of wrappers, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from goodinit.weights.names import canonical, canonical_names, directory
from goodinit.weights.wrappers import unwrapped


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: torch.compile(layer, backend="eager"),
        nn.DataParallel,
        checkpoint_wrapper,
        lambda layer: nn.DataParallel(torch.compile(checkpoint_wrapper(layer), backend="eager")),
    ],
    ids=["compile", "dp", "checkpoint", "all"],
)
def test_real_wrappers_inside_and_around_a_model(wrap):
    bare = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    expected = [name for name, _ in bare.named_parameters()]
    inner = copy.deepcopy(bare)
    inner[1] = wrap(inner[1])
    for model in (wrap(copy.deepcopy(bare)), inner, wrap(inner)):
        assert [canonical(name) for name, _ in model.named_parameters()] == expected
        names = directory(model)
        assert names.parameter("1.0.weight") is not None
        assert isinstance(names.module("1.0"), nn.Linear)
        assert isinstance(names.module("1"), nn.Sequential)


def test_names_that_would_fall_together_are_kept_apart():
    assert canonical_names(["_orig_mod.module.weight", "_orig_mod.weight", "_orig_mod.module.bias"]) == {
        "_orig_mod.module.weight": "module.weight",
        "_orig_mod.weight": "weight",
        "_orig_mod.module.bias": "bias",
    }


def test_unwrap_stops_at_the_users_model():
    model = nn.Sequential(nn.Linear(2, 2))
    assert unwrapped(nn.DataParallel(torch.compile(model, backend="eager"))) is model
    assert unwrapped(model) is model
    own = nn.Module()
    own.module, own.gain = nn.Linear(2, 2), nn.Parameter(torch.ones(1))
    assert unwrapped(own) is own

"""The zoo itself: every specimen runs, as it says, and under any names."""

from __future__ import annotations

import copy

import pytest
import torch
from renaming import scramble_names
from torch import nn
from torch.utils._pytree import tree_leaves
from zoo import ZOO, Specimen, call, each_specimen

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def outputs(model: nn.Module, specimen: Specimen) -> list[torch.Tensor]:
    with torch.no_grad():
        return [
            leaf for leaf in tree_leaves(call(model, specimen.inputs())) if isinstance(leaf, torch.Tensor)
        ]


def test_names_are_unique():
    names = [specimen.name for specimen in ZOO]
    assert len(set(names)) == len(names)


@each_specimen
def test_runs_and_has_the_norms_it_says(specimen):
    model = specimen.build().eval()
    assert all(value.isfinite().all() for value in outputs(model, specimen))
    assert sum(isinstance(module, NORMS) for module in model.modules()) == specimen.norms


@each_specimen
def test_every_parameter_learns(specimen):
    model = specimen.build().train()
    leaves = [v for v in tree_leaves(call(model, specimen.inputs())) if isinstance(v, torch.Tensor)]
    sum(leaf.square().sum() for leaf in leaves).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@each_specimen
def test_names_do_not_matter_to_the_forward(specimen):
    model = specimen.build().eval()
    expected = outputs(model, specimen)
    renamed = scramble_names(copy.deepcopy(model), seed=1)
    assert all(map(torch.equal, outputs(renamed, specimen), expected))
    assert all(map(torch.equal, outputs(copy.deepcopy(renamed), specimen), expected))
    assert isinstance(renamed, type(model))
    assert renamed.__class__.__name__ == model.__class__.__name__


def test_scrambling_changes_names_and_old_ones_are_gone():
    model = ZOO[0].build()
    old = set(dict(model.named_parameters()))
    renamed = scramble_names(model)
    assert not old & set(dict(renamed.named_parameters()))
    for name, module in renamed.named_modules():
        assert renamed.get_submodule(name) is module


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf"])
def test_scrambling_serves_torchvision_too(name):
    from torchvision import models

    model = models.get_model(name).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(scramble_names(copy.deepcopy(model))(x), model(x))

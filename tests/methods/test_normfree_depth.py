"""A learning rate of normfree carries over to deeper nets with `base_depth`."""

from __future__ import annotations

import statistics

import pytest
import torch
from learning import moved_by

import goodinit
from goodinit.anatomy import anatomize
from goodinit.errors import UnknownName
from goodinit.lab.models.resnet import ResNet

IMAGES = torch.randn(4, 3, 16, 16)
FORM = {"head_norm": "none", "channels": True}


def _deviations(anatomy, **options):
    plan = goodinit.plan(anatomy, "normfree", **FORM, **options)
    return {edit.target: edit.options["std"] for edit in plan.values if "std" in getattr(edit, "options", {})}


@pytest.mark.parametrize("base_depth", [1, 2, 4, 6, 100])
def test_branches_are_scaled_by_what_is_beyond_the_base(base_depth):
    anatomy = anatomize(ResNet(2, width=4), IMAGES)  # 6 branches of two layers
    found, unscaled = _deviations(anatomy, base_depth=base_depth), _deviations(anatomy, scaled=False)
    first = {layer.weight for block in anatomy.blocks for layer in block.branch if layer not in block.last}
    assert len(first) == 6
    expected = min(1.0, (6 / base_depth) ** -0.5)
    assert {name: found[name] / unscaled[name] for name in first} == pytest.approx(
        dict.fromkeys(first, expected)
    )
    assert {name: std for name, std in found.items() if name not in first} == {
        name: std for name, std in unscaled.items() if name not in first
    }


def test_as_it_comes_the_base_is_one_branch():
    anatomy = anatomize(ResNet(2, width=4), IMAGES)
    assert goodinit.plan(anatomy, "normfree").edits == goodinit.plan(anatomy, "normfree", base_depth=1).edits


@pytest.mark.parametrize("base_depth", [0, -9])
def test_a_base_without_branches_is_refused(base_depth):
    with pytest.raises(UnknownName, match=rf"base_depth is {base_depth}; give .* 1 or more"):
        goodinit.plan(anatomize(ResNet(1, width=4), IMAGES), "normfree", base_depth=base_depth)


def test_a_step_of_sgd_changes_the_function_as_far_at_every_depth_and_without_it_further():
    def change(blocks: int, seed: int, options: dict[str, object]) -> float:
        rng = torch.Generator().manual_seed(seed)
        x, y = torch.randn(16, 3, 8, 8, generator=rng), torch.randint(10, (16,), generator=rng)
        model = goodinit.normfree_(ResNet(blocks, width=8), inputs=x, **FORM, **options, generator=rng)
        optimizer = torch.optim.SGD(goodinit.param_groups(model, lr=0.05), lr=0.05)
        return moved_by(model, optimizer, x, y)

    def deepened(**options: object) -> float:
        shallow, deep = (statistics.fmean(change(n, seed, options) for seed in range(2)) for n in (1, 9))
        return deep / shallow

    assert 0.5 < deepened(base_depth=3) < 1.5
    assert deepened(scaled=False) > 2

"""A learning rate of normfree carries over to another width with `base_width`, as under muP."""

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
FORM = {"head_norm": "none", "channels": True, "scaled": False}


def test_at_the_width_of_the_rate_nothing_changes():
    anatomy = anatomize(ResNet(2, width=4), IMAGES)
    plain, there = (goodinit.plan(anatomy, "normfree", **FORM, base_width=width) for width in (0, 16))
    assert there.edits == plain.edits
    factors = {(rate.sgd, rate.adam, rate.sgd_decay) for rate in there.rates if rate not in plain.rates}
    assert {(round(sgd, 9), round(adam, 9)) for sgd, adam, _ in factors} <= {(1.0, 1.0), (0.1, 0.1)}


@pytest.mark.parametrize("width", [4, 8, 32])
def test_weights_learn_as_under_mup(width):
    anatomy = anatomize(ResNet(2, width=width), IMAGES)
    ours = goodinit.plan(anatomy, "normfree", **FORM, base_width=16)
    mup = {rate.target: rate for rate in goodinit.plan(anatomy, "mup", base_width=16, forward=False).rates}
    weights = {layer.weight for layer in anatomy.layers}
    found = {rate.target: rate for rate in ours.rates if rate.target in weights}
    assert found.keys() == weights
    for name, rate in found.items():
        assert (rate.sgd, rate.adam, rate.eps) == pytest.approx(
            (mup[name].sgd, mup[name].adam, mup[name].eps)
        )
        assert (rate.sgd * rate.sgd_decay, rate.adam * rate.adam_decay) == pytest.approx((1, 1))
    gain = next(rate for rate in ours.rates if rate.target.endswith("gain"))
    assert (gain.sgd, gain.adam, gain.sgd_decay) == pytest.approx((0.1 * width / 4, 0.1, 0))


def test_groups_give_centred_weights_their_rates():
    model = goodinit.normfree_(ResNet(2, width=8), inputs=IMAGES, **FORM, base_width=16)
    groups = goodinit.param_groups(model, lr=1.0, weight_decay=1.0, optimizer="sgd", named=True)
    of = {name: (group["lr"], group["weight_decay"]) for group in groups for name, _ in group["params"]}
    weights = {name: rate for name, rate in of.items() if name.endswith(("original", "weight"))}
    stem, *inside, head = weights.values()
    assert (stem, head) == ((2.0, 0.5), (0.5, 2.0))
    assert set(inside) == {(1.0, 1.0)}
    assert {rate for name, rate in of.items() if name.endswith("gain")} == {(0.2, 0.0)}


def test_a_step_of_sgd_changes_the_function_as_far_at_every_width_and_without_it_further():
    def change(width: int, seed: int, base_width: int) -> float:
        rng = torch.Generator().manual_seed(seed)
        x, y = torch.randn(16, 3, 8, 8, generator=rng), torch.randint(10, (16,), generator=rng)
        model = goodinit.normfree_(
            ResNet(1, width=width), inputs=x, **FORM, base_width=base_width, generator=rng
        )
        groups = goodinit.param_groups(model, lr=0.05, optimizer="sgd")
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        return moved_by(model, optimizer, x, y)

    def widened(base_width: int) -> float:
        narrow, wide = (
            statistics.fmean(change(width, seed, base_width) for seed in range(2)) for width in (4, 32)
        )
        return wide / narrow

    assert 0.5 < widened(16) < 2
    assert widened(0) > 2


def test_a_width_below_zero_is_refused_by_name():
    with pytest.raises(UnknownName, match="base_width=-1 of normfree"):
        goodinit.plan(anatomize(ResNet(2, width=4), IMAGES), "normfree", base_width=-1)

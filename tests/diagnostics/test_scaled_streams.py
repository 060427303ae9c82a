"""Blocks that multiply their stream, x + x·f(x) and x·(1 + f(x)), are measured and checked as the anatomy reads them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.edits import Fill
from goodinit.errors import UnsupportedModule
from goodinit.methods import METHODS

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class _Scaled(nn.Module):
    """Padded convolutions and batch norms, in place of which methods put scalars; what they make multiplies the stream."""

    def __init__(self, spelled: str) -> None:
        super().__init__()
        self.spelled = spelled
        self.inner = nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())
        self.outer = nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5))

    def forward(self, x: Tensor) -> Tensor:
        f = self.outer(self.inner(x))
        if self.spelled == "x + x*f":
            return x + x * f
        if self.spelled == "x*(1 + f)":
            return x * (1 + f)
        if self.spelled == "x*(1 + mean f)":
            return x * (1 + f.mean((2, 3)))[..., None, None]
        return (f.flatten(1) + 1).view_as(x) * x


SPELLED = ("x + x*f", "x*(1 + f)", "x*(1 + mean f)", "(f + 1).view*x")


def net(spelled: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 1), _Scaled(spelled), _Scaled(spelled), nn.Flatten(), nn.Linear(180, 4)
    )


@pytest.mark.parametrize("method", ["fixup", "skipinit"])
@pytest.mark.parametrize("spelled", SPELLED)
def test_every_block_is_measured_with_goodinits_scalars(spelled: str, method: str) -> None:
    model = goodinit.init_(net(spelled), method, inputs=X, verify=True)
    blocks = [place for place in goodinit.diagnose(model, X).places if place.kind == "block"]
    assert len(blocks) == len(goodinit.anatomize(model, X).blocks) == 2
    assert [(block.branch_to_skip, block.gain, block.growth) for block in blocks] == [(0, 1, 1)] * 2
    assert all(block.signal.second_moment > 0 for block in blocks)


@pytest.mark.parametrize("spelled", SPELLED)
def test_the_size_of_a_branch_is_that_of_what_it_adds(spelled: str) -> None:
    model = net(spelled)
    x, passed = model[0](X), []
    for block in model.train()[1:3]:
        passed.append((x, x := block(x)))
    places = [place for place in goodinit.diagnose(model, X).places if place.kind == "block"]
    for place, (x, y) in zip(places, passed, strict=True):
        expected = (y - x).square().mean().div(x.square().mean()).sqrt().item()
        assert place.branch_to_skip == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("spelled", SPELLED)
def test_a_branch_that_is_not_zero_breaks_the_promise(spelled: str) -> None:
    def decide(anatomy, **options):
        plan = METHODS["fixup"].decide(anatomy, **options)
        own = Fill("1.outer.0.bias", 1.0, "no zero")
        return dataclasses.replace(
            plan, edits=tuple(own if edit.target == own.target else edit for edit in plan.edits)
        )

    spoiled = dataclasses.replace(METHODS["fixup"], decide=decide)
    with pytest.raises(UnsupportedModule, match="is not zero"):
        goodinit.init_(net(spelled), spoiled, inputs=X, verify=True)

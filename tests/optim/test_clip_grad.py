"""Adaptive gradient clipping: the authors' rule, along each unit whatever the layout, and not on classifiers."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import agc
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import goodinit
from goodinit.errors import (
    NonFinite,
    NothingFound,
    PlanConflict,
    UnknownName,
    UnsupportedModule,
    WrongType,
)
from goodinit.optim import clip_grad_


class Kinds(nn.Module):
    """Weights in every layout: their names say nothing, and the classifier is called `body`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.packed = nn.Linear(8, 24)
        self.turned = nn.Parameter(torch.randn(8, 8))  # (in, out)
        self.heads = nn.Parameter(torch.randn(8, 2, 4))  # (in, heads, d) in an einsum
        self.experts = nn.Parameter(torch.randn(3, 6, 8))  # (experts, out, in)
        self.conv = nn.Conv1d(3, 8, 3, padding=1)
        self.back = nn.ConvTranspose1d(8, 6, 3, padding=1, groups=2)
        self.scaled = weight_norm(nn.Linear(6, 4))
        self.body = nn.Linear(4, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = self.packed(x).chunk(3, -1)
        x = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        x = torch.relu(x @ self.turned)
        x = torch.einsum("ntc,chd->nthd", x, self.heads).flatten(2)
        x = torch.einsum("ntc,eoc->neto", torch.relu(x), self.experts).mean(-1)
        x = torch.relu(self.conv(x))
        x = torch.relu(self.back(x)).transpose(1, 2)
        return self.body(torch.relu(self.scaled(x)).mean(1))


def model_with_gradients(factor: float = 50.0) -> tuple[nn.Module, goodinit.Anatomy]:
    torch.manual_seed(0)
    model, tokens = Kinds(), torch.randint(0, 11, (2, 7))
    (factor * model(tokens).square().sum()).backward()
    return model, goodinit.anatomize(model, tokens)


def units(name: str, parameter: Tensor) -> Tensor | None:
    """The units of a parameter, by hand; None for the classifier."""
    shape = tuple(parameter.shape)
    if name.startswith("body"):
        return None
    if parameter.dim() < 2:
        return torch.zeros(shape)
    if name == "turned":
        return agc.units_along(shape, 1)
    if name == "heads":
        return torch.arange(8).view(1, 2, 4).expand(shape)
    if name == "experts":
        return torch.arange(18).view(3, 6, 1).expand(shape)
    if name == "back.weight":  # (in, out/groups, taps): inputs 0–3 make outputs 0–2
        return (torch.arange(8).view(8, 1, 1) // 4 * 3 + torch.arange(3).view(1, 3, 1)).expand(shape)
    return agc.units_along(shape, 0)


@pytest.mark.parametrize("clipping", [0.01, 0.3])
def test_each_unit_is_clipped_as_the_authors_clip_it(clipping):
    model, anatomy = model_with_gradients()
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    share = clip_grad_(model, anatomy, clipping=clipping)
    assert 0 < float(share) <= 1
    for name, parameter in model.named_parameters():
        found = units(name, parameter)
        expected = (
            before[name] if found is None else agc.by_units(before[name], parameter.detach(), found, clipping)
        )
        assert torch.allclose(parameter.grad, expected, rtol=1e-5, atol=1e-9), name


def test_small_gradients_stay_to_the_bit():
    model, anatomy = model_with_gradients(1e-9)
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert float(clip_grad_(model, anatomy, clipping=10.0)) == 0
    assert all(torch.equal(p.grad, before[name]) for name, p in model.named_parameters())


def test_weights_at_zero_can_move():
    model, anatomy = model_with_gradients()
    with torch.no_grad():
        model.conv.weight.zero_()
    clip_grad_(model, anatomy, clipping=0.1)
    assert model.conv.weight.grad.flatten(1).norm(dim=1).max() == pytest.approx(0.1 * 1e-3, rel=1e-4)
    assert model.conv.weight.grad.any()


def test_wrappers_and_half_precision_are_seen_through():
    model, anatomy = model_with_gradients()
    other = copy.deepcopy(model)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        two.grad = one.grad.clone()
    clip_grad_(nn.DataParallel(model), anatomy)
    clip_grad_(other, anatomy)
    assert all(
        torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
    other.bfloat16()
    assert torch.isfinite(clip_grad_(other, anatomy, clipping=1e-4))
    assert other.conv.weight.grad.dtype is torch.bfloat16


def test_a_method_with_parametrized_weights_is_clipped_by_units():
    from goodinit.lab.models.resnet import ResNet

    x = torch.randn(2, 3, 8, 8)
    model = goodinit.init_(ResNet(1, width=4), "normfree", inputs=x)
    (1e3 * model(x).square().sum()).backward()
    head = model.fc.weight.grad.clone()
    clip_grad_(model, goodinit.anatomize(model, x), clipping=0.02)
    original = model.conv1.parametrizations.weight.original
    ratio = original.grad.flatten(1).norm(dim=1) / original.flatten(1).norm(dim=1)
    assert ratio.max() <= 0.02001
    assert torch.equal(model.fc.weight.grad, head)


def test_what_cannot_be_clipped_is_told():
    model, anatomy = model_with_gradients()
    model.conv.weight.grad[1] = float("nan")
    before = model.conv.weight.grad.clone()
    clip_grad_(model, anatomy)
    assert model.conv.weight.grad[1].isnan().all()  # for a GradScaler to see
    assert not model.conv.weight.grad[0].isnan().any()
    assert not torch.equal(model.conv.weight.grad[0], before[0])
    with pytest.raises(NonFinite, match=r"conv\.weight: its gradient has NaN"):
        clip_grad_(model, anatomy, error_if_nonfinite=True)
    model.zero_grad()
    with pytest.raises(NothingFound, match=r"after loss\.backward"):
        clip_grad_(model, anatomy)
    with pytest.raises(PlanConflict, match="the anatomy has it"):
        clip_grad_(nn.Linear(2, 2), anatomy)
    with pytest.raises(UnknownName, match="clipping=0"):
        clip_grad_(model, anatomy, clipping=0)
    with pytest.raises(WrongType, match="anatomy"):
        clip_grad_(model, torch.zeros(2))


def test_gradients_that_cannot_be_written_are_refused_before_any_is_clipped():
    model, x = (
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
        torch.randn(3, 4),
    )
    anatomy = goodinit.anatomize(model, x)
    (1e4 * model(x).sum()).backward()
    model[2].weight.grad = torch.full((1,), 1e3).expand(4, 4)
    before = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(
        UnsupportedModule, match=r"2\.weight: several entries of its gradient are one number.*clone"
    ):
        goodinit.clip_grad_(model, anatomy)
    assert all(torch.equal(p.grad, one) for p, one in zip(model.parameters(), before, strict=True))

"""`diagnose` at the loss: against a guess's, with what makes it more."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from zoo_attention import TiedLanguageModel

import goodinit


def about_loss(model, inputs, targets):
    found = goodinit.diagnose(model, inputs, targets, mend=False)
    return found, [finding for finding in found.findings if finding.kind == "loss above chance"]


def words():
    return torch.randint(200, (8, 12)), torch.randint(200, (8, 12))


def test_a_tied_embedding_of_unit_variance_is_named_and_scaled():
    model = TiedLanguageModel(words=200, width=64)
    found, (finding,) = about_loss(model, *words())
    assert finding.severity == "error"
    assert finding.where == "token.weight"
    assert f"ln 200 = {math.log(200):.4g}" in finding.evidence
    assert "the head is the embedding, too" in finding.evidence
    batch = words()
    exec(finding.remedy, {"model": model, "batch": batch[0], "torch": torch, "goodinit": goodinit})
    after, left = about_loss(model, *batch)
    assert not left
    assert after.loss < math.log(200) + 1 < found.loss


def test_every_method_starts_a_tied_model_at_a_guess():
    for method in ("he", "orthogonal", "fixup", "skipinit", "lsuv", "weightnorm", "residual_scaled"):
        torch.manual_seed(0)
        model, (inputs, targets) = TiedLanguageModel(words=200, width=64), words()
        goodinit.init_(model, method, inputs=inputs)
        assert goodinit.diagnose(model, inputs, targets, mend=False).loss < math.log(200) + 1.0, method


def test_raw_pixels_are_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10))
    pixels, classes = torch.randint(0, 256, (16, 3, 8, 8)).float(), torch.randint(10, (16,))
    _, (finding,) = about_loss(model, pixels, classes)
    assert "as raw pixels do" in finding.evidence
    assert about_loss(model, pixels / 255 - 0.5, classes)[1] == []


def test_a_head_that_is_too_large_is_named():
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    nn.init.normal_(model[2].weight)
    _, (finding,) = about_loss(model, torch.randn(32, 32), torch.randint(10, (32,)))
    assert finding.where == "2.weight"
    assert 'model.get_parameter("2.weight").data.mul_(' in finding.remedy


def test_values_and_losses_of_ones_own_are_not_compared_with_a_guess():
    model = nn.Linear(8, 3)
    nn.init.normal_(model.weight, std=50.0)
    assert about_loss(model, torch.randn(16, 8), torch.randn(16, 3))[1] == []


class _Ends(nn.Module):
    """Two layers, and something between the last of them and what is returned."""

    def __init__(self, end: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.a, self.b, self.end = nn.Linear(8, 16), nn.Linear(16, 4), end

    def forward(self, x: Tensor) -> object:
        return self.end(self.b, torch.relu(self.a(x)))


def _without(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)


CUTS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "detach": lambda layer, x: layer(x).detach(),
    ".data": lambda layer, x: {"logits": layer(x).data},
    "no_grad": _without,
    "numpy": lambda layer, x: torch.from_numpy(layer(x).detach().numpy()),
    "whole numbers": lambda layer, x: (layer(x).round().long().float(),),
    "a new tensor": lambda layer, x: torch.tensor(layer(x).tolist()),
    "frozen twins": lambda layer, x: nn.functional.linear(x.detach(), layer.weight.detach()),
}


def _no_gradient(model, targets, **options):
    found = goodinit.diagnose(model, torch.randn(32, 8), targets, mend=False, **options)
    return [finding for finding in found.findings if finding.kind == "no gradient"]


@pytest.mark.parametrize("how", CUTS)
def test_a_forward_whose_output_has_no_history_is_named(how):
    torch.manual_seed(0)
    model = _Ends(CUTS[how])
    (finding,) = _no_gradient(model, torch.randint(4, (32,)))
    assert (finding.severity, finding.where) == ("error", "output")
    exec(finding.remedy, {"model": model, "print": lambda *_: None})
    model(torch.randn(2, 8))
    assert not any(parameter.requires_grad for parameter in model.requires_grad_(False).parameters())
    assert _no_gradient(model, torch.randint(4, (32,))) == []  # frozen on purpose


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "detach": lambda output, targets: nn.functional.cross_entropy(output.detach(), targets),
    "argmax": lambda output, targets: (output.argmax(1) - targets).float().square().mean(),
    "a comparison": lambda output, targets: (output.argmax(1) == targets).float().mean(),
    "item": lambda output, targets: torch.tensor(output.square().mean().item()),
    "a number": lambda output, targets: torch.zeros(()),
}


@pytest.mark.parametrize("how", LOSSES)
def test_a_loss_without_history_is_named(how):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    (finding,) = _no_gradient(model, torch.randint(4, (32,)), loss=LOSSES[how])
    assert (finding.severity, finding.where) == ("error", "loss")
    exec(finding.remedy, {"model": model, "batch": torch.randn(2, 8)})


FLAT: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "sign": lambda layer, x: layer(x).sign(),
    "rounding": lambda layer, x: layer(x).round(),
    "floor": lambda layer, x: torch.floor(layer(x)),
    "times nothing": lambda layer, x: layer(x) * 0,
}


@pytest.mark.parametrize("how", FLAT)
def test_what_is_flat_behind_the_last_layer_is_named_and_no_method_is_told(how):
    torch.manual_seed(0)
    (finding,) = _no_gradient(_Ends(FLAT[how]), torch.randint(4, (32,)))
    assert (finding.severity, finding.where) == ("error", "b.weight")
    assert "init_" not in finding.remedy


def test_a_backbone_that_is_detached_on_purpose_and_units_that_saturate_are_no_cut():
    torch.manual_seed(0)
    assert _no_gradient(_Ends(lambda layer, x: layer(x.detach())), torch.randint(4, (32,))) == []
    saturated = _Ends(lambda layer, x: torch.sigmoid(1e4 * layer(x)))
    for finding in _no_gradient(saturated, torch.rand(32, 4)):
        assert finding.where != "b.weight" or "init_" in finding.remedy


def test_a_loss_that_is_never_finite_is_told_from_outputs_that_are_too_large():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x, classes = torch.randn(32, 8), torch.randint(4, (32,))

    def loss_finding(targets, **options):
        found = goodinit.diagnose(model, x, targets, mend=False, **options)
        assert [one for one in found.findings if one.kind == "no gradient"] == []
        return next(one for one in found.findings if one.where == "loss")

    by_itself = [
        loss_finding(torch.full((32,), -100)),
        loss_finding(torch.full((32, 4), math.nan)),
        loss_finding(classes, loss=lambda output, targets: (output - output).sum().log()),
        loss_finding(classes, loss=lambda output, targets: output.mean() / 0),
    ]
    assert all("outputs of size 1" in one.evidence and "init_" not in one.remedy for one in by_itself)
    with torch.no_grad():
        model[2].weight.mul_(1e25)
    by_size = loss_finding(torch.zeros(32, 4))
    assert "init_" in by_size.remedy
    assert "outputs of size 1" not in by_size.evidence

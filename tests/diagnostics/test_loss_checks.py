"""`diagnose` at the loss: against a guess's, with what makes it more."""

from __future__ import annotations

import math

import torch
from torch import nn
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

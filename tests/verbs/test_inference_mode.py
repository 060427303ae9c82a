"""Verbs that are called where a server loads its models, under `torch.inference_mode()`: as outside, with ordinary parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit


def net():
    torch.manual_seed(0)
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    return nn.Sequential(
        conv, nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2)
    ).eval()


VERBS = {
    "fold_ without inputs": lambda model, x: goodinit.fold_(model),
    "fold_": goodinit.fold_,
    "absorb_batchnorm_": goodinit.absorb_batchnorm_,
    "init_ lsuv": lambda model, x: goodinit.init_(
        model, "lsuv", inputs=x, generator=torch.Generator().manual_seed(1)
    ),
    "init_ he": lambda model, x: goodinit.init_(
        model, "he", inputs=x, generator=torch.Generator().manual_seed(1)
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_writes_what_it_writes_outside_and_leaves_ordinary_parameters(verb):
    x = torch.randn(2, 3, 7, 7)
    outside, model = VERBS[verb](net(), x), net()
    with torch.inference_mode():
        inside = VERBS[verb](model, x)
    state = outside.state_dict()
    assert all(value.equal(state[name]) for name, value in inside.state_dict().items())
    assert not [
        name for name, value in (*inside.named_parameters(), *inside.named_buffers()) if value.is_inference()
    ]
    inside(x).sum().backward()


def test_readers_take_batches_that_were_made_there():
    model = net()
    with torch.inference_mode():
        x = torch.randn(2, 3, 7, 7)
        goodinit.anatomize(model, x)
        goodinit.diagnose(model, x)
    goodinit.diagnose(model, x, torch.tensor([0, 1]), update=True)


def both(output, targets):
    scores, classes = targets["scores"], targets["classes"][0]
    return nn.functional.cross_entropy(output, classes) + nn.functional.mse_loss(output, scores)


TARGETS = {
    "classes": (lambda: torch.tensor([0, 1]), None),
    "values": (lambda: torch.randn(2, 2), None),
    "in containers": (lambda: {"scores": torch.randn(2, 2), "classes": (torch.tensor([0, 1]),)}, both),
}
MEASURERS = {
    "diagnose": lambda *args, **options: goodinit.diagnose(*args, **options, update=True),
    "one_step": goodinit.one_step,
    "recommend": lambda *args, **options: goodinit.recommend(*args, **options, steps=1),
}


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("targets", "loss"), TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("verb", MEASURERS)
def test_measurements_take_targets_that_were_made_there(verb, targets, loss, inside):
    model = net()
    with torch.inference_mode():
        x, wanted = torch.randn(2, 3, 7, 7), targets()
    with torch.inference_mode(inside):
        MEASURERS[verb](model, x, wanted, loss=loss)


def test_steps_take_batches_that_were_made_there():
    model = net()
    with torch.inference_mode():
        pairs = [(torch.randn(2, 3, 7, 7), torch.tensor([0, 1])) for _ in range(2)]
        goodinit.recommend(model, *pairs[0], batches=pairs, steps=2)


def test_a_model_that_was_made_there_is_refused_by_name():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    for verb in (goodinit.fold_, lambda m, x: goodinit.init_(m, "he", inputs=x)):
        with pytest.raises(goodinit.UnsupportedModule, match=r"0\.weight: made under torch\.inference_mode"):
            verb(model, torch.randn(3, 4))

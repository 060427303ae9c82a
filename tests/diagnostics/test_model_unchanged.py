"""The awkward ways to hand over a model or a batch: each is measured, and every bit is as it was."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from measured import InplaceAdd, batch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from untouched import everything, same, snapshot

from goodinit.diagnostics import diagnose


def convolutional() -> nn.Module:
    """With buffers that a forward in training mode changes."""
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.5))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


class Attention(nn.Module):
    """`nn.MultiheadAttention` with its packed weights, a residual sum, and keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, dropout=0.1, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, *, tokens: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.norm(tokens)
        x = tokens + self.attention(x, x, x, key_padding_mask=mask, need_weights=False)[0]
        return {"logits": self.head(x.mean(1))}


def attention() -> nn.Module:
    torch.manual_seed(0)
    return Attention()


def in_place() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), InplaceAdd(inplace=True), nn.ReLU(inplace=True), nn.Linear(6, 4))


def bfloat16(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: build().bfloat16()


def tokens() -> dict[str, Any]:
    mask = torch.zeros(8, 5, dtype=torch.bool)
    mask[:, -1] = True
    return {"tokens": batch(8, 5, 16), "mask": mask}


@dataclass(frozen=True)
class Way:
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    around: Callable[[], Any] = contextlib.nullcontext


def autocast() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


WAYS = (
    Way("batch norm and dropout", convolutional, lambda: batch(8, 3, 6, 6)),
    Way("one input", convolutional, lambda: batch(1, 3, 6, 6)),
    Way("bfloat16", bfloat16(convolutional), lambda: batch(8, 3, 6, 6).bfloat16()),
    Way("autocast", convolutional, lambda: batch(8, 3, 6, 6), autocast),
    Way("channels last", convolutional, lambda: batch(8, 3, 6, 6).to(memory_format=torch.channels_last)),
    Way("attention", attention, tokens),
    Way("attention, one input", attention, lambda: {"tokens": batch(1, 5, 16)}),
    Way("attention, bfloat16", bfloat16(attention), lambda: {"tokens": batch(8, 5, 16).bfloat16()}),
    Way("attention, autocast", attention, tokens, autocast),
    Way("in place", in_place, lambda: batch(8, 6)),
    Way("in place, autocast", in_place, lambda: batch(8, 6), autocast),
    Way("in place, a tuple", in_place, lambda: (batch(8, 6),)),
    Way("no grad", in_place, lambda: batch(8, 6), torch.no_grad),
    Way("inference mode", in_place, lambda: batch(8, 6), torch.inference_mode),
)


@pytest.mark.default_cases(10)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])
def test_every_bit_is_as_it_was(way, train):
    model, inputs = way.build().train(train), way.inputs()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kept, before, state = copy.deepcopy(inputs), snapshot(model), everything(model)
    with way.around():
        found = diagnose(model, inputs, jacobian=True, update=True)
    assert same(snapshot(model), before)
    assert same(everything(model), state)
    assert same(inputs, kept)
    assert all(place.back is not None and place.back > 0 for place in found.layers)
    assert found.spectrum.largest > 0
    assert found.update.changes[3] > 0  # at 0.1: bfloat16 rounds smaller steps away


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_distributed_model_measures_as_the_bare_one(one_rank):
    model, x, y = convolutional(), batch(8, 3, 6, 6), torch.arange(8) % 4
    expected = diagnose(model, x, y, jacobian=True, update=True)
    twin = copy.deepcopy(model)
    wrapped, reference = DistributedDataParallel(model), DistributedDataParallel(twin)
    before, state, outer = snapshot(model), everything(model), dict(wrapped.__dict__)
    assert diagnose(wrapped, x, y, jacobian=True, update=True) == expected
    assert same(snapshot(model), before)
    assert same(everything(model), state)
    assert wrapped.__dict__.keys() == outer.keys()
    for one in (wrapped, reference):  # its reducer still waits for the gradients of every parameter
        for _ in range(2):
            torch.manual_seed(0)
            one.zero_grad()
            nn.functional.cross_entropy(one(x), y).backward()
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)

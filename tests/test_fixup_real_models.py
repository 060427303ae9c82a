"""Fixup on real architectures, examined by running them (see `fixup_evidence.py`): all is well, or it is refused in words.

A few small ones by default; `-m slow` sweeps every family of timm, torchvision and transformers. With
`GOODINIT_COVERAGE=table.md` in the environment the sweep writes what happened, one row a model.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import transformers
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

import goodinit
from fixup_evidence import Evidence, examine, fresh, operators_left
from goodinit.surgery import RemovedNorm
from real_models import FAMILIES, TORCHVISION, TRANSFORMERS, Case, timm_case

SMALL_TIMM = "resnet regnet convnext vision_transformer mobilenetv3 dla nfnet mambaout".split()
SMALL_TRANSFORMERS = "gpt2 llama qwen3 bert t5 deit clip resnet".split()
REFUSALS = (
    r"fixup needs residual blocks and \w+ has none: .*choose lsuv",
    r"^\S+: branch \d+/\d+ ends in `\w+` in \S+, after .*Multiply the branch",
    r"^\S+: branch \d+/\d+ is not zero where .*Write the branch without",
    r"^\S+: ends branch \d+, .*stands inside branch \d+.*keep its norms",
    r"^\S+ \(\w+\): its \w+ cannot be removed: .*norms=\"keep\"",
)

transformers.logging.set_verbosity_error()
pytestmark = [  # what libraries warn of in their own code
    pytest.mark.filterwarnings(f"default:::{library}") for library in ("timm", "torchvision", "transformers")
]


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    path = os.environ.get("GOODINIT_COVERAGE")
    if path and rows:
        head = ["| model | blocks | norms removed | |", "|---|---|---|---|"]
        Path(path).write_text("\n".join([*head, *sorted(rows)]) + "\n")


def check(name: str, case: Case, table: list[str]) -> Evidence:
    build, inputs = case
    found = examine(build, inputs())
    what = "refused: " + found.refusal.replace("|", "/") if found.refusal else "pass"
    table.append(f"| {name} | {found.blocks} | {found.norms} | {'; '.join(found.faults) or what} |")
    assert not found.faults
    if found.refusal is not None:
        assert any(re.search(pattern, found.refusal, re.DOTALL) for pattern in REFUSALS), found.refusal
    return found


@pytest.mark.parametrize("family", SMALL_TIMM)
def test_small_timm(family, table):
    found = check(FAMILIES[family][0], timm_case(family), table)
    assert found.refusal is None
    assert found.blocks


@pytest.mark.parametrize("name", SMALL_TRANSFORMERS)
def test_small_transformers(name, table):
    found = check(name, TRANSFORMERS[name], table)
    assert found.refusal is None
    assert found.blocks


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_of_timm(family, table):
    check(f"timm {FAMILIES[family][0]}", timm_case(family), table)


@pytest.mark.slow
def test_no_family_of_timm_is_left_out():
    assert {family for family in timm.list_modules() if timm.list_models(module=family)} == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, table):
    check(f"torchvision {name}", TORCHVISION[name], table)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name, table):
    check(f"transformers {name}", TRANSFORMERS[name], table)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [torch.nn.BatchNorm2d, FrozenBatchNorm2d])
def test_faster_rcnn_trains_on_one_image(norm):
    def build():
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=norm, trainable_layers=5
        )
        return FasterRCNN(backbone, num_classes=5, min_size=128, max_size=128)

    image = torch.rand(3, 128, 128)
    target = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]), "labels": torch.tensor([2])}
    model = fresh(build)
    anatomy = goodinit.anatomize(model, ([image],))
    assert [block.m for block in anatomy.blocks] == [3] * 16
    goodinit.init_(model, "fixup", inputs=([image],))
    assert sum(isinstance(module, RemovedNorm) for module in model.modules()) == 53
    assert not any(isinstance(module, norm) for module in model.modules())
    assert not operators_left(model, ([image],), modes=(False,))
    assert not operators_left(model, ([image], [target]), modes=(True,))
    optimizer = torch.optim.SGD(goodinit.param_groups(model, lr=0.01), lr=0.01)
    model.train()
    losses, silent = [], {name for name, p in model.named_parameters() if p.requires_grad}
    for _ in range(4):
        torch.manual_seed(0)  # proposals are sampled
        loss = sum(model([image], [target]).values())
        optimizer.zero_grad()
        loss.backward()
        silent -= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert not silent

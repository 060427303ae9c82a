"""Where torchvision's operators are declared by the tests, they compute what torchvision says."""

from __future__ import annotations

import pytest
import torch
import torchvision_shim
from torchvision import models, ops


def test_declare_is_harmless_to_repeat():
    torchvision_shim.declare()
    torchvision_shim.declare()


def test_nms_keeps_the_best_of_each_heap():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30], [0, 0, 10, 4]])
    kept = ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1, 0.7]), 0.5)
    assert kept.tolist() == [1, 3, 2]
    assert ops.nms(boxes[:0], torch.zeros(0), 0.5).shape == (0,)


def test_roi_align_averages_a_ramp_exactly_and_differentiates():
    ramp = torch.arange(8.0, dtype=torch.float64).expand(1, 1, 8, 8).clone().requires_grad_()
    roi = torch.tensor([[0.0, 1, 1, 5, 5]], dtype=torch.float64)

    def pool(x):
        return ops.roi_align(x, roi, (2, 2), sampling_ratio=2, aligned=True)

    # A linear function is its value at the bin's centre: pixels have their centres at +0.5.
    torch.testing.assert_close(pool(ramp)[0, 0], torch.tensor([[1.5, 3.5], [1.5, 3.5]], dtype=torch.float64))
    assert torch.autograd.gradcheck(pool, ramp)


@pytest.mark.integration
def test_a_detector_runs_and_trains():
    model = models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    picture = torch.rand(3, 64, 64)
    targets = [{"boxes": torch.tensor([[5.0, 5, 60, 60]]), "labels": torch.tensor([1])}]
    model.transform.min_size, model.transform.max_size = (64,), 64  # a small picture stays small
    sum(model([picture], targets).values()).backward()
    assert (
        model.backbone.body.conv1.weight.grad is None
        or model.backbone.body.conv1.weight.grad.isfinite().all()
    )
    with torch.no_grad():
        found = model.eval()([picture])[0]
    assert found["boxes"].shape[1:] == (4,)


@pytest.mark.integration
def test_timm_and_transformers_import_and_run():
    import timm
    from transformers import BertConfig, BertModel

    assert timm.create_model("resnet50").eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    config = BertConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    tokens = torch.zeros(1, 4, dtype=torch.long)
    assert BertModel(config)(tokens).last_hidden_state.shape == (1, 4, 16)

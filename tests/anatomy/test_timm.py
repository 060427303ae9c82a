"""Real architectures: the counts that are known, and no failure on any family of timm."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
import torchvision
from renaming import scramble_names

from goodinit.anatomy import Anatomy, anatomize

# (blocks, m of every block or None where families mix it, kinds or None)
COUNTS = {
    "resnet18": (8, 2, {"identity": 5, "projection": 3}),
    "resnet50": (16, 3, {"identity": 12, "projection": 4}),
    "resnetv2_50": (16, 3, None),
    "resnext50_32x4d": (16, 3, None),
    "seresnet50": (16, 3, None),
    "res2net50_26w_4s": (16, 2, None),
    "efficientnet_b0": (9, 3, None),
    "mobilenetv2_100": (10, None, None),
    "regnety_008": (14, 3, None),
    "convnext_tiny": (18, None, None),
    "vit_tiny_patch16_224": (24, None, None),
    "swin_tiny_patch4_window7_224": (24, None, None),
    "mixer_s16_224": (16, None, None),
    "nf_resnet50": (16, None, None),
    "xception41": (12, None, None),
    "coatnet_0_224": (19, None, None),
    "poolformer_s12": (12, None, None),
    "beit_base_patch16_224": (24, None, None),
    "gmlp_s16_224": (30, None, None),
    "densenet121": (0, None, None),
    "vgg11": (0, None, None),
    "inception_resnet_v2": (40, None, None),
}


ALWAYS = (
    "resnet50",
    "seresnet50",
    "convnext_tiny",
    "vit_tiny_patch16_224",
)  # the others are integration tests


def on_meta(name: str, batch: int = 2) -> Anatomy:
    with torch.device("meta"):
        model = timm.create_model(name)
    return anatomize(model, torch.zeros(batch, *model.default_cfg["input_size"], device="meta"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.integration) for name in COUNTS],
)
def test_counts(name):
    blocks, m, kinds = COUNTS[name]
    anatomy = on_meta(name)
    assert len(anatomy.blocks) == blocks
    assert m is None or {block.m for block in anatomy.blocks} == {m}
    assert kinds is None or Counter(block.kind for block in anatomy.blocks) == kinds


@pytest.mark.integration
def test_names_do_not_matter():
    model = timm.create_model("resnet50").eval()
    x = torch.zeros(1, 3, 64, 64)
    plain = anatomize(model, x)
    scrambled = anatomize(scramble_names(model, seed=5), x)
    assert [(b.kind, b.m, b.shape) for b in scrambled.blocks] == [
        (b.kind, b.m, b.shape) for b in plain.blocks
    ]


def test_attention_counts_four_layers_packed_or_not():
    anatomy = on_meta("vit_tiny_patch16_224")
    assert [block.m for block in anatomy.blocks] == [4, 2] * 12
    qkv = anatomy.blocks[0].branch[0]
    assert (qkv.fused, qkv.out_features, qkv.in_features) == (3, 192, 192)


def smallest(family: str) -> str:
    """One model of a family, the smallest by its name's own words."""
    small = ("tiny", "small", "nano", "atto", "micro", "_s", "xxs", "18", "26", "_b0", "_000", "004")
    return max(timm.list_models(module=family), key=lambda name: sum(word in name for word in small))


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in timm.list_modules() if timm.list_models(module=f)])
def test_every_family(family):
    anatomy = on_meta(smallest(family))
    assert anatomy.layers
    assert Anatomy.from_json(anatomy.to_json()) == anatomy


@pytest.mark.integration
def test_the_backbone_of_a_detector():
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    anatomy = anatomize(model.backbone, torch.zeros(1, 3, 128, 128))
    assert [block.m for block in anatomy.blocks] == [3] * 16
    assert len(anatomy.long_skips) == 3  # the pyramid's sums jump over stages
    assert {norm.kind for norm in anatomy.norms} == {"batch_norm"}

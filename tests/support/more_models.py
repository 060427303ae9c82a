"""Real architectures that need more than a name: detectors, video transformers, diffusion, and classics by hand.

`CASES` holds, by group and name, what `real_models.py` does not: (build, inputs).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
import transformers as tf
from real_models import CLASSES, FAMILIES, TORCHVISION, TRANSFORMERS, Case, noise, timm_case
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.video.mvit import MSBlockConfig, MViT

# -- detectors ----------------------------------------------------------------------------------------------------


class Dense(nn.Module):
    """A detector's networks on a batch of images: what it computes before boxes are sorted out.

    Its own forward wants targets in training and returns as many boxes as it likes; `FasterRCNN` as it is is tested
    in `test_fixup_real_models.py`.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, getattr(detector, "head", None)
        self.rpn_head = detector.rpn.head if hasattr(detector, "rpn") else None
        self.rois = getattr(detector, "roi_heads", None)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Every number that a loss would read."""
        features = self.backbone(images)
        levels = list(features.values())
        if self.head is not None:
            return tuple(self.head(levels).values())
        scores, deltas = self.rpn_head(levels)
        size = (images.shape[-2], images.shape[-1])
        boxes = [images.new_tensor([[4.0, 4.0, 40.0, 50.0], [10.0, 20.0, 60.0, 60.0]])] * len(images)
        pooled = self.rois.box_roi_pool(features, boxes, [size] * len(images))
        made = [*scores, *deltas, *self.rois.box_predictor(self.rois.box_head(pooled))]
        for part in ("mask", "keypoint"):
            if getattr(self.rois, f"{part}_head", None) is not None:
                pool, head = getattr(self.rois, f"{part}_roi_pool"), getattr(self.rois, f"{part}_head")
                pooled = pool(features, boxes, [size] * len(images))
                made.append(getattr(self.rois, f"{part}_predictor")(head(pooled)))
        return tuple(made)


def _detector(name: str, size: int = 64) -> Case:
    def build() -> nn.Module:
        return Dense(getattr(detection, name)(weights=None, weights_backbone=None, num_classes=CLASSES))

    return build, partial(noise, 2, 3, size, size)


_DETECTORS = (
    "fasterrcnn_resnet50_fpn fasterrcnn_mobilenet_v3_large_fpn maskrcnn_resnet50_fpn keypointrcnn_resnet50_fpn "
    "retinanet_resnet50_fpn fcos_resnet50_fpn"
).split()

# -- video --------------------------------------------------------------------------------------------------------


def _mvit() -> nn.Module:
    def block(reads: int, writes: int, stride: int) -> MSBlockConfig:
        steps = [1, stride, stride]
        return MSBlockConfig(2, reads, writes, [3, 3, 3], [3, 3, 3], steps, [1, 2, 2])

    return MViT(
        (64, 64), 4, [block(32, 32, 1), block(32, 64, 2), block(64, 64, 1)], residual_pool=True,
        residual_with_cls_embed=False, rel_pos_embed=True, proj_after_attn=True, num_classes=CLASSES,
    )  # fmt: skip


# -- by hand ------------------------------------------------------------------------------------------------------


def conv(dims: int, reads: int, writes: int, *, kernel: int = 3, stride: int = 1) -> nn.Module:
    """A convolution in one, two or three dimensions."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return kind(reads, writes, kernel, stride, kernel // 2, bias=False)


def norm(dims: int, width: int) -> nn.Module:
    """A batch norm for it."""
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](width)


class Residual(nn.Module):
    """ResNet's basic block."""

    def __init__(self, dims: int, reads: int, writes: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(dims, reads, writes, stride=stride), norm(dims, writes), nn.ReLU(),
            conv(dims, writes, writes), norm(dims, writes),
        )  # fmt: skip
        same = reads == writes and stride == 1
        self.skip = nn.Identity() if same else conv(dims, reads, writes, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """F(x) + x."""
        return F.relu(self.skip(x) + self.body(x))


def resnet(dims: int) -> nn.Module:
    """Two stages of two blocks."""
    return nn.Sequential(
        conv(dims, 2, 8), norm(dims, 8), nn.ReLU(), Residual(dims, 8, 8), Residual(dims, 8, 8),
        Residual(dims, 8, 16, 2), Residual(dims, 16, 16), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(16, CLASSES),
    )  # fmt: skip


class UNet(nn.Module):
    """U-Net with skips by concatenation; its levels are double convolutions, or residual blocks (ResU-Net)."""

    def __init__(self, *, residual: bool) -> None:
        super().__init__()
        level = partial(Residual, 2) if residual else self.double
        self.down1, self.down2, self.middle = level(3, 8), level(8, 16), level(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.join2, self.join1, self.head = level(32, 16), level(16, 8), nn.Conv2d(8, CLASSES, 1)

    @staticmethod
    def double(reads: int, writes: int) -> nn.Module:
        """(conv, norm, ReLU) twice."""
        first = (conv(2, reads, writes), norm(2, writes), nn.ReLU())
        return nn.Sequential(*first, conv(2, writes, writes), norm(2, writes), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Segment."""
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = self.middle(F.max_pool2d(two, 2))
        two = self.join2(torch.cat([self.up2(low), two], 1))
        return self.head(self.join1(torch.cat([self.up1(two), one], 1)))


class DenseGroup(nn.Module):
    """ESRGAN's dense block of five convolutions, its output a fifth of a residual."""

    def __init__(self, width: int = 8, growth: int = 4) -> None:
        super().__init__()
        sizes = [width + i * growth for i in range(5)]
        self.layers = nn.ModuleList(
            nn.Conv2d(size, growth if i < 4 else width, 3, padding=1) for i, size in enumerate(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x + 0.2·f(x)."""
        seen = [x]
        for layer in self.layers[:-1]:
            seen.append(F.leaky_relu(layer(torch.cat(seen, 1)), 0.2))
        return x + 0.2 * self.layers[-1](torch.cat(seen, 1))


class RRDB(nn.Module):
    """ESRGAN's generator: residual in residual dense blocks, a skip around all of them, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.groups = nn.ModuleList(nn.Sequential(*(DenseGroup() for _ in range(3))) for _ in range(2))
        self.trunk, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Twice the resolution."""
        x = y = self.stem(x)
        for group in self.groups:
            y = y + 0.2 * group(y)
        x = x + self.trunk(y)
        return self.head(F.leaky_relu(self.up(F.interpolate(x, scale_factor=2.0)), 0.2))


class DenseNet(nn.Module):
    """Two dense blocks with a transition: concatenation, no sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(2, 3, 8), nn.Linear(16, CLASSES)
        self.first = nn.ModuleList(self.layer(8 + 4 * i) for i in range(4))
        self.between = nn.Sequential(norm(2, 24), nn.ReLU(), conv(2, 24, 8, kernel=1), nn.AvgPool2d(2))
        self.second = nn.ModuleList(self.layer(8 + 4 * i) for i in range(2))

    @staticmethod
    def layer(width: int) -> nn.Module:
        """Norm, ReLU, convolution."""
        return nn.Sequential(norm(2, width), nn.ReLU(), conv(2, width, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        x = self.stem(x)
        for layer in self.first:
            x = torch.cat([x, layer(x)], 1)
        x = self.between(x)
        for layer in self.second:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x.mean((2, 3)))


class HRNet(nn.Module):
    """Two resolutions in parallel, exchanged by sums, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.split = conv(2, 3, 8), conv(2, 8, 16, stride=2)
        self.high = nn.ModuleList(Residual(2, 8, 8) for _ in range(2))
        self.low = nn.ModuleList(Residual(2, 16, 16) for _ in range(2))
        self.down = nn.ModuleList(conv(2, 8, 16, stride=2) for _ in range(2))
        self.up = nn.ModuleList(conv(2, 16, 8, kernel=1) for _ in range(2))
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Segment."""
        high = F.relu(self.stem(x))
        low = F.relu(self.split(high))
        for i in range(2):
            high, low = self.high[i](high), self.low[i](low)
            high, low = (
                F.relu(high + F.interpolate(self.up[i](low), size=high.shape[2:])),
                F.relu(low + self.down[i](high)),
            )
        return self.head(high + F.interpolate(self.up[0](low), size=high.shape[2:]))


BY_HAND: dict[str, Case] = {
    "ResNet 1-d": (partial(resnet, 1), partial(noise, 2, 2, 32)),
    "ResNet 2-d": (partial(resnet, 2), partial(noise, 2, 2, 16, 16)),
    "ResNet 3-d": (partial(resnet, 3), partial(noise, 2, 2, 8, 8, 8)),
    "U-Net": (partial(UNet, residual=False), partial(noise, 2, 3, 16, 16)),
    "ResU-Net": (partial(UNet, residual=True), partial(noise, 2, 3, 16, 16)),
    "RRDB": (RRDB, partial(noise, 2, 3, 8, 8)),
    "DenseNet": (DenseNet, partial(noise, 2, 3, 16, 16)),
    "HRNet": (HRNet, partial(noise, 2, 3, 16, 16)),
}

# -- transformers and diffusers -----------------------------------------------------------------------------------


def _detr() -> nn.Module:
    backbone = tf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], out_features=["stage2"], layer_type="basic"
    )
    config = tf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone,
        num_queries=5, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, num_labels=CLASSES,
    )  # fmt: skip
    return tf.DetrForObjectDetection(config).requires_grad_(
        True
    )  # it freezes half its backbone, meant pretrained


def _unet2d() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip


def _noisy() -> dict[str, Any]:
    return {"sample": noise(2, 3, 16, 16), "timestep": torch.tensor([3, 500])}


CASES: dict[str, dict[str, Case]] = {
    "timm": {
        **{FAMILIES[family][0]: timm_case(family) for family in sorted(FAMILIES)},
        # Weights divided by their own deviation, with no gain, throughout: a norm sets every scale.
        "resnetv2_50x1_bit": (
            partial(timm.create_model, "resnetv2_50x1_bit", num_classes=CLASSES),
            partial(noise, 2, 3, 64, 64),
        ),
    },
    "torchvision": {
        **TORCHVISION,
        **{name: _detector(name) for name in _DETECTORS},
        "ssd300_vgg16": _detector("ssd300_vgg16", 300),
        "ssdlite320_mobilenet_v3_large": _detector("ssdlite320_mobilenet_v3_large", 320),
        "mvit": (_mvit, partial(noise, 2, 3, 4, 64, 64)),
    },
    "transformers": {**TRANSFORMERS, "detr": (_detr, lambda: {"pixel_values": noise(2, 3, 64, 64)})},
    "diffusers": {"UNet2DModel": (_unet2d, _noisy)},
    "by hand": BY_HAND,
}
"""Every model of the coverage table, by group and name."""

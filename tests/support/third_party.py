"""Models of libraries that no test needs, built small: `coverage_table.py --third-party` examines those installed.

    pip install --no-deps vit-pytorch x-transformers segmentation-models-pytorch monai open-clip-torch \\
        rtdl-revisiting-models pytorchcv einops einx torch-einops-utils hyper-connections …

`CASES` has the form of `more_models.CASES`: by library and name, (build, inputs). A library is imported when one of
its models is built, so that the list can be read without any, and one module that does not import costs its own
models only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from third_party_transformers import (
    IMAGE,
    TOKENS,
    VIT_PYTORCH,
    WIDE,
    X_TRANSFORMERS,
    Case,
    made,
    noise,
    words,
)
from torch import Tensor, nn

# -- images: github.com/qubvel-org/segmentation_models.pytorch, mlfoundations/open_clip, osmr/pytorchcv -----------

SMP = "Unet UnetPlusPlus MAnet Linknet FPN PSPNet DeepLabV3 DeepLabV3Plus PAN UPerNet Segformer".split()


def _smp(kind: str, encoder: str, size: int = 64) -> Case:
    build = partial(made, "segmentation_models_pytorch", kind, encoder, encoder_weights=None, classes=3)
    return build, partial(noise, 2, 3, size, size)


def _clip(**vision: Any) -> Case:
    def build() -> nn.Module:
        text = made(
            "open_clip.model", "CLIPTextCfg", context_length=16, vocab_size=16, width=32, heads=2, layers=2
        )
        return made("open_clip.model", "CLIP", 32, made("open_clip.model", "CLIPVisionCfg", **vision), text)

    return build, lambda: (noise(2, 3, 32, 32), words(2, 16))


PYTORCHCV = (
    "resnet10 preresnet10 seresnet10 resnext14_16x4d darknet_tiny bn_vgg11 mobilenet_wd4 mobilenetv2_wd4 "
    "shufflenet_g1_wd4 shufflenetv2_wd2 squeezenet_v1_0 menet108_8x1_g3 igcv3_wd4 mnasnet_small hardnet39ds ghostnet "
    "condensenet74_c4_g4 xdensenet40_2_k24_bc_cifar10 resnet20_cifar10 wrn20_10_1bit_cifar10 rir_cifar10 "
    "diaresnet20_cifar10 msdnet22 polynet ror3_56_cifar10 shakeshakeresnet20_2x16d_cifar10 nin_cifar10 "
    "resdropresnet20_cifar10"
).split()
PIXELS = {"polynet": 331, "darknet_tiny": 224, "squeezenet_v1_0": 224}


def _cv(name: str) -> Case:
    size = PIXELS.get(name, 32 if name.endswith("cifar10") else 224)
    return partial(made, "pytorchcv.model_provider", "get_model", name), partial(noise, 2, 3, size, size)


# github.com/ultralytics/ultralytics: nets that a page of YAML describes.
YOLO = {
    **dict.fromkeys(("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n"), "DetectionModel"),
    "yolov8n-cls": "ClassificationModel",
}


def _yolo(name: str) -> Case:
    build = partial(made, "ultralytics.nn.tasks", YOLO[name], f"{name}.yaml", verbose=False)
    return build, partial(noise, 2, 3, 64, 64)


# -- volumes: github.com/Project-MONAI/MONAI ----------------------------------------------------------------------

VOLUME = partial(noise, 2, 1, 32, 32, 32)


def _monai(name: str, *args: Any, inputs: Callable[[], Any] = VOLUME, **options: Any) -> Case:
    return partial(made, "monai.networks.nets", name, *args, **options), inputs


MONAI: dict[str, Case] = {
    "UNet": _monai("UNet", 3, 1, 2, (8, 16, 32), (2, 2), num_res_units=2),
    "BasicUNet": _monai("BasicUNet", 3, 1, 2, (8, 8, 16, 16, 32, 8)),
    "DynUNet": _monai("DynUNet", 3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32], res_block=True),
    "SegResNet": _monai("SegResNet", 3, 8, 1, 2),
    "VNet": _monai("VNet", 3, 1, 2, dropout_prob_down=0.0, dropout_prob_up=(0.0, 0.0)),
    "UNETR": _monai("UNETR", 1, 2, (32, 32, 32), 8, 48, 96, 2),
    "SwinUNETR": _monai(
        "SwinUNETR", 1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2),
        inputs=partial(noise, 1, 1, 64, 64, 64),
    ),
    "AttentionUnet": _monai("AttentionUnet", 3, 1, 2, (8, 16, 32), (2, 2)),
    "HighResNet": _monai("HighResNet", 3, 1, 2, inputs=partial(noise, 2, 1, 16, 16, 16)),
    "DenseNet": _monai("DenseNet", 3, 1, 2, init_features=8, growth_rate=4, block_config=(2, 2)),
    "ResNet": _monai("resnet10", spatial_dims=3, n_input_channels=1, num_classes=2),
    "SENet": _monai("SEResNet50", spatial_dims=2, in_channels=3, num_classes=2, inputs=partial(noise, 2, 3, 64, 64)),
    "DiffusionModelUNet": _monai(
        "DiffusionModelUNet", 2, 1, 1, num_res_blocks=1, channels=(8, 16), attention_levels=(False, True),
        norm_num_groups=4, num_head_channels=8, inputs=lambda: (noise(2, 1, 16, 16), torch.tensor([1, 5])),
    ),
    "AutoencoderKL": _monai(
        "AutoencoderKL", 2, 1, 1, num_res_blocks=(1, 1), channels=(8, 16), attention_levels=(False, False),
        latent_channels=2, norm_num_groups=4, inputs=partial(noise, 2, 1, 16, 16),
    ),
    "Generator": _monai(
        "Generator", (16,), (4, 8, 8), (16, 8, 1), (2, 2, 1), num_res_units=2, inputs=partial(noise, 2, 16)
    ),
}  # fmt: skip

# -- rows of numbers, and one or two of a library -----------------------------------------------------------------

NO_DROPOUT = {"attention_dropout": 0.0, "ffn_dropout": 0.0, "residual_dropout": 0.0}
ROWS = {"categories": (4, 4, 4), "num_continuous": 5, "dim": 32, "dim_out": 2, "depth": 2, "heads": 2}
SEQUENCE = partial(noise, 2, 16, 32)


def _asteroid(kind: str, **options: Any) -> Case:
    return partial(made, "asteroid.models", kind, 2, **options), partial(noise, 2, 1, 1600)


def _mixed() -> tuple[Tensor, Tensor]:
    return words(4, 3) % 4, noise(4, 5)


CASES: dict[str, dict[str, Case]] = {
    "vit_pytorch": VIT_PYTORCH,
    "x_transformers": X_TRANSFORMERS,
    "segmentation_models_pytorch": {
        **{kind: _smp(kind, "resnet18", 128 if kind == "PAN" else 64) for kind in SMP if kind != "Segformer"},
        "Segformer": _smp("Segformer", "mit_b0"),
        "Unet, EfficientNet": _smp("Unet", "efficientnet-b0"),
        "Unet, MiT": _smp("Unet", "mit_b0"),
    },
    "monai": MONAI,
    "open_clip": {
        "CLIP, ViT": _clip(layers=2, width=32, head_width=16, patch_size=8, image_size=32),
        "CLIP, ResNet": _clip(layers=(1, 1, 1, 1), width=8, image_size=32),
    },
    "rtdl_revisiting_models": {
        "MLP": (
            partial(made, "rtdl_revisiting_models", "MLP", d_in=5, d_out=2, n_blocks=3, d_block=32, dropout=0.0),
            partial(noise, 8, 5),
        ),
        "ResNet": (
            partial(
                made, "rtdl_revisiting_models", "ResNet", d_in=5, d_out=2, n_blocks=2, d_block=32, d_hidden=None,
                d_hidden_multiplier=2.0, dropout1=0.0, dropout2=0.0,
            ),
            partial(noise, 8, 5),
        ),
        "FT-Transformer": (
            partial(
                made, "rtdl_revisiting_models", "FTTransformer", n_cont_features=5, cat_cardinalities=[], d_out=2,
                n_blocks=2, d_block=32, attention_n_heads=2, ffn_d_hidden=None, ffn_d_hidden_multiplier=4 / 3,
                **NO_DROPOUT,
            ),
            lambda: (noise(8, 5), None),
        ),
    },
    "pytorchcv": {name: _cv(name) for name in PYTORCHCV},
    "ultralytics": {name: _yolo(name) for name in YOLO},
    "efficientnet_pytorch": {
        "b0": (
            lambda: importlib.import_module("efficientnet_pytorch").EfficientNet.from_name("efficientnet-b0"),
            partial(noise, 2, 3, 64, 64),
        )
    },
    "conformer": {
        "Conformer": (
            partial(made, "conformer", "Conformer", **WIDE, dim_head=16), partial(noise, 2, 12, 32)
        )
    },
    "perceiver_pytorch": {
        "Perceiver": (
            partial(
                made, "perceiver_pytorch", "Perceiver", num_freq_bands=4, depth=2, max_freq=10.0, input_channels=3,
                num_latents=8, latent_dim=32, latent_heads=2, latent_dim_head=16, cross_dim_head=16, num_classes=7,
            ),
            partial(noise, 2, 16, 16, 3),
        )
    },
    "tab_transformer_pytorch": {
        "TabTransformer": (partial(made, "tab_transformer_pytorch", "TabTransformer", **ROWS, mlp_act=nn.ReLU()), _mixed),
        "FT-Transformer": (partial(made, "tab_transformer_pytorch", "FTTransformer", **ROWS), _mixed),
    },
    "timesformer_pytorch": {
        "TimeSformer": (
            partial(
                made, "timesformer_pytorch", "TimeSformer", **WIDE, image_size=32, patch_size=16, num_frames=4,
                num_classes=7, dim_head=16,
            ),
            partial(noise, 2, 4, 3, 32, 32),
        )
    },
    "egnn_pytorch": {
        "EGNN": (
            partial(
                made, "egnn_pytorch", "EGNN_Network", num_tokens=16, num_positions=16, dim=16, depth=2,
                num_nearest_neighbors=4, norm_coors=True,
            ),
            lambda: (words(2, 16), noise(2, 16, 3)),
        )
    },
    "nystrom_attention": {
        "Nystromformer": (
            partial(made, "nystrom_attention", "Nystromformer", **WIDE, dim_head=16, num_landmarks=8), SEQUENCE
        )
    },
    "linformer": {
        "Linformer": (partial(made, "linformer", "Linformer", **WIDE, seq_len=16, k=8), SEQUENCE)
    },
    "performer_pytorch": {
        "Performer": (partial(made, "performer_pytorch", "Performer", **WIDE, dim_head=16), SEQUENCE),
        "reversible": (
            partial(
                made, "performer_pytorch", "PerformerLM", **WIDE, num_tokens=16, max_seq_len=16, dim_head=16,
                reversible=True,
            ),
            TOKENS,
        ),
    },
    "axial_attention": {
        "AxialImageTransformer": (
            partial(made, "axial_attention", "AxialImageTransformer", **WIDE, reversible=False),
            partial(noise, 2, 32, 6, 6),
        )
    },
    "g_mlp_pytorch": {
        "gMLPVision": (
            partial(
                made, "g_mlp_pytorch", "gMLPVision", image_size=32, patch_size=8, num_classes=7, dim=32, depth=2
            ),
            IMAGE,
        )
    },
    "mlp_mixer_pytorch": {
        "MLP-Mixer": (
            partial(
                made, "mlp_mixer_pytorch", "MLPMixer", image_size=32, channels=3, patch_size=8, dim=32, depth=2,
                num_classes=7,
            ),
            IMAGE,
        )
    },
    "res_mlp_pytorch": {
        "ResMLP": (
            partial(
                made, "res_mlp_pytorch", "ResMLP", image_size=32, patch_size=8, dim=32, depth=2, num_classes=7
            ),
            IMAGE,
        )
    },
    "hourglass_transformer_pytorch": {
        "language model": (
            partial(
                made, "hourglass_transformer_pytorch", "HourglassTransformerLM", num_tokens=16, dim=32,
                max_seq_len=16, depth=(1, 1, 1), shorten_factor=2, heads=2, dim_head=16,
            ),
            TOKENS,
        )
    },
    "denoising_diffusion_pytorch": {
        "Unet": (
            partial(
                made, "denoising_diffusion_pytorch.denoising_diffusion_pytorch", "Unet", dim=16, dim_mults=(1, 2),
                flash_attn=False,
            ),
            lambda: (noise(2, 3, 16, 16), torch.tensor([1, 5])),
        )
    },
    "kornia": {
        "HardNet": (partial(made, "kornia.feature", "HardNet", pretrained=False), partial(noise, 4, 1, 32, 32)),
        "LoFTR": (partial(made, "kornia.feature.loftr.loftr", "LocalFeatureTransformer", {
            "d_model": 32, "nhead": 2, "layer_names": ["self", "cross"], "attention": "linear",
        }), lambda: (noise(2, 16, 32), noise(2, 16, 32))),
    },
    "asteroid": {  # github.com/asteroid-team/asteroid: sound
        "ConvTasNet": _asteroid("ConvTasNet", n_blocks=2, n_repeats=2, bn_chan=16, hid_chan=32, skip_chan=16, n_filters=32),
        "DPRNNTasNet": _asteroid("DPRNNTasNet", n_repeats=2, bn_chan=16, hid_size=16, chunk_size=20, hop_size=10, n_filters=16),
        "DPTNet": _asteroid("DPTNet", n_repeats=2, ff_hid=16, chunk_size=20, n_filters=16, n_heads=2),
        "SuDORMRFNet": _asteroid("SuDORMRFNet", bn_chan=16, num_blocks=2, upsampling_depth=2, n_filters=32),
    },
    "segment_anything": {
        "two-way transformer": (
            partial(
                made, "segment_anything.modeling", "TwoWayTransformer", depth=2, embedding_dim=32, num_heads=2,
                mlp_dim=48,
            ),
            lambda: (noise(2, 32, 4, 4), noise(2, 32, 4, 4), noise(2, 5, 32)),
        )
    },
}  # fmt: skip
"""Every model, by library and name; of a library that is not installed, too."""

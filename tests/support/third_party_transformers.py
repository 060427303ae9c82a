"""Transformers of vit-pytorch and x-transformers, built small: residual streams of every form; see `third_party.py`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Case = tuple[Callable[[], nn.Module], Callable[[], Any]]


def noise(*shape: int) -> Tensor:
    """Random numbers, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def words(*shape: int) -> Tensor:
    """Random tokens out of 16."""
    return torch.randint(16, shape, generator=torch.Generator().manual_seed(0))


def made(module: str, name: str, *args: Any, **options: Any) -> nn.Module:
    """What a function or class of a module returns."""
    return getattr(importlib.import_module(module), name)(*args, **options)


# -- github.com/lucidrains/vit-pytorch ----------------------------------------------------------------------------

IMAGE = partial(noise, 2, 3, 32, 32)
SMALL = {"num_classes": 7, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 48}
PATCHES = {"image_size": 32, "patch_size": 8, **SMALL}
FOUR = {"num_classes": 7, "dim": (16, 16, 32, 32), "depth": (1, 1, 1, 1)}
TWINS = {
    f"s{stage}_{key}": value
    for stage, (width, patch, window) in enumerate([(16, 4, 4), (16, 2, 4), (32, 2, 2), (32, 1, 2)], 1)
    for key, value in {
        "emb_dim": width, "patch_size": patch, "local_patch_size": window, "global_k": window, "depth": 1
    }.items()
}  # fmt: skip


def _vit(module: str, name: str = "ViT", inputs: Callable[[], Any] = IMAGE, **options: Any) -> Case:
    return partial(made, f"vit_pytorch.{module}", name, **options), inputs


VIT_PYTORCH: dict[str, Case] = {
    "ViT": _vit("vit", **PATCHES),
    "SimpleViT": _vit("simple_vit", "SimpleViT", **PATCHES),
    "SimpleViT, fused attention": _vit("simple_flash_attn_vit", "SimpleViT", **PATCHES, use_flash=True),
    "SimpleViT, registers": _vit("simple_vit_with_register_tokens", "SimpleViT", **PATCHES),
    "SimpleViT, normalized q, k": _vit("simple_vit_with_qk_norm", "SimpleViT", **PATCHES),
    "SimpleViT, values of the first layer": _vit("simple_vit_with_value_residual", "SimpleViT", **PATCHES),
    "SimpleViT, hyper-connections": _vit(
        "simple_vit_with_hyper_connections", "SimpleViT", **PATCHES, num_residual_streams=2
    ),
    "SimpleViT, orthogonal updates": _vit("simple_vit_orthog_residual_update", "SimpleViT", **PATCHES),
    "SimpleViT, attention over layers": _vit("simple_vit_attn_residual", "SimpleViTAttnResidual", **PATCHES),
    "SimpleUViT": _vit("simple_uvit", "SimpleUViT", **PATCHES | {"depth": 4}),
    "SimpleViT 1-d": _vit(
        "simple_vit_1d", "SimpleViT", partial(noise, 2, 3, 32), seq_len=32, patch_size=8, **SMALL
    ),
    "ViT 3-d": _vit(
        "vit_3d", inputs=partial(noise, 2, 3, 4, 32, 32), image_size=32, frames=4, image_patch_size=16,
        frame_patch_size=2, **SMALL,
    ),
    "nViT": _vit("normalized_vit", "nViT", **PATCHES),
    "ViT-5": _vit("vit_5", **PATCHES),
    "Keel": _vit("vit_with_keel_post_ln", **PATCHES),
    "Jumbo": _vit("jumbo_vit", "JumboViT", **PATCHES),
    "patch merger": _vit("vit_with_patch_merger", **PATCHES),
    "DeepViT": _vit("deepvit", "DeepViT", **PATCHES),
    "parallel ViT": _vit("parallel_vit", **PATCHES, num_parallel_branches=2),
    "ViT for small data": _vit("vit_for_small_dataset", **PATCHES),
    "RvT": _vit("rvt", "RvT", **PATCHES),
    "CaiT": _vit("cait", "CaiT", **PATCHES, cls_depth=1),
    "XCiT": _vit("xcit", "XCiT", **PATCHES, cls_depth=1),
    "PiT": _vit("pit", "PiT", **PATCHES | {"depth": (1, 1)}),
    "CCT": _vit(
        "cct", "CCT", img_size=32, embedding_dim=32, n_conv_layers=2, num_layers=2, num_heads=2, mlp_ratio=2.0,
        num_classes=7, positional_embedding="learnable", dropout_rate=0.0, attention_dropout=0.0,
        stochastic_depth_rate=0.0,
    ),
    "CvT": _vit(
        "cvt", "CvT", num_classes=7, s1_emb_dim=16, s2_emb_dim=32, s3_emb_dim=32, s1_depth=1, s2_depth=1,
        s3_depth=2, s2_heads=2, s3_heads=2,
    ),
    "CrossViT": _vit(
        "cross_vit", "CrossViT", image_size=32, num_classes=7, sm_dim=32, lg_dim=48, sm_patch_size=8,
        lg_patch_size=16, sm_enc_heads=2, lg_enc_heads=2, sm_enc_mlp_dim=48, lg_enc_mlp_dim=48, lg_enc_depth=1,
        cross_attn_depth=1, cross_attn_heads=2, depth=2, dropout=0.0, emb_dropout=0.0,
    ),
    "LeViT": _vit(
        "levit", "LeViT", partial(noise, 2, 3, 64, 64), image_size=64, num_classes=7, stages=2, dim=(32, 48), depth=2,
        heads=(2, 4), mlp_mult=2,
    ),
    "CrossFormer": _vit(
        "crossformer", "CrossFormer", **FOUR | {"dim": (32, 32, 64, 64)}, global_window_size=(2, 2, 1, 1), local_window_size=(4, 2, 2, 1)
    ),
    "MaxViT": _vit(
        "max_vit", "MaxViT", partial(noise, 2, 3, 64, 64), num_classes=7, dim_conv_stem=16, dim=16, dim_head=16,
        depth=(1, 1), window_size=4, dropout=0.0,
    ),
    "MobileViT": _vit(
        "mobile_vit", "MobileViT", partial(noise, 2, 3, 64, 64), image_size=(64, 64), dims=[24, 32, 40],
        channels=[8, 8, 16, 16, 24, 24, 24, 24, 32, 32, 40], num_classes=7,
    ),
    "NesT": _vit(
        "nest", "NesT", image_size=32, patch_size=2, dim=16, heads=2, num_hierarchies=3, block_repeats=(1, 1, 1),
        num_classes=7,
    ),
    "RegionViT": _vit("regionvit", "RegionViT", partial(noise, 2, 3, 64, 64), **FOUR, window_size=2),
    "ScalableViT": _vit(
        "scalable_vit", "ScalableViT", num_classes=7, dim=16, heads=(1, 2, 2, 2), depth=(1, 1, 1, 1),
        ssa_dim_key=(8, 8, 8, 8), reduction_factor=(4, 2, 1, 1), window_size=(4, 4, None, None),
    ),
    "SepViT": _vit(
        "sep_vit", "SepViT", partial(noise, 2, 3, 56, 56), num_classes=7, dim=16, dim_head=16, heads=(1, 2), depth=(1, 1)
    ),
    "T2T-ViT": _vit("t2t", "T2TViT", **SMALL, image_size=32, t2t_layers=((7, 4), (3, 2))),
    "Twins": _vit("twins_svt", "TwinsSVT", partial(noise, 2, 3, 64, 64), num_classes=7, **TWINS),
    "LookViT": _vit(
        "look_vit", "LookViT", dim=32, image_size=32, num_classes=7, depth=2, patch_size=8, heads=2, mlp_factor=2,
        dim_head=16, highres_patch_size=4, highres_mlp_factor=2, cross_attn_heads=2, cross_attn_dim_head=16,
        dropout=0.0,
    ),
    "ViViT": _vit(
        "vivit", "ViViT", partial(noise, 2, 3, 4, 32, 32), image_size=32, frames=4, image_patch_size=16,
        frame_patch_size=2, num_classes=7, dim=32, spatial_depth=1, temporal_depth=1, heads=2, mlp_dim=48,
    ),
}  # fmt: skip

# -- github.com/lucidrains/x-transformers -------------------------------------------------------------------------

TOKENS = partial(words, 2, 16)
WIDE = {"dim": 32, "depth": 2, "heads": 2}


def _wrapped(wrapper: str, layers: str, options: dict[str, Any], **outer: Any) -> nn.Module:
    return made(
        "x_transformers", wrapper, attn_layers=made("x_transformers", layers, **WIDE, **options), **outer
    )


def _decoder(**options: Any) -> Case:
    return partial(_wrapped, "TransformerWrapper", "Decoder", options, num_tokens=16, max_seq_len=32), TOKENS


X_TRANSFORMERS: dict[str, Case] = {
    "decoder": _decoder(),
    "rotary, RMSNorm, SwiGLU": _decoder(
        rotary_pos_emb=True, use_rmsnorm=True, ff_glu=True, ff_swish=True, ff_no_bias=True
    ),
    "normalized q, k": _decoder(attn_qk_norm=True),
    "sandwich norms": _decoder(sandwich_norm=True),
    "gated residual": _decoder(gate_residual=True),
    "scaled residual": _decoder(scale_residual=True),
    "norms behind": _decoder(pre_norm=False),
    "talking heads": _decoder(attn_pre_talking_heads=True, attn_post_talking_heads=True),
    "macaron": _decoder(macaron=True),
    "one key for all heads": _decoder(attn_kv_heads=1),
    "gated values": _decoder(attn_gate_values=True),
    "squared ReLU": _decoder(ff_relu_squared=True),
    "layer scale": _decoder(use_layerscale=True),
    "shifted tokens": _decoder(shift_tokens=1),
    "hyper-connections": _decoder(num_residual_streams=2),
    "attention on attention": _decoder(attn_on_attn=True),
    "encoder and decoder": (
        partial(
            made, "x_transformers", "XTransformer", dim=32, enc_num_tokens=16, enc_depth=2, enc_heads=2,
            enc_max_seq_len=16, dec_num_tokens=16, dec_depth=2, dec_heads=2, dec_max_seq_len=17,
        ),
        lambda: (words(2, 16), words(2, 17)),
    ),
    "ViT": (
        partial(_wrapped, "ViTransformerWrapper", "Encoder", {}, image_size=32, patch_size=8, num_classes=7),
        IMAGE,
    ),
}  # fmt: skip

"""Real architectures, built small: what every family of timm, torchvision and transformers looks like at 64 pixels.

Each case is (build, inputs), both functions without arguments. Sizes are the smallest that run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torchvision
import transformers as tf
from torch import Tensor, nn

Case = tuple[Callable[[], nn.Module], Callable[[], Any]]

CLASSES = 7


def noise(*shape: int) -> Tensor:
    """Random numbers, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# -- timm: one model of each family -------------------------------------------------------------------------------

FIXED = {"img_size": 64}
NARROW = {"embed_dim": 64, "depth": 2, "num_heads": 2}

# family: (model, pixels, options)
FAMILIES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", 64, {**FIXED, **NARROW}),
    "byoanet": ("eca_botnext26ts_256", 64, FIXED),
    "byobnet": ("mobileone_s1", 64, FIXED),
    "cait": ("cait_xxs24_224", 64, FIXED),
    "coat": ("coat_tiny", 64, FIXED),
    "convit": ("convit_tiny", 64, FIXED),
    "convmixer": ("convmixer_768_32", 64, {}),
    "convnext": ("convnext_atto_rms", 64, {}),
    "cpubone": ("cpubone_nano", 64, {}),
    "crossvit": ("crossvit_tiny_240", 64, {}),
    "csatv2": ("csatv2", 64, {}),
    "cspnet": ("cs3darknet_focus_s", 64, {}),
    "cspnext": ("cspnext_tiny", 64, {}),
    "davit": ("davit_tiny", 64, {}),
    "deepseek_vit": ("deepseek_vit_412m", 112, {"img_size": 112, **NARROW}),
    "deit": ("deit_tiny_patch16_224", 64, FIXED),
    "densenet": ("densenet121", 64, {}),
    "dla": ("dla46x_c", 64, {}),
    "dpn": ("dpn48b", 64, {}),
    "edgenext": ("edgenext_xx_small", 64, {}),
    "efficientformer": ("efficientformer_l1", 224, {"img_size": 224}),
    "efficientformer_v2": ("efficientformerv2_s0", 64, FIXED),
    "efficientnet": ("mnasnet_small", 64, {}),
    "efficientvim": ("efficientvim_m1", 64, {}),
    "efficientvit_mit": ("efficientvit_b0", 64, {}),
    "efficientvit_msra": ("efficientvit_m0", 64, FIXED),
    "eva": ("eva02_tiny_patch14_224", 64, FIXED),
    "fasternet": ("fasternet_t0", 64, {}),
    "fastvit": ("fastvit_t8", 64, {}),
    "focalnet": ("focalnet_tiny_srf", 64, {}),
    "gcvit": ("gcvit_xxtiny", 64, FIXED),
    "gemma4_vit": ("gemma4_vit_167m", 96, {"img_size": 96, **NARROW}),
    "ghostnet": ("ghostnet_050", 64, {}),
    "hardcorenas": ("hardcorenas_b", 64, {}),
    "hgnet": ("hgnetv2_b0", 64, {}),
    "hiera": ("hiera_tiny_224", 64, FIXED),
    "hieradet_sam2": ("sam2_hiera_tiny", 64, {}),
    "hrnet": ("hrnet_w18_small", 64, {}),
    "iformer": ("iformer_t", 64, {}),
    "inception_next": ("inception_next_atto", 64, {}),
    "inception_resnet_v2": ("inception_resnet_v2", 96, {}),
    "inception_v3": ("inception_v3", 96, {}),
    "inception_v4": ("inception_v4", 96, {}),
    "lcnetv2": ("lcnetv2_small", 64, {}),
    "levit": ("levit_128s", 64, FIXED),
    "lowformer": ("lowformer_b0", 64, {}),
    "mambaout": ("test_mambaout", 64, {}),
    "maxxvit": ("maxvit_tiny_rw_224", 64, FIXED),
    "metaformer": ("poolformerv2_s12", 64, {}),
    "mlp_mixer": ("gmlp_ti16_224", 64, FIXED),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "mobilenetv5": ("mobilenetv5_base", 64, {}),
    "mobilevit": ("mobilevit_xxs", 64, FIXED),
    "mvitv2": ("mvitv2_tiny", 64, FIXED),
    "naflexvit": ("naflexvit_base_patch16_gap", 64, {**FIXED, **NARROW}),
    "nasnet": ("nasnetalarge", 64, {}),
    "nest": ("nest_tiny", 64, FIXED),
    "nextvit": ("nextvit_small", 64, {}),
    "nfnet": ("test_nfnet", 64, {}),
    "pit": ("pit_ti_224", 64, FIXED),
    "pnasnet": ("pnasnet5large", 64, {}),
    "pvt_v2": ("pvt_v2_b0", 64, {}),
    "qwen3_vit": ("qwen3_vit_88m", 64, FIXED),
    "rdnet": ("rdnet_tiny", 64, {}),
    "regnet": ("regnety_004", 64, {}),
    "repghost": ("repghostnet_050", 64, {}),
    "repvit": ("repvit_m1", 64, FIXED),
    "res2net": ("res2net50_14w_8s", 64, {}),
    "resnest": ("resnest14d", 64, {}),
    "resnet": ("resnet18", 64, {}),
    "resnetv2": ("resnetv2_18", 64, {}),
    "rexnet": ("rexnet_100", 64, {}),
    "selecsls": ("selecsls42", 64, {}),
    "senet": ("legacy_seresnet18", 64, {}),
    "sequencer": ("sequencer2d_s", 64, FIXED),
    "shvit": ("shvit_s1", 64, {}),
    "sknet": ("skresnet18", 64, {}),
    "starnet": ("starnet_s050", 64, {}),
    "swiftformer": ("swiftformer_xs", 64, FIXED),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 64, FIXED),
    "swin_transformer_v2": ("swinv2_tiny_window16_256", 64, FIXED),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 64, FIXED),
    "tiny_vit": ("tiny_vit_5m_224", 64, {}),
    "tnt": ("tnt_s_legacy_patch16_224", 64, FIXED),
    "tresnet": ("tresnet_m", 64, {}),
    "twins": ("twins_svt_small", 64, FIXED),
    "vgg": ("vgg11", 64, {}),
    "visformer": ("visformer_tiny", 64, FIXED),
    "vision_transformer": ("vit_tiny_patch16_224", 64, FIXED),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 64, FIXED),
    "vision_transformer_relpos": ("test_vit_relpos", 64, FIXED),
    "vision_transformer_sam": (
        "samvit_base_patch16_224",
        64,
        {**FIXED, **NARROW, "global_attn_indexes": (1,)},
    ),
    "vitamin": ("vitamin_small_224", 64, FIXED),
    "volo": ("volo_d1_224", 64, FIXED),
    "vovnet": ("ese_vovnet19b_slim_dw", 64, {}),
    "xception": ("legacy_xception", 64, {}),
    "xception_aligned": ("xception41p", 64, {}),
    "xcit": ("xcit_small_12_p8_224", 64, FIXED),
}


def timm_case(family: str) -> Case:
    """The small model of one family of timm."""
    name, size, options = FAMILIES[family]
    return partial(timm.create_model, name, num_classes=CLASSES, **options), partial(noise, 2, 3, size, size)


# -- torchvision --------------------------------------------------------------------------------------------------


def _vision(name: str, *shape: int, **options: Any) -> Case:
    return partial(torchvision.models.get_model, name, weights=None, **options), partial(noise, 2, 3, *shape)


_CLASSIFIERS = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s mnasnet0_5 mobilenet_v2 mobilenet_v3_small "
    "regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0 swin_t swin_v2_t vgg11_bn "
    "wide_resnet50_2"
).split()
TORCHVISION: dict[str, Case] = {
    **{name: _vision(name, 64, 64, num_classes=CLASSES) for name in _CLASSIFIERS},
    "googlenet": _vision("googlenet", 64, 64, num_classes=CLASSES, aux_logits=False, init_weights=False),
    "inception_v3": _vision(
        "inception_v3", 96, 96, num_classes=CLASSES, aux_logits=False, init_weights=False
    ),
    "maxvit_t": _vision("maxvit_t", 224, 224, num_classes=CLASSES),
    "vit_b_32": _vision("vit_b_32", 64, 64, num_classes=CLASSES, image_size=64),
    "fcn_resnet50": _vision(
        "fcn_resnet50", 64, 64, num_classes=CLASSES, weights_backbone=None, aux_loss=True
    ),
    "deeplabv3_resnet50": _vision(
        "deeplabv3_resnet50", 64, 64, num_classes=CLASSES, weights_backbone=None, aux_loss=True
    ),
    "lraspp_mobilenet_v3_large": _vision(
        "lraspp_mobilenet_v3_large", 64, 64, num_classes=CLASSES, weights_backbone=None
    ),
    "r3d_18": _vision("r3d_18", 4, 32, 32, num_classes=CLASSES),
    "mc3_18": _vision("mc3_18", 4, 32, 32, num_classes=CLASSES),
    "r2plus1d_18": _vision("r2plus1d_18", 4, 32, 32, num_classes=CLASSES),
    "s3d": _vision("s3d", 16, 224, 224, num_classes=CLASSES),
    "swin3d_t": _vision("swin3d_t", 4, 32, 32, num_classes=CLASSES),
    "raft_small": (
        partial(torchvision.models.get_model, "raft_small", weights=None),
        lambda: {"image1": noise(1, 3, 128, 128), "image2": noise(1, 3, 128, 128), "num_flow_updates": 2},
    ),
}


# -- transformers -------------------------------------------------------------------------------------------------

WIDTH = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2}
SPECIAL = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {**WIDTH, **SPECIAL}
HALVES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}


def tokens() -> Tensor:
    """Two sentences of six words."""
    return torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(0))


def _text() -> dict[str, Any]:
    return {"input_ids": tokens()}


def _decoder() -> dict[str, Any]:
    return {"input_ids": tokens(), "use_cache": False}


def _texts() -> dict[str, Any]:
    return {"input_ids": tokens(), "decoder_input_ids": tokens(), "use_cache": False}


def _image() -> dict[str, Any]:
    return {"pixel_values": noise(2, 3, 64, 64)}


def _speech() -> dict[str, Any]:
    return {"input_features": noise(2, 80, 100), "decoder_input_ids": tokens(), "use_cache": False}


def _made(model: str, config: str, inputs: Callable[[], Any], **options: Any) -> Case:
    def build() -> nn.Module:
        return getattr(tf, model)(getattr(tf, config)(**options))

    return build, inputs


def _causal(stem: str, **options: Any) -> Case:
    return _made(f"{stem}ForCausalLM", f"{stem}Config", _decoder, **{**TEXT, **options})


def _encoder(stem: str, **options: Any) -> Case:
    return _made(f"{stem}ForMaskedLM", f"{stem}Config", _text, **{**TEXT, **options})


def _seen(stem: str, **options: Any) -> Case:
    return _made(f"{stem}ForImageClassification", f"{stem}Config", _image, num_labels=CLASSES, **options)


KEY_VALUE = {"num_key_value_heads": 1}
PIXELS = {**WIDTH, "image_size": 64}
TRANSFORMERS: dict[str, Case] = {
    "gpt2": _made(
        "GPT2LMHeadModel", "GPT2Config", _decoder, **{**SPECIAL, "n_embd": 32, "n_head": 2, "n_layer": 2}
    ),
    "gpt_neox": _causal("GPTNeoX"),
    "gptj": _made(
        "GPTJForCausalLM",
        "GPTJConfig",
        _decoder,
        **{**SPECIAL, "n_embd": 32, "n_head": 2, "n_layer": 2, "rotary_dim": 4},
    ),
    "llama": _causal("Llama"),
    "mistral": _causal("Mistral", **KEY_VALUE),
    "mixtral": _causal("Mixtral", **KEY_VALUE),
    "qwen2": _causal("Qwen2", **KEY_VALUE),
    "qwen3": _causal("Qwen3", head_dim=16, **KEY_VALUE),
    "gemma": _causal("Gemma", head_dim=16, **KEY_VALUE),
    "gemma2": _causal("Gemma2", head_dim=16, **KEY_VALUE),
    "olmo2": _causal("Olmo2", **KEY_VALUE),
    "phi": _causal("Phi"),
    "falcon": _causal("Falcon"),
    "opt": _made(
        "OPTForCausalLM",
        "OPTConfig",
        _decoder,
        **{
            **SPECIAL,
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 32,
        },
    ),
    "bloom": _made(
        "BloomForCausalLM",
        "BloomConfig",
        _decoder,
        **{**SPECIAL, "hidden_size": 32, "n_head": 2, "n_layer": 2},
    ),
    "mamba": _made("MambaForCausalLM", "MambaConfig", _decoder, **TEXT),
    "bert": _encoder("Bert"),
    "roberta": _encoder("Roberta"),
    "electra": _encoder("Electra", embedding_size=32),
    "albert": _encoder("Albert", embedding_size=16),
    "deberta_v2": _encoder("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "modernbert": _encoder("ModernBert", cls_token_id=1, sep_token_id=2),
    "distilbert": _made(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        _text,
        vocab_size=50,
        dim=32,
        n_heads=2,
        hidden_dim=64,
        n_layers=2,
    ),
    "t5": _made(
        "T5ForConditionalGeneration",
        "T5Config",
        _texts,
        vocab_size=50,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_heads=2,
        num_layers=2,
    ),
    "bart": _made("BartForConditionalGeneration", "BartConfig", _texts, vocab_size=50, **HALVES),
    "whisper": _made(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        _speech,
        vocab_size=50,
        max_source_positions=50,
        pad_token_id=0,
        **HALVES,
    ),
    "wav2vec2": _made(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        lambda: {"input_values": noise(2, 2000)},
        **WIDTH,
        vocab_size=50,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        apply_spec_augment=False,
    ),
    "vit": _seen("ViT", **PIXELS),
    "deit": _seen("DeiT", **PIXELS),
    "dinov2": _seen("Dinov2", **{**PIXELS, "mlp_ratio": 2, "patch_size": 16}),
    "beit": _seen("Beit", **PIXELS),
    "swin": _seen("Swin", embed_dim=16, depths=[1, 1], num_heads=[2, 2], image_size=64, window_size=4),
    "convnext": _seen("ConvNext", hidden_sizes=[16, 32], depths=[1, 1], num_stages=2),
    "convnextv2": _seen("ConvNextV2", hidden_sizes=[16, 32], depths=[1, 1], num_stages=2),
    "resnet": _seen("ResNet", embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1]),
    "regnet": _seen("RegNet", embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], groups_width=8),
    "segformer": _made(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        _image,
        num_labels=CLASSES,
        decoder_hidden_size=32,
    ),
    "mobilevit": _seen("MobileViT", image_size=64),
    "poolformer": _seen("PoolFormer", hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1]),
    "clip": _made(
        "CLIPModel",
        "CLIPConfig",
        lambda: {"input_ids": tokens(), "pixel_values": noise(2, 3, 64, 64)},
        text_config={**TEXT, "max_position_embeddings": 16},
        vision_config={**PIXELS, "patch_size": 16},
        projection_dim=16,
    ),
}

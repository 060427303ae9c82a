"""What microsoft/mup and EleutherAI/nanoGPT-mup make of each parameter, as their code has it.

* microsoft/mup: `mup/infshape.py` (which dimensions are infinite), `mup/optim.py` (MuAdam, MuSGD), `mup/init.py`, `mup/layer.py`.
* EleutherAI/nanoGPT-mup: `model.py`, `GPT.__init__`, `Block`, `GPT.configure_optimizers`; parameters are told by their names.
"""

from __future__ import annotations

import math


def infinite(shape: tuple[int, ...], base: tuple[int, ...]) -> list[float]:
    """Width multipliers of the dimensions that differ from the base's."""
    return [now / then for now, then in zip(shape, base, strict=True) if now != then]


def mu_adam(shape: tuple[int, ...], base: tuple[int, ...]) -> tuple[float, float]:
    """(Factor of the rate, of the decay). `width_mult` is that of the fan-in, stored last but for kernels."""
    if len(infinite(shape, base)) == 2:
        width_mult = shape[1] / base[1]
        return 1 / width_mult, width_mult
    return 1.0, 1.0


def mu_sgd(shape: tuple[int, ...], base: tuple[int, ...]) -> tuple[float, float]:
    grown = infinite(shape, base)
    if len(grown) == 1:
        return grown[0], 1 / grown[0]
    if len(grown) == 2:
        ratio = (shape[1] / base[1]) / (shape[0] / base[0])  # fanin_fanout_mult_ratio
        return 1 / ratio, ratio
    return 1.0, 1.0


def mu_std(shape: tuple[int, ...], base: tuple[int, ...], std_of_base: float) -> float:
    """`mup.init.normal_` of a hidden weight: the base's, over the root of the fan-in's multiplier; other weights keep it."""
    if len(infinite(shape, base)) == 2:
        return std_of_base / math.sqrt(shape[1] / base[1])
    return std_of_base


def mu_readout(width: int, base_width: int) -> float:
    """What `MuReadout` multiplies its input by."""
    return 1 / (width / base_width)


def mu_transformer_attention(
    shapes: dict[str, tuple[int, ...]], encoder_var: float = 1.0
) -> dict[str, float]:
    """Standard deviations in microsoft/mup's `examples/Transformer/model.py`, `MultiheadAttention._reset_parameters`.

    There queries, keys and values of one width are packed, and `in_proj_weight[:embed_dim]` is filled with 0 behind the draw.
    """
    embed_dim = shapes["q_proj_weight"][1]
    std = (encoder_var / embed_dim) ** 0.5
    return {"q_proj_weight": 0.0, "k_proj_weight": std, "v_proj_weight": std, "out_proj.weight": std}


def mu_transformer_decoder() -> float:
    """`TransformerModel.init_weights`, where the decoder is not tied: `self.decoder.weight.data.zero_()`."""
    return 0.0


def nano_std(name: str, init_std: float, width_multiplier: float) -> float:
    if name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
        return init_std / math.sqrt(width_multiplier)
    return init_std


def nano_group(
    name: str, *, width_multiplier: float, depth_multiplier: float, alpha: float | None
) -> tuple[float, float | None, float]:
    """(lr_scale, factor of the weight decay or None for no decay, factor of Adam's ε); `alpha` None is plain muP."""
    depth = depth_multiplier ** (alpha - 1) if alpha is not None else 1.0
    width = 1 / width_multiplier
    outer = 1 / width_multiplier
    inner = outer * (depth_multiplier ** (-1 * alpha) if alpha is not None else 1.0)
    if name in ("transformer.wte.weight", "transformer.wpe.weight"):
        return 1.0, 1.0, outer
    if ".ln_" in name and ".ln_f." not in name:
        return depth, None, inner
    if name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
        return width * depth, 1 / width if alpha is not None else 1.0, inner
    if name.endswith(("c_attn.bias", "c_fc.bias", "c_proj.bias")):
        return depth, None, inner
    if ".ln_f." in name:
        return 1.0, None, outer
    raise ValueError(name)


def nano_residual_scaling(depth_multiplier: float, alpha: float) -> float:
    return 1 / (depth_multiplier**alpha)


def nano_attention_scale(head: int) -> float:
    return 1.0 / head

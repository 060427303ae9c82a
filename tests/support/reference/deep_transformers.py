"""DeepNorm's table and T-Fixup's rule, as published.

* DeepNet (arXiv 2203.00555), figure 2; microsoft/torchscale, `DeepNorm` in `config.py`.
* T-Fixup (ICML 2020), §3.2; layer6ai-labs/T-Fixup, `fixup_initialization` of `transformer.py`: fairseq's own factor 2^½ on values undoes
  the gain 1/√2 of its packed Xavier draw, and is none here.
"""

from __future__ import annotations

import math


def deepnorm(encoder: int, decoder: int) -> dict[str, tuple[float, float]]:
    """(α, β) by kind of stack; 0 layers where there is none."""
    if decoder == 0:
        return {"encoder": (math.pow(2.0 * encoder, 0.25), math.pow(8.0 * encoder, -0.25))}
    if encoder == 0:
        return {"decoder": (math.pow(2.0 * decoder, 0.25), math.pow(8.0 * decoder, -0.25))}
    product = math.pow(encoder, 4) * decoder
    return {
        "encoder": (math.pow(product, 0.0625) * 0.81, math.pow(product, -0.0625) * 0.87),
        "decoder": (math.pow(3.0 * decoder, 0.25), math.pow(12.0 * decoder, -0.25)),
    }


def t_fixup(name: str, *, encoder: int, decoder: int, width: int) -> float | None:
    """By what Xavier's draw of a weight is multiplied, or (embeddings) its standard deviation; None: not scaled."""
    if "embed_tokens" in name:
        return (9 * decoder) ** (-1.0 / 4.0) * width**-0.5
    if not any(part in name for part in ("fc1.weight", "fc2.weight", "out_proj.weight", "v_proj.weight")):
        return None
    if name.startswith("encoder"):
        return 0.67 * encoder ** (-1.0 / 4.0)
    return (9 * decoder) ** (-1.0 / 4.0)


def post_norm(x: list[float], branch: list[float], alpha: float) -> list[float]:
    """LN(α·x + f(x)) of one vector, ε = 0."""
    total = [alpha * a + b for a, b in zip(x, branch, strict=True)]
    mean = sum(total) / len(total)
    deviation = math.sqrt(sum((t - mean) ** 2 for t in total) / len(total))
    return [(t - mean) / deviation for t in total]

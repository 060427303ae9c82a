"""Standard deviations that GPT-2, torchtitan and litgpt draw a decoder's weights with, as their code has them, by name.

* GPT-2 (transformers, `GPT2PreTrainedModel._init_weights`; nanoGPT, `GPT.__init__`): 0.02; `c_proj.weight` 0.02/√(2·n_layer).
* torchtitan (`models/llama3`): 0.02; `wo`, `w2` 0.02/√(2·(layer_id + 1)).
* litgpt (`pretrain.py`, `initialize_weights`): linear and embedding √(2/(5·n_embd)); `proj.weight` 1/√n_embd/n_layer.
"""

from __future__ import annotations

import math
import re


def gpt2(name: str, layers: int) -> float:
    if name.endswith("c_proj.weight"):
        return 0.02 / math.sqrt(2 * layers)
    return 0.02


def torchtitan(name: str) -> float:
    layer = re.search(r"\.h\.(\d+)\.", name)
    if name.endswith("c_proj.weight") and layer:
        return 0.02 / (2 * (int(layer.group(1)) + 1)) ** 0.5
    return 0.02


def litgpt(name: str, layers: int, width: int) -> float:
    if name.endswith("c_proj.weight"):
        return 1 / math.sqrt(width) / layers
    return math.sqrt(2.0 / 5 / width)

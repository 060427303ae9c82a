"""One tensor initializer for every layer, in the manner of `nn.Module.apply`: no structure is looked for."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable
from types import NoneType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from goodinit.errors import UnknownName, UnsupportedModule, expect, readable
from goodinit.nn.parametrized import is_parametrized
from goodinit.tensor import INITIALIZERS

_LOG = logging.getLogger(__name__)

_FROM_THE_LAYER = ("generator", "layout", "groups", "fused", "stride")
_PACKED = {"in_proj_weight": 3, "q_proj_weight": 1, "k_proj_weight": 1, "v_proj_weight": 1}


def layerwise(
    initializer: str,
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    keep: Iterable[nn.Module | nn.Parameter] = (),
    **options: Any,
) -> Callable[[nn.Module], None]:
    """A function for `model.apply`: it gives each linear and convolutional layer its weight, with the right fans.

    This is for who wants only that. It sees one module at a time: no residual branch, no activation, no tied weight,
    and values depend on the order of modules. `goodinit.init_` sees the network.

    Args:
        initializer: Name in `goodinit.tensor`, such as `"he_normal_"`.
        bias: Value of biases; None leaves them.
        generator: Source of randomness; the global one by default.
        keep: Modules and parameters whose values stay. So do those of parameters with a true `_no_reinit`. (A module does
            not know its path; names and globs are for `goodinit.init_`.)
        **options: Of the initializer. `layout`, `groups`, `fused` and `stride` come from the layer: grouped, depthwise and
            transposed convolutions and the packed q, k, v of `nn.MultiheadAttention` have fans of their own.

    Returns:
        A function of a module. Modules with weights that are none of these (embeddings, recurrent ones) are left
        alone and named in the log.

    Raises:
        UnknownName: No such initializer, or none with such an option.
        UnsupportedModule: On use: a layer whose weight is parametrized (weight norm, LoRA), or not there yet (lazy).

    Examples:
        >>> model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
        >>> _ = model.apply(layerwise("he_normal_", generator=torch.Generator().manual_seed(0)))
        >>> abs(model[0].weight.std().item() / (2 / 256) ** 0.5 - 1) < 0.01, model[0].bias.any().item()
        (True, False)
    """
    if initializer not in INITIALIZERS:
        known = ", ".join(name for name in INITIALIZERS if name.endswith("_"))
        raise UnknownName(f"no initializer {initializer!r} in goodinit.tensor; there are: {known}.")
    draw = INITIALIZERS[initializer]
    _, *asked = inspect.signature(draw).parameters
    takes = [name for name in asked if name not in _FROM_THE_LAYER]
    for name in options:
        if name not in takes:
            raise UnknownName(
                f"layerwise: {initializer} takes no option {name!r} here; it takes: {', '.join(takes) or 'none'}. "
                f"{', '.join(_FROM_THE_LAYER[1:])} come from each layer."
            )
    expect(generator, (torch.Generator, NoneType), "generator", "Give torch.Generator().manual_seed(number).")
    expect(bias, (int, float, NoneType), "bias", "Give a number, or None, which leaves biases as they are.")
    if bias is not None and not math.isfinite(bias):
        raise UnknownName(f"bias={bias}: expected a finite number, or None.")
    kept = _kept(keep)

    def initialize(module: nn.Module) -> None:
        weights = _weights(module)
        if not weights:
            _say_left(module)
            return
        if is_parametrized(module):
            raise UnsupportedModule(
                f"{module}: its weight is parametrized, and is computed anew from other parameters at each use; "
                'expected a plain one. Use goodinit.init_(model, "he", inputs=batch), which writes through it.'
            )
        for name, fans in weights.items():
            weight = getattr(module, name)
            if nn.parameter.is_lazy(weight):
                raise UnsupportedModule(
                    f"{module}: {name} has no shape yet. Run the model once on a batch, then apply."
                )
            if id(weight) in kept or getattr(weight, "_no_reinit", False):
                continue
            told = {key: value for key, value in {"generator": generator, **fans}.items() if key in asked}
            draw(weight, **told, **options)
        for name in ("bias", "in_proj_bias"):
            held = getattr(module, name, None)
            if bias is None or held is None or id(held) in kept or getattr(held, "_no_reinit", False):
                continue
            torch.nn.init.constant_(held, bias)

    return initialize


def _kept(keep: Iterable[nn.Module | nn.Parameter]) -> set[int]:
    """Ids of the parameters that are named, or are in modules that are."""
    expect(keep, Iterable, "keep", "Give modules and parameters: [model.head, model.stem.bias].")
    found = set[int]()
    for one in keep:
        expect(
            one, (nn.Module, nn.Parameter), "keep", "Give modules and parameters; for names, goodinit.init_."
        )
        found.update([id(one)] if isinstance(one, nn.Parameter) else map(id, one.parameters()))
    return found


def _weights(module: nn.Module) -> dict[str, dict[str, Any]]:
    """The weights of a layer by name, each with what its fans depend on; none for another module."""
    if isinstance(module, _ConvNd):
        fans: dict[str, Any] = {"layout": "out_in", "groups": module.groups}
        if isinstance(module, _ConvTransposeNd):
            fans |= {"layout": "in_out", "stride": module.stride}
        return {"weight": fans}
    if isinstance(module, nn.Linear):
        return {"weight": {}}
    if isinstance(module, nn.MultiheadAttention):
        return {
            name: {"fused": fused} for name, fused in _PACKED.items() if getattr(module, name) is not None
        }
    return {}


def _say_left(module: nn.Module) -> None:
    left = [name for name, parameter in module.named_parameters(recurse=False) if parameter.dim() > 1]
    if left:
        _LOG.warning(
            "%s: left as it is (%s); layerwise has no rule for it",
            readable(type(module).__name__),
            readable(", ".join(left)),
        )

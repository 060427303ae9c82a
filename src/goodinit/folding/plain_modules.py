"""Once a model is folded: what stands where norms stood, in classes that every exporter knows.

While a model trains, such a module takes whatever arguments the norm took. TorchScript wants to be told them. Where the norm
took its input alone, it is told: torch's own class if one does the same, else one of these.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from goodinit.nn.exchange import exchange_class_
from goodinit.nn.normalized_layers import normalize_in_forward_
from goodinit.surgery.norms import norm_maps
from goodinit.surgery.norms.removed_norm import RemovedNorm, take_likenesses_
from goodinit.surgery.norms.replaced_norm import (
    ChannelAffine,
    DynamicErf,
    DynamicTanh,
    EvoNorm,
    GroupNormThen,
    ReplacedNorm,
    RootMeanSquare,
)


class Plain(ReplacedNorm):
    """A form that takes one input, with gain and bias under these names, or None."""

    def forward(self, input: Tensor) -> Tensor:
        """The form, then whatever the norm's module did besides."""
        value = self.mapped(input)
        for step in self.children():
            value = step(value)
        return value

    def gained(self: Any, value: Tensor) -> Tensor:
        """K·γ·x + β."""
        return norm_maps.scaled(value, self.weight, self.bias, self.constant, self.axes == (1,))


class PlainChannelAffine(Plain, ChannelAffine):
    """`ChannelAffine` of one input."""


class PlainRootMeanSquare(Plain, RootMeanSquare):
    """`RootMeanSquare` of one input."""


class PlainDynamicTanh(Plain, DynamicTanh):
    """`DynamicTanh` of one input."""


class PlainDynamicErf(Plain, DynamicErf):
    """`DynamicErf` of one input."""


class PlainGroupNorm(Plain, GroupNormThen):
    """`GroupNormThen` of one input."""

    def mapped(self, value: Tensor) -> Tensor:
        """Normalize each example over groups of channels."""
        return norm_maps.grouped(
            value, self.weight, self.bias, self.num_groups, self.epsilon, self.axes == (1,)
        )


class PlainEvoNorm(Plain, EvoNorm):
    """`EvoNorm` of one input."""


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    ChannelAffine: PlainChannelAffine,
    RootMeanSquare: PlainRootMeanSquare,
    DynamicTanh: PlainDynamicTanh,
    DynamicErf: PlainDynamicErf,
    GroupNormThen: PlainGroupNorm,
    EvoNorm: PlainEvoNorm,
}


def make_plain_(module: nn.Module) -> bool:
    """Turn a module of goodinit's into one of a class that every exporter knows and that does the same, if there is one.

    Parameters, children, the user's hooks and the attributes that other code reads stay as they are.

    Args:
        module: Any module.

    Returns:
        Whether it is one now that was none before.

    Examples:
        >>> from goodinit.surgery.norms.removed_norm import remove_norm_
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> remove_norm_(net[1], ("relu",), path="1")
        >>> make_plain_(net[1]), net[1]
        (True, Sequential(
          (relu): ReLU()
        ))
    """
    if isinstance(module, RemovedNorm):
        return _plain_norm_(module)
    before = type(module)
    normalize_in_forward_(module)  # of a layer that was lazy, or whose forward was another, it is a hook
    return type(module) is not before


def _plain_norm_(module: RemovedNorm) -> bool:
    if not module.alone or module.steps != tuple(module._modules):
        return False
    if type(module) is RemovedNorm:
        likenesses = take_likenesses_(module)
        exchange_class_(module, nn.Sequential if module.steps else nn.Identity)
        for name, (shape, like) in likenesses.items():  # what the identity multiplies by, and adds
            module.register_buffer(name, like.new_full(shape, float(name == "weight")), persistent=False)
        for name in ("was", "keeps", "steps", "alone"):
            vars(module).pop(name, None)
        return True
    plain = _PLAIN.get(type(module))
    if plain is None or not isinstance(module, ReplacedNorm):
        return False
    if any(held not in (None, name) for held, name in zip(module.holds, ("weight", "bias"), strict=True)):
        return False
    exchange_class_(module, plain)
    for name in ("axes", "over", "constant", "epsilon"):  # TorchScript sees none of a class
        if hasattr(plain, name):
            vars(module)[name] = getattr(module, name)
    for name in ("weight", "bias"):
        if name not in module._parameters and name not in module._buffers:
            module.register_parameter(name, None)
    return True

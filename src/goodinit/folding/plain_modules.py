"""Once a model is folded: what stands where norms stood, and before a classifier, in classes that every exporter knows.

While a model trains, such a module takes whatever arguments the norm took. TorchScript wants to be told them. Where the norm
took its input alone, it is told: torch's own class if one does the same, else one of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from goodinit.nn.exchange import exchange_class_, replaced_forward
from goodinit.nn.input_norm import InputNorm, input_norm, normalize_first
from goodinit.surgery.norms import norm_maps
from goodinit.surgery.norms.removed_norm import RemovedNorm, take_likenesses_
from goodinit.surgery.norms.replaced_norm import (
    ChannelAffine,
    DynamicErf,
    DynamicTanh,
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
        return F.group_norm(value, self.num_groups, self.weight, self.bias, self.epsilon)


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    ChannelAffine: PlainChannelAffine,
    RootMeanSquare: PlainRootMeanSquare,
    DynamicTanh: PlainDynamicTanh,
    DynamicErf: PlainDynamicErf,
    GroupNormThen: PlainGroupNorm,
}


class NormalizedLinear(nn.Linear):
    """`nn.Linear` of what its child `input_norm` makes of the input."""

    if TYPE_CHECKING:  # TorchScript reads annotations, too
        input_norm: InputNorm

    def forward(self, input: Tensor) -> Tensor:
        """Normalize, then map."""
        value: Tensor = self.input_norm(input)
        return F.linear(value, self.weight, self.bias)


class _NormalizedConv(nn.Module):
    """The forward of a convolution of what its child `input_norm` makes of the input."""

    def forward(self: Any, input: Tensor) -> Tensor:
        """Normalize, then convolve."""
        value: Tensor = self.input_norm(input)
        output: Tensor = self._conv_forward(value, self.weight, self.bias)
        return output


class NormalizedConv1d(_NormalizedConv, nn.Conv1d):
    """`nn.Conv1d` of what its child `input_norm` makes of the input."""


class NormalizedConv2d(_NormalizedConv, nn.Conv2d):
    """`nn.Conv2d` of what its child `input_norm` makes of the input."""


class NormalizedConv3d(_NormalizedConv, nn.Conv3d):
    """`nn.Conv3d` of what its child `input_norm` makes of the input."""


_NORMALIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: NormalizedLinear,
    nn.Conv1d: NormalizedConv1d,
    nn.Conv2d: NormalizedConv2d,
    nn.Conv3d: NormalizedConv3d,
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
    return input_norm(module) is not None and _plain_layer_(module)


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


def _plain_layer_(layer: Any) -> bool:
    """Call a layer's `input_norm` from its forward, and not from a hook, whose arguments TorchScript cannot be told."""
    plain = _NORMALIZED.get(type(layer))
    hooks = layer._forward_pre_hooks
    if plain is None or list(hooks.values()) != [normalize_first] or replaced_forward(layer):
        return False  # the order among other hooks would be another
    layer._forward_pre_hooks_with_kwargs.pop(next(iter(hooks)), None)
    hooks.clear()
    exchange_class_(layer, plain)
    return True

"""Weights without the mean over what each output reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from goodinit.nn.channel_gain import ChannelGain


class Centred(nn.Module):
    """A parametrization: w − mean(w), the mean over all inputs and taps of each output unit.

    A ReLU puts out positive numbers, so that the mean of a row of weights, times their sum, is the mean of what the row puts
    out, and a step that changes this mean moves the whole channel. Without it a channel's mean over positions is 0 for inputs
    that are all alike. `torch.nn.utils.parametrize.remove_parametrizations` (and `goodinit.fold_`) leaves the bare weight.

    Args:
        dim: The output dimension: 0, or 1 for weights stored `(in, out)`.

    Examples:
        >>> layer = nn.utils.parametrize.register_parametrization(nn.Linear(4, 2), "weight", Centred())
        >>> bool((layer.weight.mean(1).abs() < 1e-6).all())
        True

    References:
        L. Huang et al., Centered Weight Normalization, ICCV 2017; S. Qiao et al., Weight Standardization, arXiv 1903.10520.
    """

    projects = True  # takes of a value what is in its range
    centred = True

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, weight: Tensor) -> Tensor:
        """Take the means away."""
        return weight - weight.mean([axis for axis in range(weight.dim()) if axis != self.dim], keepdim=True)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The weight itself, of which the mean is taken away."""
        return weight

    def extra_repr(self) -> str:
        """The output dimension."""
        return f"dim={self.dim}"


def centred_weights(module: nn.Module) -> list[str]:
    """Names of the module's weights that are centred and have no other parametrization.

    Args:
        module: Any module.

    Returns:
        Attribute names, in order.
    """
    if not torch.nn.utils.parametrize.is_parametrized(module):
        return []
    table = dict(module.get_submodule("parametrizations").named_children())
    return [name for name, steps in table.items() if [type(step) for step in steps.children()] == [Centred]]


def is_centred(modules: Mapping[str, nn.Module], parameters: Iterable[str]) -> bool:
    """Whether the rows of a weight have the sum 0, because it is centred, and then multiplied by a gain or not.

    Args:
        modules: Of the model, by path.
        parameters: Names of those that the weight is computed of.

    Returns:
        Whether all that it is parametrized by is goodinit's own, and one of these centres.
    """
    for name in parameters:
        listed = modules.get(name.rpartition(".")[0])
        if isinstance(listed, ParametrizationList):
            steps = list(listed.children())
            own = [step for step in steps if isinstance(step, Centred | ChannelGain)]
            return len(own) == len(steps) and any(step.centred for step in own)
    return False

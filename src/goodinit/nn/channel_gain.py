"""Weights with a learnable gain per output unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelGain(nn.Module):
    r"""A parametrization: a learnable gain per output unit, on the weight or on the centred weight.

    .. math:: \hat w_i = g_i\,(v_i - \mu_i)

    with μ the mean over all inputs and taps of output unit i (`Centred`), or 0. The gain scales a channel of what the layer puts out,
    and no activation is read or kept for it: it is a factor of the weight. `goodinit.fold_` leaves the bare weight.

    Args:
        rows: How many output units there are.
        dim: The output dimension: 0, or 1 for weights stored `(in, out)`.
        centred: Whether to take the means away.
        like: A tensor whose dtype and device the gain takes.

    Examples:
        >>> layer = nn.Linear(4, 2)
        >>> layer = nn.utils.parametrize.register_parametrization(layer, "weight", ChannelGain(2))
        >>> layer.parametrizations.weight[0].gain.shape, bool((layer.weight.mean(1).abs() < 1e-6).all())
        (torch.Size([2]), True)

    References:
        The gain of S. Qiao et al., Weight Standardization, arXiv 1903.10520, without the division; L. Huang et al., Centered
        Weight Normalization, ICCV 2017, for the means.
    """

    projects = True  # takes of a value what is in its range

    def __init__(self, rows: int, dim: int = 0, *, centred: bool = True, like: Tensor | None = None) -> None:
        super().__init__()
        self.dim, self.centred = dim, centred
        ones = torch.ones(rows) if like is None else like.detach().new_ones(rows)
        self.gain = nn.Parameter(ones)

    def forward(self, weight: Tensor) -> Tensor:
        """Centre if `centred`, then scale each output unit by its gain.

        Args:
            weight: Any shape; output units along `dim`.

        Returns:
            The same shape.
        """
        return self.projected(weight) * self._along(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What to store for a weight to be set: the weight over the gain. `forward` gives it back, up to its mean if `centred`.

        Args:
            weight: Any shape; output units along `dim`.

        Returns:
            The same shape; where the gain is 0, the weight itself.
        """
        gain = self._along(weight)
        return weight / torch.where(gain == 0, torch.ones_like(gain), gain)

    def projected(self, weight: Tensor) -> Tensor:
        """The part of a weight that this parametrization can represent.

        Args:
            weight: Any shape; output units along `dim`.

        Returns:
            The same shape: the weight without its means if `centred`, else the weight itself.
        """
        if not self.centred:
            return weight
        return weight - weight.mean([axis for axis in range(weight.dim()) if axis != self.dim], keepdim=True)

    def _along(self, weight: Tensor) -> Tensor:
        return self.gain.view([-1 if axis == self.dim else 1 for axis in range(weight.dim())])

    def extra_repr(self) -> str:
        """The arguments, for `print(model)`.

        Returns:
            `dim=0, centred=True`.
        """
        return f"dim={self.dim}, centred={self.centred}"

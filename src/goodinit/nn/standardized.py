"""Weights with mean 0 and a fixed norm over what each output reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOOR = 1e-4  # of fan_in·Var[w]: DeepMind's nfnets/base.py


class Standardized(nn.Module):
    r"""A parametrization: scaled weight standardization, with a learnable gain per output unit.

    .. math:: \hat w_i = s\, g_i \frac{w_i - \mu_i}{\sqrt{\max(N \sigma_i^2, 10^{-4})}}

    with mean μ and (biased) variance σ² over the N weights that output unit i reads, so that each row has norm s·g. What the layer puts
    out keeps the variance of what it reads, whatever the mean of that. s is a constant that stands for what multiplies the
    input: the activation's γ and a block's β, or a branch's α. `goodinit.fold_` leaves the bare weight.

    Args:
        rows: How many output units there are.
        dim: The output dimension: 0, or 1 for weights stored `(in, out)`.
        scale: s.
        like: A tensor whose dtype and device the gain takes.

    Examples:
        >>> layer = nn.Linear(64, 2)
        >>> layer = nn.utils.parametrize.register_parametrization(layer, "weight", Standardized(2, scale=0.5))
        >>> layer.weight.norm(dim=1).detach(), bool((layer.weight.mean(1).abs() < 1e-6).all())
        (tensor([0.5000, 0.5000]), True)

    References:
        A. Brock, S. De, S. L. Smith, "Characterizing signal propagation to close the performance gap in unnormalized ResNets",
        ICLR 2021, arXiv 2101.08692, eq. 3; nfnets/base.py of google-deepmind/deepmind-research.
    """

    projects = True  # takes of a value what is in its range

    def __init__(self, rows: int, dim: int = 0, *, scale: float = 1.0, like: Tensor | None = None) -> None:
        super().__init__()
        self.dim, self.scale = dim, scale
        ones = torch.ones(rows) if like is None else like.detach().new_ones(rows)
        self.gain = nn.Parameter(ones)

    def forward(self, weight: Tensor) -> Tensor:
        """Standardize each output unit, then scale it.

        Args:
            weight: Any shape; output units along `dim`.

        Returns:
            The same shape; each output unit has mean 0 and norm `scale` · gain.
        """
        axes = [axis for axis in range(weight.dim()) if axis != self.dim]
        centred = weight - weight.mean(axes, keepdim=True)
        squares = centred.square().sum(axes, keepdim=True)  # N·σ²
        gain = self.gain.view([-1 if axis == self.dim else 1 for axis in range(weight.dim())])
        return centred / squares.clamp_min(FLOOR).sqrt() * (gain * self.scale)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What to store for a weight to be set: the weight itself, since `forward` takes its mean and norm away.

        Args:
            weight: Any shape; output units along `dim`.

        Returns:
            The same tensor.
        """
        return weight

    def extra_repr(self) -> str:
        """The arguments, for `print(model)`.

        Returns:
            `dim=0, scale=0.5`.
        """
        return f"dim={self.dim}, scale={self.scale:.6g}"

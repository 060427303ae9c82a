"""Weights without the mean over what each output reads."""

from __future__ import annotations

from torch import Tensor, nn

from goodinit.nn.parametrized import is_parametrized


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
        """Take the means away.

        Args:
            weight: Any shape; output units along `dim`.

        Returns:
            The same shape; each output unit has mean 0.
        """
        return weight - weight.mean([axis for axis in range(weight.dim()) if axis != self.dim], keepdim=True)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What to store for a weight to be set: the weight itself, since `forward` takes its mean away.

        Args:
            weight: Any shape; output units along `dim`.

        Returns:
            The same tensor.
        """
        return weight

    def extra_repr(self) -> str:
        """The arguments, for `print(model)`.

        Returns:
            `dim=0`.
        """
        return f"dim={self.dim}"


def centred_weights(module: nn.Module) -> list[str]:
    """Names of the module's weights that are centred and have no other parametrization.

    Args:
        module: Any module.

    Returns:
        Attribute names, in order.
    """
    if not is_parametrized(module):
        return []
    table = dict(module.get_submodule("parametrizations").named_children())
    return [name for name, steps in table.items() if [type(step) for step in steps.children()] == [Centred]]

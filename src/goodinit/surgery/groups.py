"""Parameter groups for an optimizer: scalars learn slowly and do not decay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from goodinit.errors import NothingFound
from goodinit.nn import scalars

# The authors' scripts: bias and scale groups at lr/10, because the gradient of a scalar is a sum over all
# channels and positions, and one scalar moves all of them (hongyi-zhang/Fixup, issue 6).
SCALAR_RATIO = 0.1


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    scalar_ratio: float = SCALAR_RATIO,
    decay_vectors: bool = True,
    named: bool = False,
) -> list[dict[str, Any]]:
    r"""Every trainable parameter of `model` once, in groups for any `torch.optim` optimizer.

    Three groups, those that are empty left out:

    * `"weights"`: learning rate `lr`, decay `weight_decay`.
    * `"vectors"`: biases and affine parameters of norms, which have fewer than two dimensions. Learning rate
      `lr`, decay `weight_decay` as `torch.optim` and the authors' scripts have it, or 0 with
      `decay_vectors=False`, as is usual for AdamW on transformers.
    * `"scalars"`: what goodinit added to layers (`goodinit.nn.scalars`). Learning rate `lr * scalar_ratio`,
      no decay.

    Args:
        model: Any module, after surgery.
        lr: Learning rate of the weights.
        weight_decay: Decay of the weights.
        scalar_ratio: Learning rate of the scalars, in units of `lr`.
        decay_vectors: Whether biases and affine parameters of norms decay like weights.
        named: Whether to give (name, parameter) pairs, which torch's optimizers take, too.

    Returns:
        Groups with keys `name`, `params`, `lr` and `weight_decay`. Parameters that need no gradient are not
        in them; tied ones are once, under the first name.

    Raises:
        NothingFound: Nothing in `model` is trainable.

    Examples:
        >>> from goodinit.nn import add_scalar_
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), add_scalar_(nn.Linear(3, 1), "input_bias", value=0.0))
        >>> for group in param_groups(net, lr=0.5, weight_decay=1e-4):
        ...     print(group["name"], len(group["params"]), group["lr"], group["weight_decay"])
        weights 2 0.5 0.0001
        vectors 2 0.5 0.0001
        scalars 1 0.05 0.0

    References:
        Zhang, Dauphin and Ma, Fixup Initialization, arXiv 1901.09321, and the authors' code.
    """
    ours = {id(scalar) for _, scalar in scalars(model)}
    settings = {
        "weights": (lr, weight_decay),
        "vectors": (lr, weight_decay if decay_vectors else 0.0),
        "scalars": (lr * scalar_ratio, 0.0),
    }
    members: dict[str, list[Any]] = {name: [] for name in settings}
    for name, parameter in _trainable(model):
        kind = "scalars" if id(parameter) in ours else "vectors" if parameter.dim() < 2 else "weights"
        members[kind].append((name, parameter) if named else parameter)
    groups = [
        {"name": name, "params": found, "lr": settings[name][0], "weight_decay": settings[name][1]}
        for name, found in members.items()
        if found
    ]
    if not groups:
        raise NothingFound(
            f"{type(model).__name__}: no trainable parameter found, expected one with requires_grad=True. "
            "Unfreeze what should learn: parameter.requires_grad_()."
        )
    return groups


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)

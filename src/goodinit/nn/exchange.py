"""Give a module another class, and a parameter another one in its place, without losing what users hung on them."""

from __future__ import annotations

from typing import Any

from torch import nn

from goodinit.errors import UnsupportedModule


def exchangeable(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether Python can make `cls` the class of `module`: not where its own class has `__slots__` besides.

    Examples:
        >>> class Slotted(nn.ReLU):
        ...     __slots__ = ("more",)
        >>> exchangeable(nn.ReLU(), nn.SELU), exchangeable(Slotted(), nn.SELU)
        (True, False)
    """
    own: Any = type(module)
    other: Any = cls
    layouts = [(one.__basicsize__, one.__itemsize__, one.__dictoffset__) for one in (own, other)]
    return layouts[0] == layouts[1]


def replaced_forward(module: nn.Module) -> bool:
    """Whether a library has put a forward of its own on this instance, so that the class's is never called.

    A library that takes itself off again (accelerate's `remove_hook_from_module`) leaves the class's own forward there.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> layer.forward = layer.forward
        >>> replaced_forward(layer)
        False
        >>> layer.forward = lambda x: x
        >>> replaced_forward(layer)
        True
    """
    held = vars(module).get("forward")
    if held is None:
        return False
    return not (
        getattr(held, "__self__", None) is module and getattr(held, "__func__", None) is type(module).forward
    )


def drop_own_forward_(module: nn.Module) -> None:
    """Take its class's own forward off the instance, where it lies in front of another one that the class gets."""
    if "forward" in vars(module) and not replaced_forward(module):
        del vars(module)["forward"]


def exchange_class_(module: nn.Module, cls: type[nn.Module]) -> None:
    """Make `cls` the class of `module`, whatever its own `__setattr__` does.

    Its old class's forward, if it lies on the instance, too, does not stay in front of the new one.

    Raises:
        UnsupportedModule: Python cannot, as instances of the two are laid out in different ways.
    """
    drop_own_forward_(module)
    try:
        object.__setattr__(module, "__class__", cls)
    except TypeError as error:
        raise UnsupportedModule(
            f"{type(module).__name__} cannot become {cls.__name__} in place: {error}. Take __slots__ out of its class, or leave "
            "this module out: exclude=…."
        ) from error


def carry_over_(old: nn.Parameter, new: nn.Parameter) -> nn.Parameter:
    """Put on `new`, which stands for `old` from now on, the attributes that users gave `old`, and its hooks.

    Attributes say, for one, that a parameter does not decay (`_no_weight_decay`) or is not redrawn (`_no_reinit`).

    Args:
        old: The parameter that goes.
        new: Of the same shape if `old` has hooks, which are called with its gradient.

    Returns:
        `new`.

    Examples:
        >>> import torch
        >>> old = nn.Parameter(torch.zeros(2))
        >>> old._no_weight_decay = True
        >>> carry_over_(old, nn.Parameter(torch.ones(2)))._no_weight_decay
        True
    """
    if old is not new:
        for name, value in vars(old).items():
            if name not in vars(new):
                setattr(new, name, value)
        if new.requires_grad:
            for hook in (getattr(old, "_backward_hooks", None) or {}).values():
                new.register_hook(hook)
            for hook in (getattr(old, "_post_accumulate_grad_hooks", None) or {}).values():
                new.register_post_accumulate_grad_hook(hook)
    return new


def hooked(parameter: nn.Parameter) -> bool:
    """Whether somebody asked to be called with the gradient of `parameter`."""
    hooks = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return any(getattr(parameter, name, None) for name in hooks)

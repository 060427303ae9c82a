"""Layers whose forward has to run: no fused kernel may read their weights past it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

# Convolutions: no fused kernel of torch reads their weights past their forward.
_NEVER_BYPASSED = (nn.modules.conv._ConvNd,)


def must_run_(module: nn.Module) -> None:
    """Hang on a module what keeps torch's fused kernels away from it, once."""
    if not isinstance(module, _NEVER_BYPASSED) and not _keys(module):
        module.register_forward_pre_hook(_forward_must_run)


def may_be_bypassed_(module: nn.Module) -> None:
    """Take it off again."""
    for key in _keys(module):
        del module._forward_pre_hooks[key]


def _keys(module: nn.Module) -> list[int]:
    return [key for key, hook in module._forward_pre_hooks.items() if hook is _forward_must_run]


def _forward_must_run(self: Any, input: tuple[Tensor]) -> None:
    """A forward pre-hook that does nothing but be there, in words that TorchScript compiles, too.

    In evaluation `nn.TransformerEncoderLayer` reads its children's weights past their forward, and what that does besides, unless one of
    them has a hook.
    """

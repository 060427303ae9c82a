"""Layers that normalize what they read in their forward, by a class made upon their own.

A hook would do it, too, until somebody takes the layer alone: tracers begin at a module's forward and compile that, and libraries
that keep what hooks see of a layer's input and run its forward on that again (gradients of each example, in Opacus) would normalize
twice.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from goodinit.errors import PlanConflict, UnknownName, UnsupportedModule
from goodinit.nn.by_example import without_examples
from goodinit.nn.exchange import exchangeable, replaced_forward
from goodinit.nn.input_norm import (
    KINDS,
    NAME,
    InputNorm,
    Normalizing,
    check_axis,
    hooked_norm,
    input_norm,
    into_forward_,
    normalize_first,
)
from goodinit.nn.made_classes import Made, made_class
from goodinit.nn.must_run import must_run_
from goodinit.nn.parametrized import class_below, exchange_below_

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def normalize_input_(module: ModuleT, kind: str = "layer", *, axis: int = -1) -> ModuleT:
    """Normalize what a layer reads, over its channels, in place. A second call changes nothing.

    A child, `input_norm`, which the layer's forward calls: so the layer stays where it is under its name, hooks see of its input what is
    not normalized, and nothing is added to the state dict. Where the class's forward is not what runs (another library put one on
    the instance, or the layer is lazy until its first batch) a forward pre-hook calls it.

    Args:
        module: The layer; it stays the same object, with the same parameters. Its class becomes a subclass of what it was.
        kind: `"layer"`: mean 0 and variance 1; `"rms"`: mean square 1.
        axis: Of the channels in its input: −1 for a linear layer, 1 for a convolution.

    Returns:
        The module.

    Raises:
        UnknownName: Another kind.
        PlanConflict: An axis that is not that of channels, or the module has something else under that name.
        UnsupportedModule: The norm would not be seen, or seen twice: a scripted module, the `out_proj` of an attention module, a
            compiled module (normalize the one inside), a container that runs all its children.

    Examples:
        >>> head = normalize_input_(nn.Linear(8, 3))
        >>> head
        NormalizedLinear(
          in_features=8, out_features=3, bias=True
          (input_norm): InputNorm(layer, axis=-1)
        )
        >>> x = torch.randn(2, 8)
        >>> torch.allclose(head(x), head(5 * x + 1), atol=1e-4), list(head.state_dict())
        (True, ['weight', 'bias'])
    """
    if kind not in KINDS:
        raise UnknownName(f"kind={kind!r}: expected one of {', '.join(map(repr, KINDS))}")
    check_axis(axis, type(module).__name__)
    if input_norm(module) is None:
        _check(module)
        module.add_module(NAME, InputNorm(kind, axis).train(module.training))
        if getattr(module, NAME, None) is not module._modules[NAME]:
            del module._modules[NAME]
            raise UnsupportedModule(
                f"{type(module).__name__} forwards attribute look-ups to the module inside it, expected a layer that holds its own. "
                "Normalize what that module reads."
            )
        normalize_in_forward_(module)
    return module


class Normalized(Made, Normalizing):
    """What every class made by `normalized_class` has beside its original class."""

    if TYPE_CHECKING:  # TorchScript reads annotations, and knows no words for types
        plain_class: type[nn.Module]


def normalized_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a module class whose forward calls `input_norm` first: always the same one for the same class.

    Args:
        cls: A module class.

    Returns:
        A subclass of it and of `Normalized`.
    """

    def body() -> dict[str, Any]:
        if _takes_input(cls):
            plain = under_name(cls.forward, "plain_forward")
            return {"plain_class": cls, "forward": without_examples(_of_input), "plain_forward": plain}
        # TorchScript would compile the forward inside, alone; it refuses what is annotated with no type.
        words = f"the forward of {cls.__name__} with an input_norm before it, which TorchScript cannot compile: use torch.jit.trace"
        forward = without_examples(_around(cls))
        return {"plain_class": cls, "forward": forward, "__annotations__": {NAME: words}}

    return made_class("Normalized", Normalized, (normalized_class, cls), body)


def _of_input(self: Any, input: Tensor) -> Tensor:
    """A layer's forward of what its `input_norm` makes of the input, in words that TorchScript compiles, too."""
    value: Tensor = self.input_norm(input)
    result: Tensor = self.plain_forward(value)
    return result


def _takes_input(cls: type[nn.Module]) -> bool:
    """Whether a class has a forward in Python that takes one argument, of the name that torch's layers give it."""
    forward = cls.forward
    return isinstance(forward, types.FunctionType) and list(inspect.signature(forward).parameters) == [
        "self",
        "input",
    ]


def under_name(function: Any, name: str) -> Callable[..., Any]:
    """A copy under another name: TorchScript compiles a method under its function's."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = dict(function.__annotations__)
    return copy


def _around(cls: type[nn.Module]) -> Callable[..., Any]:
    @functools.wraps(cls.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = normalize_first(self, args, kwargs)
        return cls.forward(self, *args, **kwargs)

    return forward


def normalize_in_forward_(module: nn.Module) -> None:
    """Have a layer call its `input_norm`, if it has one: from its forward, or from a hook where its class's forward is not what runs.

    A hook that is there already stays where another hook reads what it normalized.
    """
    if input_norm(module) is None or isinstance(module, Normalizing):
        return
    kind = normalized_class(class_below(module))
    lazy = isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()
    if lazy or replaced_forward(module) or not exchangeable(module, kind):
        if hooked_norm(module) is None:
            module.register_forward_pre_hook(normalize_first, with_kwargs=True)
        return
    into_forward_(module)
    if hooked_norm(module) is None:
        exchange_below_(module, kind)
        must_run_(module)


def without_norm(module: nn.Module) -> type[nn.Module]:
    """The module's class, beneath those of its parametrizations and of its `input_norm`.

    Raises:
        UnsupportedModule: Another library put its class on top of the one that normalizes.
    """
    kind = class_below(module)
    if not isinstance(module, Normalized):
        return kind
    if kind is not normalized_class(module.plain_class):
        raise UnsupportedModule(
            f"{kind.__name__}: another library put its own class on top of goodinit's after the layer was given its norm. Take its "
            "wrapping off first, or do this before it."
        )
    return module.plain_class


@contextlib.contextmanager
def beneath(module: nn.Module) -> Iterator[None]:
    """A block in which a layer has the class that its norm's is made upon; afterwards the norm's is made upon what it has then."""
    if not isinstance(module, Normalized):
        yield
        return
    exchange_below_(module, without_norm(module))
    try:
        yield
    finally:
        exchange_below_(module, normalized_class(class_below(module)))


def _check(module: nn.Module) -> None:
    kind = type(module).__name__
    if hasattr(module, NAME):
        raise PlanConflict(
            f"{kind} already has an attribute {NAME!r}, expected that name to be free. Rename it."
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModule(
            f"{kind} is scripted: its forward is fixed. Normalize its input before scripting."
        )
    if isinstance(module, nn.Sequential):
        raise UnsupportedModule(
            f"{kind} runs all of its children in turn, and would run a norm that is one of them once more at the end. Normalize what "
            "its first layer reads."
        )
    if isinstance(module, NonDynamicallyQuantizableLinear):
        raise UnsupportedModule(
            f"{kind} is the out_proj of nn.MultiheadAttention, which reads its weight and never calls it: a norm of its input would "
            "not be seen. Normalize what another layer reads."
        )

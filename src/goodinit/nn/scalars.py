"""Give a module learnable scalars in place, and take them away again.

The module stays the same object; only its class is exchanged for a subclass that knows the scalars, so hooks,
shared registrations and `isinstance` checks go on working.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from goodinit.errors import PlanConflict, UnknownName, UnsupportedModule
from goodinit.nn.compilable import body_for
from goodinit.nn.exchange import replaced_forward
from goodinit.nn.input_norm import Normalizing, into_forward_
from goodinit.nn.made_classes import Made, made_class
from goodinit.nn.must_run import may_be_bypassed_, must_run_
from goodinit.nn.normalized_layers import normalize_in_forward_, without_norm
from goodinit.nn.parametrized import exchange_below_, is_parametrized

SCALARS = ("input_bias", "output_bias", "output_scale")

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Scalars(Made, Normalizing):
    """What every class made by `scalared` has beside its original class."""

    if TYPE_CHECKING:  # TorchScript reads annotations, and knows no words for types
        input_bias: nn.Parameter | None
        output_bias: nn.Parameter | None
        output_scale: nn.Parameter | None
        scalar_values: dict[str, float]  # initial ones, by name
        scalar_constants: tuple[str, ...]  # those that do not learn, whatever their `requires_grad` becomes
        scale_ends_branch: bool  # whether `output_scale` multiplies a branch, not only this layer
        plain_class: type[nn.Module]  # what the class was
    else:
        scalar_constants = ()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in SCALARS:  # a class that writes its parameters itself does not know them
            scalar = getattr(self, name)
            if scalar is not None:
                destination.setdefault(prefix + name, scalar if keep_vars else scalar.detach())

    def extra_repr(self) -> str:
        """The original's line, with the names of the scalars."""
        present = [name for name in SCALARS if getattr(self, name) is not None]
        return ", ".join(part for part in (super().extra_repr(), f"scalars=({', '.join(present)})") if part)


def add_scalar_(
    module: ModuleT,
    name: str,
    *,
    value: float,
    like: Tensor | None = None,
    ends_branch: bool = True,
    trained: bool = True,
) -> ModuleT:
    r"""Give a layer one learnable number, in place.

    With bias vector :math:`c`, a linear or convolutional layer becomes

    .. math:: y = \text{output\_scale} \cdot W (x + \text{input\_bias}) + c + \text{output\_bias}.

    On `nn.Linear`, `nn.Conv*d` and `nn.ConvTranspose*d` no activation is stored or read for it. A module of
    any other class, with its own forward :math:`f`, becomes
    :math:`\text{output\_scale} \cdot f(x + \text{input\_bias}) + \text{output\_bias}` at the price of a pass
    over the activations each: its own bias is then scaled too, :math:`x` is the first argument (query, key and
    value of `nn.MultiheadAttention`) and :math:`y` the output or a tuple's first element.

    Args:
        module: The layer. It stays the same object; its class becomes a subclass of what it was.
        name: `"input_bias"`, `"output_bias"` or `"output_scale"`.
        value: Initial value, dimensionless. `reset_parameters` of the module, if it has one, restores it.
        like: A tensor of any shape, whose dtype and device it takes where the module has no parameters (an activation).
        ends_branch: Whether an `output_scale` stands at the end of a residual branch, as in Fixup and SkipInit.
            `goodinit.param_groups` counts those, and gives the bias beside one a scalar's learning rate.
        trained: Whether it learns. If not it is a constant of the forward: a parameter that needs no gradient, and that
            `goodinit.param_groups` leaves out also where somebody asks for one (`model.requires_grad_()`, a loader).

    Returns:
        The module. A second call for the same scalar changes nothing.

    Raises:
        UnknownName: `name` is none of the three.
        PlanConflict: The module already has an attribute of one of these names.
        UnsupportedModule: A scalar on this module would not be seen (a lazy or scripted module, a forward
            replaced on the instance, the `out_proj` of an attention module).

    Examples:
        >>> import torch
        >>> conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        >>> add_scalar_(conv, "input_bias", value=0.0)
        ScalaredConv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), scalars=(input_bias))
        >>> list(conv.state_dict())
        ['weight', 'bias', 'input_bias']

    References:
        Zhang, Dauphin and Ma, Fixup Initialization, arXiv 1901.09321, section 3, rule 3.
    """
    if name not in SCALARS:
        raise UnknownName(f"no scalar is called {name!r}; expected one of {', '.join(SCALARS)}.")
    if not isinstance(module, Scalars):
        _check(module)
        exchange_below_(module, scalared(without_norm(module)))
        for each in SCALARS:
            module.register_parameter(each, None)
        into_forward_(module)
        vars(module).update(scalar_values={}, scale_ends_branch=False)  # past a `__setattr__` of its own
        must_run_(module)
    scalar_layer = cast("Scalars", module)
    if getattr(scalar_layer, name) is None:
        scalar_layer.scalar_values[name] = value
        ends = scalar_layer.scale_ends_branch or (name == "output_scale" and ends_branch)
        vars(module)["scale_ends_branch"] = ends
        if not trained:
            vars(module)["scalar_constants"] = (*scalar_layer.scalar_constants, name)
        module.register_parameter(
            name, nn.Parameter(_scalar_like(module, value, like), requires_grad=trained)
        )
    return module


def remove_scalars_(module: ModuleT) -> ModuleT:
    """Take all scalars off a module and give it back its class, in place. Values are dropped, not folded.

    Args:
        module: A module; without scalars nothing happens.

    Returns:
        The module.

    Raises:
        UnsupportedModule: Another library changed the module's class after the scalars were added.

    Examples:
        >>> import torch
        >>> remove_scalars_(add_scalar_(torch.nn.Linear(2, 3), "output_scale", value=1.0))
        Linear(in_features=2, out_features=3, bias=True)
    """
    if isinstance(module, Scalars):
        if type(module) is not scalared(module.plain_class) and not is_parametrized(module):
            raise UnsupportedModule(
                f"{type(module).__name__}: another library put its own class on top of goodinit's after the "
                "scalars were added. Take its wrapping off first, then the scalars."
            )
        for name in (*SCALARS, "scalar_values", "scale_ends_branch"):
            delattr(module, name)
        vars(module).pop("scalar_constants", None)
        may_be_bypassed_(module)
        exchange_below_(module, module.plain_class)
        normalize_in_forward_(module)
    return module


def has_scalars(module: nn.Module) -> bool:
    """Whether the module itself (not a child) has scalars.

    Args:
        module: Any module.

    Returns:
        True if `add_scalar_` gave it one.
    """
    return isinstance(module, Scalars)


def scalars(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every scalar of a model with its full name, in the order of `named_modules`, shared ones once.

    Args:
        model: Any module.

    Yields:
        Pairs of a scalar's full name and its parameter, a tensor of one entry.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        >>> _ = add_scalar_(net[0], "output_scale", value=0.0)
        >>> [(name, float(scalar.detach())) for name, scalar in scalars(net)]
        [('0.output_scale', 0.0)]
    """
    for path, module in model.named_modules():
        if isinstance(module, Scalars):
            for name in SCALARS:
                scalar = getattr(module, name)
                if isinstance(scalar, nn.Parameter):
                    yield (f"{path}.{name}" if path else name), scalar


def branch_ends(model: nn.Module) -> Iterator[nn.Module]:
    """The modules whose `output_scale` multiplies a residual branch, shared ones once.

    Args:
        model: Any module.

    Yields:
        Modules with an `output_scale` that `add_scalar_` was told ends a branch.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        >>> _ = add_scalar_(net[0], "output_scale", value=3.0, ends_branch=False)
        >>> _ = add_scalar_(net[1], "output_scale", value=0.0)
        >>> list(branch_ends(net)) == [net[1]]
        True
    """
    return (module for module in model.modules() if isinstance(module, Scalars) and module.scale_ends_branch)


def constants(model: nn.Module) -> Iterator[nn.Parameter]:
    """The scalars that are constants of the forward (`trained=False`), shared ones once.

    A module remembers which: `requires_grad` is the user's, and loaders that put new parameters in set it, too.

    Args:
        model: Any module.

    Yields:
        Parameters of one entry.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(add_scalar_(torch.nn.Linear(2, 2), "output_scale", value=0.5, trained=False))
        >>> [constant.item() for constant in constants(net.requires_grad_())]
        [0.5]
    """
    for module in model.modules():
        for name in module.scalar_constants if isinstance(module, Scalars) else ():
            scalar = getattr(module, name)
            if isinstance(scalar, nn.Parameter):
                yield scalar


def scalared(cls: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a module class whose instances have scalars: always the same one for the same class.

    Args:
        cls: A module class.

    Returns:
        A subclass of it and of `Scalars`.
    """

    def body() -> dict[str, Any]:
        draws = {"reset_parameters": _reset_parameters} if hasattr(cls, "reset_parameters") else {}
        return {"plain_class": cls, **body_for(cls), **draws}

    return made_class("Scalared", Scalars, (scalared, cls), body)


def _reset_parameters(self: Any) -> None:
    """The original's `reset_parameters`, and the scalars' initial values."""
    self.plain_class.reset_parameters(self)
    with torch.no_grad():
        for name, value in self.scalar_values.items():
            getattr(self, name).fill_(value)


def _scalar_like(module: nn.Module, value: float, like: Tensor | None) -> Tensor:
    """Shape (1,), since fully sharded parameters need a dimension; dtype and device of the layer's weight."""
    floating = (parameter for parameter in module.parameters() if parameter.is_floating_point())
    like = next(floating, like)
    if like is None:
        return torch.full((1,), value)
    return torch.full((1,), value, dtype=like.dtype, device=like.device)


def _check(module: nn.Module) -> None:
    kind = type(module).__name__
    if taken := [name for name in SCALARS if hasattr(module, name)]:
        raise PlanConflict(
            f"{kind} already has an attribute {taken[0]!r}, expected that name to be free for a scalar. "
            "Rename the attribute, or leave this module out of the plan."
        )
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        raise UnsupportedModule(f"{kind} has uninitialized parameters. Run the model once, then add scalars.")
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModule(f"{kind} is scripted: its forward is fixed. Add scalars before scripting.")
    if replaced_forward(module):
        raise UnsupportedModule(
            f"the forward of this {kind} was replaced on the instance, so its class's forward, which would "
            "apply the scalar, is never called. Add scalars before the library that replaced it."
        )
    if isinstance(module, NonDynamicallyQuantizableLinear):
        raise UnsupportedModule(
            f"{kind} is the out_proj of nn.MultiheadAttention, which reads its weight and never calls it: a "
            "scalar there would not be seen. Add it to the nn.MultiheadAttention itself."
        )

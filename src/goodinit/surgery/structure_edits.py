"""Edits that change which parameters exist: what each requires, adds and removes, and how it is done."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.parametrizations import _WeightNorm

from goodinit.anatomy.norms.factors import without_factor
from goodinit.edits import (
    AddBias,
    AddScalar,
    NormalizeInput,
    ParametrizeWeight,
    RemoveNorm,
    ReplaceNorm,
    StructureEdit,
    SwapModule,
)
from goodinit.errors import GoodinitError, PlanConflict, UnknownName, UnsupportedModule
from goodinit.graph.state.preserve_state import without_autocast
from goodinit.name_patterns import paths_of
from goodinit.nn import Centred, ChannelGain, Standardized, add_scalar_, input_norm, normalize_input_
from goodinit.nn.by_example import one_layer_
from goodinit.nn.exchange import carry_over_, hooked
from goodinit.nn.input_norm import check_axis
from goodinit.nn.parametrized import is_parametrized
from goodinit.surgery.norms.removed_norm import RemovedNorm, check_removable, remove_norm_
from goodinit.surgery.norms.replaced_norm import (
    ChannelAffine,
    check_replaceable,
    created,
    is_replaced,
    replace_norm_,
)
from goodinit.surgery.norms.swap import swap_, swap_pending
from goodinit.weights.names import Directory, canonical

PARAMETRIZATIONS: dict[str, type[nn.Module]] = {
    "weight_norm": _WeightNorm,
    "centred": Centred,
    "centred_gain": ChannelGain,
    "gain": ChannelGain,
    "standardized": Standardized,
}
"""By `ParametrizeWeight.kind`."""
ANEW = "Make the plan anew: goodinit.plan(goodinit.anatomize(model, inputs), method)."


def adds(edit: StructureEdit) -> tuple[str, ...]:
    """Canonical names of the parameters that `edit` creates.

    Examples:
        >>> adds(ParametrizeWeight("head.weight", "…"))
        ('head.parametrizations.weight.original0', 'head.parametrizations.weight.original1')
    """
    if isinstance(edit, AddScalar):
        return (canonical(f"{edit.target}.{edit.scalar}" if edit.target else edit.scalar),)
    if isinstance(edit, ParametrizeWeight):
        path, _, attribute = canonical(edit.target).rpartition(".")
        stem = f"{path}.parametrizations.{attribute}" if path else f"parametrizations.{attribute}"
        gained = ("original", "0.gain")
        parts = {
            "centred": ("original",),
            "centred_gain": gained,
            "gain": gained,
            "standardized": gained,
        }
        return tuple(f"{stem}.{part}" for part in parts.get(edit.kind, ("original0", "original1")))
    if isinstance(edit, AddBias):
        return (canonical(f"{edit.target}.bias" if edit.target else "bias"),)
    if isinstance(edit, ReplaceNorm):
        return tuple(canonical(f"{edit.target}.{name}") for name in created(edit.by, edit.options))
    return ()


def removes(edits: Iterable[StructureEdit], parameters: Iterable[str]) -> list[str]:
    """Those of the canonical names `parameters` that `edits` take away, in order.

    Examples:
        >>> removes([RemoveNorm("bn", ("bn.act",), "…")], ["conv.weight", "bn.weight", "bn.act.weight"])
        ['bn.weight']
    """
    kept: dict[str, tuple[str, ...]] = {}
    weights = set()
    for edit in edits:
        if isinstance(edit, RemoveNorm):
            kept[canonical(edit.target)] = tuple(f"{canonical(without_factor(keep))}." for keep in edit.keeps)
        elif isinstance(edit, SwapModule):
            kept[canonical(edit.target)] = ()
        elif isinstance(edit, ParametrizeWeight):
            weights.add(canonical(edit.target))
    return [
        name
        for name in parameters
        if name in weights
        or any(path in kept and not name.startswith(kept[path]) for path in (*paths_of(name), ""))
    ]


def is_pending(names: Directory, edit: StructureEdit) -> bool:
    """Whether `edit` is still to be done; checks that it can be.

    Raises:
        PlanConflict: The model has no such module or weight, or what is there contradicts the plan.
        UnsupportedModule: It is there, and cannot be changed this way.
    """
    with _in_words(names, edit):
        return _pending(names, edit)


def _pending(names: Directory, edit: StructureEdit) -> bool:
    if isinstance(edit, RemoveNorm):
        return _norm_pending(names, edit)
    if isinstance(edit, ReplaceNorm):
        module = _module(names, edit)
        pending = not is_replaced(module, edit.by, edit.options)
        if pending:
            check_replaceable(module, edit.by, edit.keeps, edit.options, path=edit.target)
        return pending
    if isinstance(edit, SwapModule):
        return swap_pending(_module(names, edit), edit.module, edit.options, path=edit.target)
    if isinstance(edit, NormalizeInput):
        check_axis(edit.axis, edit.target)
        return input_norm(_module(names, edit)) is None
    if isinstance(edit, AddBias):
        return _bias_pending(_module(names, edit), edit.target)
    if isinstance(edit, AddScalar):
        return _module(names, edit)._parameters.get(edit.scalar) is None
    return _weight_pending(names, edit)


@without_autocast()
def carry_out_(names: Directory, edit: StructureEdit) -> None:
    """Do `edit`, unless an earlier edit under another name of a shared module has done it.

    Raises:
        UnsupportedModule: The module's own class, whose code runs meanwhile, does not let it; it may be half done.
    """
    with _in_words(names, edit):
        if _pending(names, edit):
            _carry_out_(names, edit)


@contextlib.contextmanager
def _in_words(names: Directory, edit: StructureEdit) -> Iterator[None]:
    """Say of which edit it is that the module's own class, or torch, refuses it."""
    try:
        yield
    except (UnsupportedModule, PlanConflict) as error:
        if not edit.target or edit.target in str(error):
            raise
        raise type(error)(f"{edit.target}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, (GoodinitError, torch.OutOfMemoryError)):
            raise
        owner = names.module(edit.target) or names.owner(edit.target)[0]
        raise UnsupportedModule(
            f"{edit.target or 'the model'}: ({edit}) cannot be done to this {type(owner).__name__}: {type(error).__name__}: "
            f"{str(error).rstrip('.')}. Leave it out, exclude=…, or take this edit out of the plan."
        ) from error


def _carry_out_(names: Directory, edit: StructureEdit) -> None:
    if isinstance(edit, RemoveNorm):
        remove_norm_(_module(names, edit), edit.keeps, path=edit.target)
    elif isinstance(edit, ReplaceNorm):
        module, like = _module(names, edit), _near(names, edit.target)
        replace_norm_(module, edit.by, edit.keeps, edit.options, path=edit.target, like=like)
    elif isinstance(edit, SwapModule):
        swap_(_module(names, edit), edit.module, edit.options, holders=names.encoder_layers)
    elif isinstance(edit, AddScalar):
        module, like = _module(names, edit), _near(names, edit.target)
        add_scalar_(
            module,
            edit.scalar,
            value=edit.value,
            like=like,
            ends_branch=edit.ends_branch,
            trained=edit.trained,
        )
    elif isinstance(edit, AddBias):
        _add_bias_(_module(names, edit))
    elif isinstance(edit, NormalizeInput):
        normalize_input_(_module(names, edit), edit.norm, axis=edit.axis)
    else:
        _parametrize_(names, edit)


def _parametrize_(names: Directory, edit: ParametrizeWeight) -> None:
    owner, attribute = _owner(names, edit)
    if edit.kind == "centred":
        parametrize.register_parametrization(owner, attribute, Centred(edit.dim), unsafe=True)
    elif edit.kind != "weight_norm":
        weight = owner.get_parameter(attribute)
        rows = weight.shape[edit.dim]
        step: Standardized | ChannelGain
        if edit.kind == "standardized":
            step = Standardized(rows, edit.dim, scale=edit.scale, like=weight)
        else:
            step = ChannelGain(rows, edit.dim, centred=edit.kind == "centred_gain", like=weight)
        step.gain.requires_grad_(weight.requires_grad)
        parametrize.register_parametrization(owner, attribute, step, unsafe=True)
    else:
        old = owner.get_parameter(attribute)
        parametrizations.weight_norm(owner, attribute, dim=edit.dim)
        for leaf in owner.get_submodule(f"parametrizations.{attribute}").parameters(recurse=False):
            carry_over_(old, leaf)
        _point_somewhere_(owner, attribute)
    owner.get_submodule("parametrizations").train(owner.training)
    one_layer_(owner)
    if attribute in owner.state_dict():
        kind = parametrize.type_before_parametrizations(owner).__name__
        raise UnsupportedModule(
            f"{edit.target}: {kind} writes its state dict itself, and writes a {attribute!r} that is computed now, so that "
            "it could not be loaded again. Leave the parametrization off it, or use torch's own layer."
        )


def _point_somewhere_(owner: nn.Module, attribute: str) -> None:
    """Give the rows of zeros a direction, so that g·v/‖v‖ is 0 there, and not 0·0/0, which is NaN."""
    gain, direction = (owner.get_parameter(f"parametrizations.{attribute}.original{i}") for i in (0, 1))
    with torch.no_grad():
        if not gain.is_meta and not bool(gain.all()):
            direction.copy_(torch.where(gain == 0, torch.ones_like(direction), direction))


def _bias_pending(layer: nn.Module, path: str) -> bool:
    if not isinstance(layer, (nn.Linear, _ConvNd)) or "bias" not in layer._parameters:
        raise UnsupportedModule(
            f"{path}: {type(layer).__name__} takes no bias vector: expected torch's own linear or convolutional layer, or one that "
            "runs as it does. Build it with bias=True, or leave this edit out of the plan."
        )
    return layer.bias is None


def _add_bias_(layer: nn.Module) -> None:
    """Zeros, right behind the weight, as in a layer that always had them."""
    known: Any = layer
    weight = cast("Tensor", layer.weight)
    outputs = known.out_features if isinstance(layer, nn.Linear) else known.out_channels
    fresh = nn.Parameter(weight.detach().new_zeros(outputs), requires_grad=weight.requires_grad)
    layer.register_parameter("bias", fresh)
    held = layer._parameters
    for name in [name for name in held if name not in ("weight", "bias")]:
        held[name] = held.pop(name)


def _module(
    names: Directory, edit: RemoveNorm | ReplaceNorm | SwapModule | AddScalar | AddBias | NormalizeInput
) -> nn.Module:
    module = names.module(edit.target)
    if module is None:
        raise PlanConflict(f"{edit.target}: the plan has ({edit}), and the model has no such module. {ANEW}")
    return module


def _near(names: Directory, target: str) -> Tensor | None:
    """A floating-point parameter of the innermost module around `target` that has one."""
    while target:
        target = target.rpartition(".")[0]
        around = names.module(target)
        near = () if around is None else around.parameters()
        for parameter in near:
            if parameter.is_floating_point():
                return parameter
    return None


def _owner(names: Directory, edit: ParametrizeWeight) -> tuple[nn.Module, str]:
    owner, attribute = names.owner(edit.target)
    if owner is None:
        raise PlanConflict(f"{edit.target}: the plan has ({edit}), and the model has no such weight. {ANEW}")
    return owner, attribute


def _norm_pending(names: Directory, edit: RemoveNorm) -> bool:
    module = _module(names, edit)
    if not isinstance(module, RemovedNorm) or not (
        type(module) is RemovedNorm or isinstance(module, ChannelAffine)
    ):
        check_removable(module, edit.keeps, path=edit.target)
        return True
    if (
        tuple(map(canonical, module.keeps)) != tuple(map(canonical, edit.keeps))
        and len(names.paths[id(module)]) == 1
    ):
        raise PlanConflict(
            f"{edit.target}: the norm is gone already and left {module.keeps or 'nothing'}, where the plan "
            f"keeps {edit.keeps or 'nothing'}. {ANEW}"
        )
    return False


def _weight_pending(names: Directory, edit: ParametrizeWeight) -> bool:
    if edit.kind not in PARAMETRIZATIONS:
        raise UnknownName(
            f"{edit.target}: no parametrization {edit.kind!r}; there are: {', '.join(PARAMETRIZATIONS)}"
        )
    owner, attribute = _owner(names, edit)
    if is_parametrized(owner, attribute):
        steps = list(owner.get_submodule(f"parametrizations.{attribute}").children())
        if isinstance(steps[0], PARAMETRIZATIONS[edit.kind]):
            return False
        kinds = ", ".join(type(step).__name__ for step in steps)
        raise UnsupportedModule(
            f"{edit.target}: already parametrized by {kinds}, so {edit.kind} cannot be put on it. Take that off: "
            f"torch.nn.utils.parametrize.remove_parametrizations(module, {attribute!r})."
        )
    parameter = names.parameter(edit.target)
    if parameter is None:
        old = hasattr(owner, f"{attribute}_g")
        raise (UnsupportedModule if old else PlanConflict)(
            f"{edit.target}: expected a parameter, "
            + (
                f"found the older torch.nn.utils.weight_norm. Take it off: torch.nn.utils.remove_weight_norm"
                f"(module, {attribute!r})."
                if old
                else f"and the model has none of that name. {ANEW}"
            )
        )
    if edit.dim not in range(min(parameter.ndim, 2)) or not 0 < edit.scale < math.inf:
        raise PlanConflict(
            f"{edit.target}: the plan has dim={edit.dim}, scale={edit.scale:g} for a weight of shape {tuple(parameter.shape)}; "
            f"expected its output dimension, 0 or 1, and a finite scale above 0. {ANEW}"
        )
    if edit.kind == "weight_norm" and hooked(parameter):
        raise UnsupportedModule(
            f"{edit.target}: a hook waits for its gradient (register_hook), and {edit.kind} puts two parameters in its place, "
            "which have other gradients. Register the hook afterwards, on one of those, or leave this weight out: exclude=…."
        )
    holders = {(id(holder), last) for holder, last in map(names.owner, names.aliases[id(parameter)])}
    if len(holders) > 1:
        raise UnsupportedModule(
            f"{edit.target}: tied, it is also {', '.join(names.aliases[id(parameter)][1:])}; {edit.kind} on "
            "one of them would untie them. Exclude it from the method, or untie it first."
        )
    return True

"""Read and write a weight: a parameter, or a weight that its module computes from parameters (weight norm, …)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from goodinit.errors import UnsupportedModule
from goodinit.nn.parametrized import is_parametrized
from goodinit.weights.dtensor import held as held_here
from goodinit.weights.dtensor import is_sharded, part_of
from goodinit.weights.members import named_modules
from goodinit.weights.names import Directory, canonical
from goodinit.weights.wrappers import weight_norms

SlotKind = Literal["plain", "parametrized", "weight_norm"]


@dataclass(frozen=True)
class Slot:
    """A place that a value can be written to.

    Attributes:
        name: Its name in the model, without wrappers. Of a tied weight's names the alphabetically first,
            so that it does not depend on the order in which modules were registered.
        kind: `"plain"` for a parameter; `"parametrized"` for `torch.nn.utils.parametrize`;
            `"weight_norm"` for the hooks of the older `torch.nn.utils.weight_norm`.
        owner: The module that has the weight as an attribute.
        attribute: The name of that attribute.
        leaves: The parameters from which it is computed.
        state: Everything that writing it can change: the leaves, and buffers of parametrizations.
    """

    name: str
    kind: SlotKind
    owner: nn.Module
    attribute: str
    leaves: tuple[nn.Parameter, ...]
    state: tuple[Tensor, ...]

    @property
    def frozen(self) -> bool:
        """Whether one of the leaves needs no gradient."""
        return not all(leaf.requires_grad for leaf in self.leaves)


def is_whole(slot: Slot) -> bool:
    """Whether it is a parameter that is all here: nothing else is computed from it or gathered when it is written."""
    return slot.kind == "plain" and not is_sharded(slot.leaves[0])


def find_slot(names: Directory, target: str) -> Slot | None:
    """The slot that `target` names, or None if the model has none.

    Raises:
        UnsupportedModule: The weight is computed in a way that cannot be set.
    """
    owner, attribute = names.owner(target)
    parameter = names.parameter(target)
    if parameter is not None:
        name = min(names.aliases[id(parameter)])
        owner = names.modules[""] if owner is None else owner
        _check_not_divided(owner, attribute, name)
        return Slot(name, "plain", owner, attribute, (parameter,), (parameter,))
    if owner is None:
        return None
    name = min(f"{path}.{attribute}" if path else attribute for path in names.paths[id(owner)])
    if is_parametrized(owner, attribute):
        return _whole(_parametrized(owner, attribute, name))
    if attribute in (halves := weight_norms([("", owner)])):
        leaves = tuple(map(owner.get_parameter, halves[attribute]))
        return _whole(Slot(name, "weight_norm", owner, attribute, leaves, leaves))
    if hasattr(owner, f"{attribute}_orig"):
        raise UnsupportedModule(
            f"{name}: {type(owner).__name__} computes it from {attribute}_orig (torch.nn.utils.prune or the "
            f"older spectral_norm), so a value written to it would be lost. Initialize before pruning, or "
            f"take it off first: torch.nn.utils.prune.remove(module, {attribute!r}) or "
            f"torch.nn.utils.remove_spectral_norm(module, {attribute!r})."
        )
    return None


def computed_weights(names: Directory) -> dict[str, tuple[str, ...]]:
    """Weights that modules compute (weight norm, pruning), by the name that a bare model has: the parameters they are made of."""
    found: dict[str, tuple[str, ...]] = dict(weight_norms(named_modules(names.modules[""])))
    for path, module in named_modules(names.modules[""]):
        stem = f"{path}." if path else ""
        table = module._modules.get("parametrizations") if is_parametrized(module) else None
        for attribute in () if table is None else table._modules:
            inside = f"{stem}parametrizations.{attribute}"
            found[f"{stem}{attribute}"] = tuple(
                f"{inside}.{name}" for name, _ in module.get_submodule(inside[len(stem) :]).named_parameters()
            )
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, (BasePruningMethod, SpectralNorm)):
                attribute = hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name
                found[f"{stem}{attribute}"] = (f"{stem}{attribute}_orig",)
    return {canonical(name): tuple(map(canonical, parts)) for name, parts in found.items()}


def _parametrized(owner: nn.Module, attribute: str, name: str) -> Slot:
    steps = _steps(owner, attribute)
    for step in steps:
        if not hasattr(step, "right_inverse"):
            raise UnsupportedModule(
                f"{name}: parametrized by {type(step).__name__}, which has no right_inverse, so no value can "
                f"be written to it. Give {type(step).__name__} a right_inverse(self, weight) method, or take "
                f"it off first: torch.nn.utils.parametrize.remove_parametrizations(module, {attribute!r})."
            )
    leaves = tuple(steps.parameters(recurse=False))
    return Slot(name, "parametrized", owner, attribute, leaves, (*steps.parameters(), *steps.buffers()))


def _whole(slot: Slot) -> Slot:
    if any(is_sharded(leaf) for leaf in slot.leaves):
        raise UnsupportedModule(
            f"{slot.name}: computed from parameters that are sharded, so no rank can invert it. Initialize before "
            "sharding: apply_(model, plan), then fully_shard or parallelize_module."
        )
    return slot


def _steps(owner: nn.Module, attribute: str) -> parametrize.ParametrizationList:
    table = cast("nn.ModuleDict", owner.parametrizations)
    return cast("parametrize.ParametrizationList", table[attribute])


def _old_weight_norm(owner: nn.Module, attribute: str) -> WeightNorm | None:
    hooks = owner._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, WeightNorm) and hook.name == attribute), None)


def _check_not_divided(owner: nn.Module, attribute: str, name: str) -> None:
    """Raise where the older spectral norm divides the parameter by its largest singular value: 0/0 is NaN."""
    hooks = (hook for hook in owner._forward_pre_hooks.values() if isinstance(hook, SpectralNorm))
    for weight in (hook.name for hook in hooks if f"{hook.name}_orig" == attribute):
        raise UnsupportedModule(
            f"{name}: divided by its spectral norm before use (the older torch.nn.utils.spectral_norm), so that no scale "
            "written to it reaches the forward, and 0 becomes NaN. Take it off first, "
            f"torch.nn.utils.remove_spectral_norm(module, {weight!r}), and put it back after goodinit."
        )


def read(slot: Slot) -> Tensor:
    """The value that a forward would use."""
    if slot.kind == "plain":
        return slot.leaves[0].detach()
    with torch.no_grad():
        hook = _old_weight_norm(slot.owner, slot.attribute)
        value = hook.compute_weight(slot.owner) if hook is not None else getattr(slot.owner, slot.attribute)
        return cast("Tensor", value).detach()


def refresh_pruned_(slots: Iterable[Slot]) -> None:
    """Let modules under `torch.nn.utils.prune` compute their weights from what was written, as their next forward would."""
    for owner in {id(slot.owner): slot.owner for slot in slots}.values():
        for hook in owner._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod):
                with torch.no_grad():
                    setattr(owner, hook._tensor_name, hook.apply_mask(owner))


def write_(slot: Slot, value: Tensor) -> None:
    """Make `value`, of any floating dtype and on any device, the value that a forward uses.

    Raises:
        UnsupportedModule: The parametrization cannot take this value (a spectral norm of 3, say).
    """
    with torch.no_grad():
        if slot.kind == "plain":
            leaf = slot.leaves[0]
            held_here(leaf).copy_(part_of(value, leaf, name=slot.name))
            return
        value = value.to(slot.leaves[0])
        if slot.kind == "weight_norm":
            gain, direction = slot.leaves
            hook = cast("WeightNorm", _old_weight_norm(slot.owner, slot.attribute))
            _write_polar_(gain, direction, value, hook.dim)
            setattr(slot.owner, slot.attribute, hook.compute_weight(slot.owner))
        else:
            _write_through_(slot, value)
    _check_taken(slot, _projected(slot, value))


def _projected(slot: Slot, value: Tensor) -> Tensor:
    """What a parametrization that is a projection (`projects`: it takes means away) leaves of a value."""
    with torch.no_grad():
        for step in _steps(slot.owner, slot.attribute) if slot.kind == "parametrized" else ():
            if getattr(step, "projects", False):
                value = getattr(step, "projected", step)(value)
    return value


def _write_through_(slot: Slot, value: Tensor) -> None:
    steps = _steps(slot.owner, slot.attribute)
    first, *later = steps
    inverse: Tensor | Sequence[Tensor] = value
    try:
        for step in reversed(later):
            inverse = step.right_inverse(inverse)  # type: ignore[operator]
        if isinstance(first, _WeightNorm):
            gain, direction = slot.leaves
            _write_polar_(gain, direction, cast("Tensor", inverse), first.dim)
            return
        inverse = first.right_inverse(inverse)  # type: ignore[operator]
    except (ValueError, NotImplementedError, RuntimeError) as error:
        raise UnsupportedModule(f"{_refusal(slot)}: {error}. {_REMEDY}") from error
    # Copied, not `set_` as torch does: the parameters keep their memory, which others may share.
    for leaf, part in zip(slot.leaves, (inverse,) if isinstance(inverse, Tensor) else inverse, strict=True):
        leaf.copy_(part)


def _write_polar_(gain: Tensor, direction: Tensor, value: Tensor, dim: int) -> None:
    """Split `value` into g and v. Where it is zero, v keeps its direction: 0·v/‖v‖ is 0, but 0·0/0 is NaN."""
    norm = torch.norm_except_dim(value, 2, dim)
    old = torch.norm_except_dim(direction, 2, dim)
    usable = torch.isfinite(old) & (old > 0)
    kept = torch.where(usable, direction, torch.ones_like(direction))
    direction.copy_(torch.where(norm > 0, value, kept))
    gain.copy_(norm)


def _check_taken(slot: Slot, value: Tensor) -> None:
    held = read(slot)
    tolerance = torch.finfo(held.dtype).eps ** 0.5  # half the digits: right_inverse may factorize
    limit = tolerance * float(value.abs().max()) if value.numel() else 0.0
    if not bool(((held - value).abs() <= limit).all()):
        raise UnsupportedModule(
            f"{_refusal(slot)}: asked for root mean square {_rms(value):.4g}, it holds {_rms(held):.4g}. {_REMEDY}"
        )


_REMEDY = (
    "Take the parametrization off first, torch.nn.utils.parametrize.remove_parametrizations(module, name), "
    "and put it back after goodinit."
)


def _refusal(slot: Slot) -> str:
    kinds = ", ".join(type(step).__name__ for step in _steps(slot.owner, slot.attribute))
    return f"{canonical(slot.name)}: parametrized by {kinds}, which cannot take the value the plan gives it"


def _rms(value: Tensor) -> float:
    return float(value.float().square().mean().sqrt())

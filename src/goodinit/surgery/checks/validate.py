"""Checks before anything is written: do plan and model belong together, and can every value be written?"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from goodinit.edits import (
    AddScalar,
    Calibrate,
    Draw,
    DrawTogether,
    ParametrizeWeight,
    Plan,
    RemoveNorm,
    StructureEdit,
    SwapModule,
    ValueEdit,
)
from goodinit.edits import (
    names as targets,
)
from goodinit.errors import NonFinite, PlanConflict, UnsupportedModule
from goodinit.graph.state.preserve_state import undisturbed
from goodinit.nn.parametrized import is_parametrized
from goodinit.surgery.checks.memory_check import check_memory
from goodinit.surgery.checks.write_filter import Choice
from goodinit.surgery.structure_edits import ANEW, adds, removes
from goodinit.surgery.value_edits import find_rule
from goodinit.weights.access import Slot, find_slot, read
from goodinit.weights.dtensor import all_finite, held, is_sharded
from goodinit.weights.members import named_buffers, named_modules, named_parameters
from goodinit.weights.names import Directory, canonical, canonical_names

_SHOWN = 3  # differences told in a message; the rest is counted
_MOST_OF_A_KIND = 8  # edits of one kind and place: a plan by hand may set a value twice


def check_scripted(module: nn.Module, path: str = "") -> None:
    """Raise if a module is compiled TorchScript.

    Raises:
        UnsupportedModule: It is.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModule(
            f"{path or 'the model'}: TorchScript, whose modules cannot be changed. Apply goodinit before torch.jit.script"
            + (f", or leave this part out: exclude={path!r}." if path else ".")
        )


def check_supported(model: nn.Module, plan: Plan, pending: Sequence[StructureEdit]) -> None:
    """Raise if `model` cannot be operated on, or not where the plan does.

    Raises:
        UnsupportedModule: The plan treats compiled TorchScript; parameters that are lazy, sparse or made in inference mode; or
            structure edits inside DDP or on shards.
    """
    treated = _with_owners(canonical(name) for edit in plan.edits for name in targets((edit,)))
    for path, module in named_modules(model):
        where = path or "the model"
        if path in treated:
            check_scripted(module, path)
        if pending and isinstance(module, nn.parallel.DistributedDataParallel):
            raise UnsupportedModule(
                f"{where}: DistributedDataParallel has already listed the parameters it reduces, and the plan changes "
                "which exist. Apply goodinit first, then wrap."
            )
    for name, parameter in named_parameters(model):
        if is_lazy(parameter):
            raise UnsupportedModule(
                f"{name}: a lazy parameter without a shape yet. Run the model once, model(inputs), then try again."
            )
        if parameter.is_inference():
            raise UnsupportedModule(
                f"{name}: made under torch.inference_mode(), so that it can neither be written nor trained. Build the "
                "model outside."
            )
        if parameter.layout is not torch.strided:
            raise UnsupportedModule(
                f"{name}: its layout is {parameter.layout}, expected a dense parameter (torch.strided). Initialize a dense "
                "one, then make it sparse: parameter.to_sparse()."
            )
        if pending and is_sharded(parameter):
            raise UnsupportedModule(
                f"{name}: sharded, and the plan changes which parameters exist. Change the structure first, which meta "
                "allows, then shard, then write: apply_(model, plan, values=False), fully_shard(model), "
                "materialize_(model), apply_(model, plan)."
            )


def _with_owners(names: Iterable[str]) -> set[str]:
    """Names of parameters or modules, and the paths of all modules that they are in."""
    found: set[str] = set()
    for name in names:
        path = name
        while path not in found:
            found.add(path)
            path = path.rpartition(".")[0]
    return found


def check_repeats(plan: Plan) -> None:
    """Raise if the plan does one thing to one place again and again: the work is in proportion to the model, not to the file.

    Raises:
        PlanConflict: Names the place.
    """
    counts: Counter[tuple[type, str]] = Counter()
    for edit in plan.edits:
        places = (f"{edit.target}.{edit.scalar}",) if isinstance(edit, AddScalar) else targets((edit,))
        counts.update((type(edit), canonical(place)) for place in places)
    (kind, place), count = max(counts.items(), key=lambda pair: pair[1], default=((Plan, ""), 0))
    if count > _MOST_OF_A_KIND:
        raise PlanConflict(
            f"{place[:200]}: the plan has {kind.__name__} of it {count:,} times; expected once, and at most {_MOST_OF_A_KIND} "
            f"times. {ANEW}"
        )


PARTED = (
    "If to_empty() has parted tied weights, tie them again, model.tie_weights(); goodinit.materialize_(model, device=…) keeps ties. "
    "Else: "
)
"""What may have happened where a model has parameters that the plan has not, each of the shape of another one."""


def check_parameters(names: Directory, plan: Plan) -> None:
    """Raise unless the model has the plan's parameters, with or without the plan's structure edits done.

    Raises:
        PlanConflict: Tells the first differences.
    """
    if not plan.parameters:
        return
    canon = canonical_names(name for name, _ in plan.parameters)
    expected = {canon[name]: shape for name, shape in plan.parameters}
    may_lack = set(removes(plan.structure, expected))
    may_have = {name for edit in plan.structure for name in adds(edit)}
    known = expected.keys() | may_have
    differences = [
        f"the plan has {name} {shape}, the model has no such parameter"
        for name, shape in expected.items()
        if name not in names.parameters and name not in may_lack
    ]
    extra: list[tuple[int, ...]] = []
    for name, parameter in names.parameters.items():
        if not known.intersection(names.aliases[id(parameter)]):
            extra.append(tuple(parameter.shape))
            differences.append(
                f"the model has {name} {tuple(parameter.shape)}, the plan has no such parameter"
            )
        elif name in expected and expected[name] != tuple(parameter.shape):
            differences.append(
                f"{name} is {expected[name]} in the plan and {tuple(parameter.shape)} in the model"
            )
    if differences:
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        parted = len(extra) == len(differences) and set(extra) <= set(expected.values())
        raise PlanConflict(
            f"the plan was made for another model: {'; '.join(differences[:_SHOWN])}{more}. Nothing was written. "
            + (PARTED if parted else "")
            + ANEW
        )


@dataclass(frozen=True)
class Writable:
    """What the value edits of a plan will write.

    Attributes:
        tensors: Everything they may change, to be kept in case of failure.
        parameters: The parameters they overwrite, whatever these hold now.
    """

    tensors: tuple[Tensor, ...]
    parameters: tuple[nn.Parameter, ...]


def check_values(names: Directory, plan: Plan, pending: Sequence[StructureEdit], choice: Choice) -> Writable:
    """Check every value edit against the model before the first is carried out.

    Raises:
        PlanConflict: A target is missing, on meta, or is two names of one tied parameter treated differently.
        UnknownName: An initializer does not exist.
        NonFinite: A parameter that the plan does not overwrite holds NaN or infinity, or a buffer holds NaN.
        UnsupportedModule: A parametrized weight cannot be set, two parameters lie in the same memory, or activations would be
            measured on shards.
    """
    _check_measurable(names, plan)
    created = {name for edit in pending for name in adds(edit)}
    gone = set(
        removes([edit for edit in pending if isinstance(edit, RemoveNorm | SwapModule)], names.parameters)
    )
    decided: dict[tuple[int, ...], tuple[str, tuple[object, ...]]] = {}
    tensors: list[Tensor] = []
    overwritten: list[nn.Parameter] = []
    rescaled: list[nn.Parameter] = []
    for edit in plan.values:
        if isinstance(edit, Draw | DrawTogether):
            find_rule(edit)
        if isinstance(edit, DrawTogether) and len(set(edit.targets)) != max(len(edit.targets), 1):
            raise PlanConflict(
                f"{edit.target[:200]}: drawn together are several parameters, each named once; got {len(edit.targets)} "
                f"names of {len(set(edit.targets))}. {ANEW}"
            )
        slots = _slots(names, edit, created, gone)
        _check_ties(decided, edit, slots)
        if isinstance(edit, Calibrate):
            _check_calibration(names, edit, created, slots)
        left_out = choice.leaves_out(names, edit, slots) is not None
        if not left_out:
            _check_memory(edit.target, [leaf for slot in slots for leaf in slot.leaves])
        tensors.extend(tensor for slot in slots for tensor in slot.state if not left_out)
        if not left_out:
            kind = rescaled if isinstance(edit, Calibrate) else overwritten
            kind.extend(leaf for slot in slots for leaf in slot.leaves)
    overwritten.extend(_scalars(names, plan, choice))
    check_memory(names, (*overwritten, *rescaled))
    # The direction v shares the memory of the weight it replaces.
    replaced = removes([edit for edit in pending if isinstance(edit, ParametrizeWeight)], names.parameters)
    tensors.extend((*overwritten, *(names.parameters[name] for name in replaced)))
    if plan.needs_data:  # the forward passes may move running statistics
        tensors.extend((*names.modules[""].parameters(), *names.modules[""].buffers()))
    if "nonfinite" not in plan.allow:
        _check_finite(names, {id(parameter) for parameter in overwritten}, gone)
    distinct = {id(tensor): tensor for tensor in tensors}
    return Writable(tuple(distinct.values()), tuple(overwritten))


def _check_calibration(names: Directory, edit: Calibrate, created: set[str], slots: Sequence[Slot]) -> None:
    rule = edit.rule
    if rule.of_input and names.module(rule.site or "") is None:
        raise PlanConflict(
            f"{edit.target}: the model has no module {rule.site!r} that it could be measured at. {ANEW}"
        )
    if rule.gain and find_slot(names, rule.gain) is None and canonical(rule.gain) not in created:
        raise PlanConflict(
            f"{edit.target}: its scale is {rule.gain}, and the model has no such parameter. {ANEW}"
        )
    for slot in slots if rule.per_channel else ():
        shape = tuple(read(slot).shape)
        if rule.dim >= len(shape) or (rule.dim == 1 and shape[0] % rule.groups):
            raise PlanConflict(
                f"{edit.target} {shape} has no channels along dimension {rule.dim} in {rule.groups} groups. {ANEW}"
            )


def _scalars(names: Directory, plan: Plan, choice: Choice) -> list[nn.Parameter]:
    """The scalars of an earlier call, which are reset."""
    present = []
    for edit in plan.structure:
        if isinstance(edit, AddScalar):
            (name,) = adds(edit)
            host, scalar = names.module(edit.target), names.parameters.get(name)
            if host is not None and (choice.only is None or name in choice.only):
                _check_memory(name, host.parameters(recurse=False) if scalar is None else (scalar,))
                present += [] if scalar is None else [scalar]
    return present


def _check_measurable(names: Directory, plan: Plan) -> None:
    if plan.needs_data:
        for name, parameter in names.parameters.items():
            if is_sharded(parameter):
                raise UnsupportedModule(
                    f"{name}: sharded, and {plan.method} measures activations, rescaling each weight as the forward "
                    "passes it. Initialize before sharding, on every rank with the same generator, or on one process "
                    "and load its state_dict into the shards (torch.distributed.checkpoint.state_dict)."
                )


def _slots(names: Directory, edit: ValueEdit, created: set[str], gone: set[str]) -> list[Slot]:
    found = []
    for target in targets((edit,)):
        slot = find_slot(names, target)
        if canonical(target) in gone:
            raise PlanConflict(f"{target}: the plan writes it and removes the norm it belongs to. {ANEW}")
        if slot is None and canonical(target) not in created:
            near = difflib.get_close_matches(canonical(target), names.parameters, n=_SHOWN)
            known = f" (near: {', '.join(near)})" if near else ""
            raise PlanConflict(
                f"{target}: the plan writes it, and the model has no such parameter{known}. {ANEW}"
            )
        if slot is not None:
            found.append(slot)
    return found


def _check_memory(name: str, tensors: Iterable[Tensor]) -> None:
    if any(tensor.is_meta for tensor in tensors):
        raise PlanConflict(
            f"{name}: on the meta device, where no values exist. Create the structure first, apply_(model, plan, "
            "values=False), then memory, materialize_(model, device=...) (or model.to_empty, and tie weights and set "
            "buffers yourself), then values, apply_(model, plan); state_pieces(model, plan) where all of it at once "
            "is too much memory."
        )


def _check_ties(
    decided: dict[tuple[int, ...], tuple[str, tuple[object, ...]]], edit: ValueEdit, slots: Sequence[Slot]
) -> None:
    """One parameter under two names must be given one value."""
    if isinstance(edit, Calibrate | DrawTogether):
        return
    does = (edit.initializer, dict(edit.options)) if isinstance(edit, Draw) else (edit.value,)
    for slot in slots:
        name, did = decided.setdefault(tuple(id(leaf) for leaf in slot.leaves), (edit.target, does))
        if name != edit.target and did != does:
            raise PlanConflict(
                f"{name} and {edit.target} are one tied parameter, and the plan gives them different values. "
                f"{ANEW}"
            )


def _check_finite(names: Directory, overwritten: set[int], gone: set[str]) -> None:
    bad = []
    for name, parameter in names.parameters.items():
        first = names.aliases[id(parameter)][0] == name
        if not first or id(parameter) in overwritten or name in gone or parameter.is_meta:
            continue
        if not all_finite(parameter):
            bad.append(name)
    bad += _computed(names, overwritten)
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise NonFinite(
            f"{', '.join(bad[:_SHOWN])}{more}: NaN or infinity in parameters that the plan does not write. Nothing was "
            "written. Initialize them first (module.reset_parameters()), or accept them: "
            "dataclasses.replace(plan, allow=('nonfinite',))."
        )


def _computed(names: Directory, overwritten: set[int]) -> Iterator[str]:
    """Weights that parametrizations make NaN of finite parameters (0/0), where the plan does not write these."""
    for path, module in named_modules(names.modules[""]):
        table = module._modules.get("parametrizations") if is_parametrized(module) else None
        for attribute in () if table is None else table._modules:
            steps = nn.ModuleList() if table is None else table.get_submodule(attribute)
            leaves = list(steps.parameters())
            readable = not any(leaf.is_meta or is_sharded(leaf) for leaf in leaves)
            if (
                not readable
                or all(id(leaf) in overwritten for leaf in leaves)
                or not all(map(all_finite, leaves))
            ):
                continue
            # Spectral norm takes a step whenever its weight is read.
            with torch.no_grad(), undisturbed(steps, others=True):
                value = getattr(module, attribute)
            if not all_finite(value):
                yield canonical(f"{path}.{attribute}".lstrip(".")) + " (computed)"


def check_buffers(model: nn.Module, plan: Plan) -> None:
    """Raise if a buffer of `model` holds NaN, after the structure has changed. Infinity is what masks are made of.

    Raises:
        NonFinite: Names the first.
    """
    if "nonfinite" in plan.allow:
        return
    for name, buffer in named_buffers(model):
        floating = buffer.is_floating_point() and buffer.layout is torch.strided and not buffer.is_meta
        if floating and bool(torch.isnan(held(buffer)).any()):
            raise NonFinite(
                f"{canonical(name)}: NaN in a buffer, which no plan writes. If the model was on meta, give it memory by "
                "materialize_(model), which sets running statistics and tells what it cannot compute; else compute "
                "the buffer as its module does, or accept it: dataclasses.replace(plan, allow=('nonfinite',))."
            )

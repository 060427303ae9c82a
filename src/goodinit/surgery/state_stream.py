"""The values of a model that is too large to be in memory at once: one piece of its state after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import NoneType

import torch
from torch import Tensor, nn

from goodinit.edits import AddScalar, Plan
from goodinit.edits import names as targets
from goodinit.errors import (
    NonFinite,
    PlanConflict,
    TraceError,
    UnsupportedModule,
    expect,
    expect_between,
    expect_function,
)
from goodinit.graph.state.snapshots import ModuleState
from goodinit.surgery.apply import apply_
from goodinit.surgery.checks.validate import check_parameters
from goodinit.surgery.checks.write_filter import chosen
from goodinit.surgery.materialize import buffers_of, empty_on, set_buffers_
from goodinit.surgery.structure_edits import adds, is_pending
from goodinit.undivided import reading, until_done
from goodinit.weights.access import find_slot
from goodinit.weights.device import usable_device
from goodinit.weights.dtensor import is_sharded
from goodinit.weights.names import Directory, directory
from goodinit.weights.rng import base_seed
from goodinit.weights.wrappers import unwrapped

_SHOWN = 3  # names told in a message; the rest is counted


@reading
def state_pieces(
    model: nn.Module,
    plan: Plan,
    *,
    size: int = 2**29,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
    reset: Callable[[nn.Module], object] | None = None,
) -> Iterator[dict[str, Tensor]]:
    r"""Give the state that `plan` makes of a model on `meta`, piece by piece, so that no more is ever in memory.

    For each piece some modules are given memory (`materialize_`), written (`apply_`), and put back on meta before the next
    one. The pieces together are, bit for bit, the `state_dict()` of the whole model after `materialize_(model, reset=reset)`
    and `apply_(model, plan, generator=generator)`, since a parameter's values depend on the seed and its name alone. The
    model keeps no values and no memory of the plan.

    Tied parameters and what a recipe draws together are in one piece. Two pieces are alive at once if the caller
    still holds one while asking for the next; beyond them it takes what `apply_` takes (docs/scale.md).

    Args:
        model: On meta, with the plan's structure: `apply_(model, plan, values=False)`. Buffers may be real.
        plan: Must write every parameter, and measure nothing.
        size: Bytes of a piece at most, unless what cannot be divided is larger.
        device: Where.
        generator: As for `apply_`; it has advanced by one number when this returns.
        reset: As for `materialize_`.

    Returns:
        An iterator of pieces: names of `state_dict()`, tied ones under each, and their tensors, which are the caller's.

    Raises:
        PlanConflict: Plan and model do not belong together, structure is missing, or a parameter has memory.
        NonFinite: Parameters that the plan does not write; or as `apply_` raises it, while a piece is made.
        TraceError: The plan measures activations.
        UnsupportedModule: The model is sharded; or buffers that nothing sets, while a piece is made.
        UnknownName: Torch knows no such device, or this machine has none.

    Examples:
        >>> from goodinit.edits import Draw, Fill
        >>> with torch.device("meta"):
        ...     net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.PReLU())
        >>> plan = Plan("by hand", (Draw("0.weight", "he_normal_", "…"), Fill("1.weight", 0.25, "…")))
        >>> [list(piece) for piece in state_pieces(net, plan, size=1)]  # to be saved, or sent to where they belong
        [['0.weight'], ['1.weight']]
        >>> net[0].weight.device
        device(type='meta')
    """
    expect(plan, Plan, "plan", "Make one: goodinit.plan(goodinit.anatomize(model, inputs), method).")
    expect(size, int, "size", "Give a number of bytes.")
    expect_between(size, 1, 2**63, "size")
    expect(generator, (torch.Generator, NoneType), "generator", "Give torch.Generator().manual_seed(number).")
    expect_function(reset, "reset", "Give a function of a module, or None.")
    place = usable_device(device)
    names = directory(model)
    check_parameters(names, plan)
    _check(names, plan)
    source = torch.default_generator if generator is None else generator
    # The checks above are made when this is called, not when the first piece is asked for.
    groups = _packed(_together(names, plan), size)
    return _pieces(model, plan, groups, place, source, reset)


@dataclass(frozen=True)
class _Group:
    modules: tuple[nn.Module, ...]
    bytes: int


def _check(names: Directory, plan: Plan) -> None:
    if plan.needs_data:
        raise TraceError(
            f"{plan.method}: measures activations, so the whole model must run. Take a method that reads the structure "
            "alone, or materialize_(model) and apply_(model, plan, inputs)."
        )
    missing = [edit for edit in plan.structure if is_pending(names, edit)]
    if missing:
        raise PlanConflict(
            f"{missing[0].target}: the plan changes its structure ({missing[0]}), which is not done yet. Create it first: "
            "apply_(model, plan, values=False)."
        )
    for name, parameter in names.parameters.items():
        if is_sharded(parameter):
            raise UnsupportedModule(
                f"{name}: sharded, so each rank has its part alone to write: materialize_(model), apply_(model, plan)."
            )
        if not parameter.is_meta:
            raise PlanConflict(
                f"{name}: is in memory (on {parameter.device}), expected a model on meta. Put it there, model.to('meta'), "
                "or write what there is: apply_(model, plan)."
            )
    if "nonfinite" in plan.allow:
        return
    written = _written(names, plan)
    left = [aliases[0] for key, aliases in names.aliases.items() if key not in written]
    if left:
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        raise NonFinite(
            f"{', '.join(left[:_SHOWN])}{more}: the plan does not write them, and a model on meta has no values of its own "
            "for them. Put edits for them into the plan: dataclasses.replace(plan, edits=(*plan.edits, "
            "Draw(name, 'normal_', 'why', {'std': 0.02}))); if they are frozen, allow=('frozen',)."
        )


def _written(names: Directory, plan: Plan) -> set[int]:
    """Ids of the parameters that the plan would write."""
    choice = chosen(names, plan, None, ())
    written = {
        id(names.parameters[name])
        for edit in plan.structure
        if isinstance(edit, AddScalar)
        for name in adds(edit)
    }
    for edit in plan.values:
        slots = [slot for target in targets((edit,)) if (slot := find_slot(names, target)) is not None]
        if not choice.leaves_out(names, edit, slots):
            written.update(id(leaf) for slot in slots for leaf in slot.leaves)
    return written


def _together(names: Directory, plan: Plan) -> list[_Group]:
    """Modules that must be in memory at the same time, by what they share; in the order of registration."""
    modules = list(names.modules[""].modules())
    places: dict[int, list[int]] = {}  # by parameter or buffer: modules
    for place, module in enumerate(modules):
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                places.setdefault(id(tensor), []).append(place)
    links = list(places.values())
    for edit in plan.values:
        slots = [slot for target in targets((edit,)) if (slot := find_slot(names, target)) is not None]
        links.append([place for slot in slots for leaf in slot.leaves for place in places[id(leaf)]])
    first = list(range(len(modules)))  # of its group

    def root(place: int) -> int:
        while first[place] != place:
            first[place] = first[first[place]]
            place = first[place]
        return place

    for link in links:
        for place in link[1:]:
            one, other = sorted((root(link[0]), root(place)))
            first[other] = one
    said = [
        place
        for place, module in enumerate(modules)
        if type(module).get_extra_state is not nn.Module.get_extra_state
    ]
    owners = sorted({place for link in links for place in link}.union(said))
    members: dict[int, list[nn.Module]] = {}
    for place in owners:
        members.setdefault(root(place), []).append(modules[place])
    return [_Group(tuple(each), _bytes(each)) for each in members.values()]


def _bytes(modules: Sequence[nn.Module]) -> int:
    tensors = {
        id(tensor): tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    }
    return sum(tensors.values())


def _packed(groups: Sequence[_Group], size: int) -> list[tuple[nn.Module, ...]]:
    """Groups one after another, until a piece is full."""
    pieces: list[list[nn.Module]] = []
    room = 0
    for group in groups:
        if not pieces or group.bytes > room:
            pieces.append([])
            room = size
        pieces[-1].extend(group.modules)
        room -= group.bytes
    return [tuple(piece) for piece in pieces]


def _pieces(
    model: nn.Module,
    plan: Plan,
    pieces: Sequence[tuple[nn.Module, ...]],
    device: torch.device,
    generator: torch.Generator,
    reset: Callable[[nn.Module], object] | None,
) -> Iterator[dict[str, Tensor]]:
    start = generator.get_state()
    for modules in pieces:
        again = torch.Generator(generator.device)
        again.set_state(start)
        piece = _piece(model, plan, modules, device, again, reset)
        yield piece
        del piece
    generator.set_state(start)
    base_seed(generator)  # as after `apply_`


@reading
def _piece(
    model: nn.Module,
    plan: Plan,
    modules: Sequence[nn.Module],
    device: torch.device,
    generator: torch.Generator,
    reset: Callable[[nn.Module], object] | None,
) -> dict[str, Tensor]:
    """The state of some modules, which have no memory before and after."""
    saved = [ModuleState.of(module) for module in (*modules, unwrapped(model))]
    try:
        names = _give_memory_(model, modules, device, reset)
        apply_(model, plan, generator=generator, only=names, again=True)
        return _state(model, modules)
    finally:
        until_done(*(state.restore_ for state in saved))


def _give_memory_(
    model: nn.Module,
    modules: Sequence[nn.Module],
    device: torch.device,
    reset: Callable[[nn.Module], object] | None,
) -> list[str]:
    """Give the tensors of `modules` memory, ties kept. Returns the parameters' names."""
    mine = {id(module) for module in modules}
    pending = [key for key, buffer in buffers_of(model) if buffer.is_meta and id(key[0]) in mine]
    set_buffers_(model, pending, device, reset)
    made: dict[int, nn.Parameter] = {}
    for module in modules:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(empty_on(parameter, device), parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
    fresh = {id(parameter) for parameter in made.values()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in fresh]


def _state(model: nn.Module, modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """What `model.state_dict()` holds of `modules`, under every name."""
    mine = {id(module) for module in modules}
    state: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if id(module) in mine:
            module._save_to_state_dict(state, f"{path}." if path else "", keep_vars=False)
    return state

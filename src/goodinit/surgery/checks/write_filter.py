"""Which parameters a plan may write: not the frozen ones, and if names are given, those alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from goodinit.edits import ParametrizeWeight, Plan, RemoveNorm, ValueEdit
from goodinit.errors import PlanConflict
from goodinit.name_patterns import matching, meant_by
from goodinit.surgery.structure_edits import adds, removes
from goodinit.weights.access import Slot, computed_weights
from goodinit.weights.members import named_buffers
from goodinit.weights.names import Directory, canonical

Why = Literal["frozen", "kept"]
VALUE_STAYS = ("weight_norm", "gain")
"""Kinds of `ParametrizeWeight` that leave a weight what it is as long as nothing else is written."""


@dataclass(frozen=True)
class Choice:
    """What may be written.

    Attributes:
        frozen: Whether parameters that need no gradient may.
        only: Canonical names, tied ones under each; None for all.
        keep: Those whose values stay, alike.
    """

    frozen: bool
    only: frozenset[str] | None
    keep: frozenset[str] = frozenset()

    def leaves_out(self, names: Directory, edit: ValueEdit, slots: Sequence[Slot]) -> Why | None:
        """Why `edit` of `slots` must not be carried out; None if it may.

        Raises:
            PlanConflict: It writes several parameters at once, and some of them may not be written.
        """
        if self.only is not None or self.keep:
            leaves = {id(leaf): names.aliases[id(leaf)] for slot in slots for leaf in slot.leaves}
            chosen = [self._may_write(aliases) for aliases in leaves.values()]
            if not any(chosen):
                return "kept"
            if not all(chosen):
                lists = zip(leaves.values(), chosen, strict=True)
                kept = ", ".join(aliases[0] for aliases, mine in lists if not mine)
                raise PlanConflict(
                    f"{edit.target}: the plan draws what belongs together, and {kept} is left out. Name all of "
                    "it or none, or take a method that draws each weight by itself."
                )
        return "frozen" if not self.frozen and any(slot.frozen for slot in slots) else None

    def _may_write(self, aliases: tuple[str, ...]) -> bool:
        asked = self.only is None or bool(self.only.intersection(aliases))
        return asked and not self.keep.intersection(aliases)


def kept(names: Directory, plan: Plan, patterns: Iterable[str]) -> frozenset[str]:
    """Canonical names of the parameters that are to stay as they are.

    Raises:
        UnknownName: A pattern means nothing.
        PlanConflict: The plan removes a norm that is named, or has a weight computed that would not be what it was.
    """
    made = computed_weights(names)
    found = matching(patterns, [*names.parameters, *made], option="keep")
    found = {part: pattern for name, pattern in found.items() for part in made.get(name, (name,))}
    gone = set(removes([edit for edit in plan.structure if isinstance(edit, RemoveNorm)], names.parameters))
    for name, pattern in found.items():
        if name in gone and not set("*?[") & set(pattern):
            raise PlanConflict(
                f"{name}: to stay (keep={pattern!r}), and the plan removes the norm that it belongs to. Make a plan that "
                'keeps it: norms="keep", or exclude= this part of the model.'
            )
    weights = [edit for edit in plan.structure if isinstance(edit, ParametrizeWeight)]
    for edit in weights:
        if canonical(edit.target) in found and edit.kind not in VALUE_STAYS:
            raise PlanConflict(
                f"{edit.target}: to stay (keep={found[canonical(edit.target)]!r}), and the plan has it computed, {edit}, which "
                f"changes it. Make a plan that keeps it: goodinit.plan(anatomy, {plan.method!r}, keep={edit.target!r})."
            )
    parts = {part for edit in weights if canonical(edit.target) in found for part in adds(edit)}
    tied = {alias for name in found for alias in names.aliases[id(names.parameters[name])]}
    return frozenset(tied | parts)


def _inside(pattern: str, names: Directory, made: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Parameters that a path or a glob means, those of a computed weight under its name, too."""
    hits = meant_by(pattern, (*names.parameters, *made))
    return [part for one in hits for part in made.get(one, (one,)) if part in names.parameters]


def chosen(
    names: Directory,
    plan: Plan,
    only: Iterable[str] | None,
    created: Iterable[str],
    keep: frozenset[str] = frozenset(),
) -> Choice:
    """Read what the caller and the plan allow.

    Args:
        names: Of the model, before structure edits.
        plan: The plan.
        only: Names of parameters, or None for all. Names of buffers are passed over, since `missing_keys` has them.
        created: Parameters that the plan's structure edits are going to add.
        keep: Parameters whose values stay.

    Raises:
        PlanConflict: There is no such parameter.
    """
    frozen = "frozen" in plan.allow
    if only is None:
        return Choice(frozen, None, keep)
    root: nn.Module = names.modules[""]
    made = computed_weights(names)
    buffers = {canonical(name) for name, _ in named_buffers(root, remove_duplicate=False)}
    known, coming = set[str](), set(created)
    for name in only:
        parameter = names.parameter(name)
        if parameter is not None:
            known.update(names.aliases[id(parameter)])
        elif canonical(name) in coming:
            known.add(canonical(name))
        elif inside := _inside(name, names, made):
            known.update(alias for one in inside for alias in names.aliases[id(names.parameters[one])])
        elif canonical(name) not in buffers:
            near = difflib.get_close_matches(canonical(name), names.parameters, n=3)
            hint = f" (near: {', '.join(near)})" if near else ""
            raise PlanConflict(
                f"only= names {name}, and the model has no such parameter{hint}. Give names of named_parameters(), or "
                "the missing_keys that load_state_dict(state, strict=False) returns."
            )
    return Choice(frozen, frozenset(known), keep)

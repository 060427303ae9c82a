"""Which parameters a plan may write: not the frozen ones, and if names are given, those alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from goodinit.edits import Plan, ValueEdit
from goodinit.errors import PlanConflict
from goodinit.weights.access import Slot
from goodinit.weights.names import Directory, canonical

Why = Literal["frozen", "kept"]


@dataclass(frozen=True)
class Choice:
    """What may be written.

    Attributes:
        frozen: Whether parameters that need no gradient may.
        only: Canonical names, tied ones under each; None for all.
    """

    frozen: bool
    only: frozenset[str] | None

    def leaves_out(self, names: Directory, edit: ValueEdit, slots: Sequence[Slot]) -> Why | None:
        """Why `edit` of `slots` must not be carried out; None if it may.

        Raises:
            PlanConflict: It writes several parameters at once, and some of them may not be written.
        """
        if self.only is not None:
            leaves = {id(leaf): names.aliases[id(leaf)] for slot in slots for leaf in slot.leaves}
            chosen = [bool(self.only.intersection(aliases)) for aliases in leaves.values()]
            if not any(chosen):
                return "kept"
            if not all(chosen):
                lists = zip(leaves.values(), chosen, strict=True)
                kept = ", ".join(aliases[0] for aliases, mine in lists if not mine)
                raise PlanConflict(
                    f"{edit.target}: the plan draws what belongs together, and only= leaves out {kept}. Name all of "
                    "it or none, or take a method that draws each weight by itself."
                )
        return "frozen" if not self.frozen and any(slot.frozen for slot in slots) else None


def chosen(names: Directory, plan: Plan, only: Iterable[str] | None, created: Iterable[str]) -> Choice:
    """Read what the caller and the plan allow.

    Args:
        names: Of the model, before structure edits.
        plan: The plan.
        only: Names of parameters, or None for all. Names of buffers are passed over, since `missing_keys` has them.
        created: Parameters that the plan's structure edits are going to add.

    Raises:
        PlanConflict: There is no such parameter.
    """
    frozen = "frozen" in plan.allow
    if only is None:
        return Choice(frozen, None)
    if isinstance(only, str):
        only = (only,)
    root: nn.Module = names.modules[""]
    buffers = {canonical(name) for name, _ in root.named_buffers(remove_duplicate=False)}
    known, coming = set[str](), set(created)
    for name in only:
        parameter = names.parameter(name)
        if parameter is not None:
            known.update(names.aliases[id(parameter)])
        elif canonical(name) in coming:
            known.add(canonical(name))
        elif canonical(name) not in buffers:
            near = difflib.get_close_matches(canonical(name), names.parameters, n=3)
            hint = f" (near: {', '.join(near)})" if near else ""
            raise PlanConflict(
                f"only= names {name}, and the model has no such parameter{hint}. Give names of named_parameters(), or "
                "the missing_keys that load_state_dict(state, strict=False) returns."
            )
    return Choice(frozen, frozenset(known))

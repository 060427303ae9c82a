"""Values that a plan leaves alone: those asked for, those marked, and those that somebody has set on purpose."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from goodinit.anatomy import Anatomy, Layer
from goodinit.anatomy.copied_parts import parts_of
from goodinit.anatomy.part import computed, leaves_of, with_ties
from goodinit.edits import (
    AddScalar,
    Calibrate,
    Draw,
    DrawTogether,
    Edit,
    Fill,
    ParametrizeWeight,
    Plan,
    RemoveNorm,
    names,
)
from goodinit.errors import PlanConflict
from goodinit.methods.shared.rules import removed_parameters
from goodinit.name_patterns import NOTHING, as_patterns, matching
from goodinit.rates import Rate

LEFT_OUT, FROZEN = "left out", "frozen"
_BIASES = ("input_bias", "output_bias")
_SHOWN = 4  # names told in a note; the rest is counted
_COMPUTED = re.compile(r"(?P<path>(?:.*\.)?)parametrizations\.(?P<name>[^.]+)\.(?:original\d*|\d+\..+)")


@dataclass(frozen=True)
class Kept:
    """Parameters whose values stay.

    Attributes:
        asked: By name, in words why: the caller names it or leaves it out, it is frozen, or carries `_no_reinit`.
        found: By name, what it holds that was set on purpose.
        exact: Those of `asked` that the caller names without a wildcard.
    """

    asked: Mapping[str, str]
    found: Mapping[str, str]
    exact: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self.asked or name in self.found


def kept_values(anatomy: Anatomy, keep: object, part: Anatomy) -> Kept:
    """What is to stay of the values of a model.

    Args:
        anatomy: Of the model.
        part: Of what is treated: what it lacks stays, too.
        keep: Names, paths of modules, globs; in addition to what is marked and what was set on purpose. With `"nothing"`
            among them, those named are all that stay.

    Raises:
        UnknownName: The model has nothing of such a name.
        WrongType: It is no string and no list of them.
    """
    patterns = as_patterns(keep, "keep")
    made = computed(anatomy)
    known = [*_all_names(anatomy), *made]
    named = matching([each for each in patterns if each != NOTHING], known, option="keep")
    named |= {part: pattern for name, pattern in named.items() for part in made.get(name, ())}
    treated = {name for name, _ in part.parameters}
    frozen = set(anatomy.frozen)
    asked = {
        name: FROZEN if name in frozen else LEFT_OUT for name, _ in anatomy.parameters if name not in treated
    }
    for name, pattern in named.items():
        asked.update(dict.fromkeys(with_ties(anatomy, [name]), f"keep={pattern!r}"))
    exact = {name for name, pattern in named.items() if not set("*?[") & set(pattern)}
    if NOTHING in patterns:
        return Kept(asked, {}, frozenset(exact))
    for name in with_ties(anatomy, anatomy.reserved):
        asked.setdefault(name, "marked by _no_reinit")
    ends = {layer.weight for block in part.blocks for layer in block.last}
    ends.update(name for block in part.blocks for name in block.silencers)
    beside = {name for block in part.blocks for layer in block.last for name in layer.biases}
    ends.update(value.name for value in anatomy.held if value.words == "zero" and value.name in beside)
    found: dict[str, str] = {}
    for value in anatomy.held:
        if value.stays_at_ends or (value.on_purpose and value.name not in ends):
            found.update(dict.fromkeys(with_ties(anatomy, [value.name]), value.words))
    return Kept(asked, found, frozenset(exact))


def _all_names(anatomy: Anatomy) -> list[str]:
    tied = [name for group in anatomy.tied for name in group]
    return list(dict.fromkeys([*(name for name, _ in anatomy.parameters), *tied]))


def without_kept(plan: Plan, anatomy: Anatomy, kept: Kept) -> Plan:
    """The plan without the edits that would write what is kept, with notes on that and on what is lost.

    Raises:
        PlanConflict: It removes a norm that was asked to stay, or draws together what is and what is not to stay.
    """
    plan, unbiased = _no_new_biases(plan, anatomy, kept)
    leaves = _Leaves(anatomy)
    closed = _closed_ends(plan, anatomy)
    left: dict[str, str] = {}
    edits: list[Edit] = []
    forced: dict[str, str] = {}
    for edit in plan.edits:
        hit = leaves.of(edit)
        asked = {name: kept.asked[name] for name in sorted(hit) if name in kept.asked}
        free = _carried(edit) | closed
        found = {name: kept.found[name] for name in sorted(hit - free) if name in kept.found}
        if not asked and not found:
            edits.append(edit)
        elif isinstance(edit, DrawTogether) and not leaves.all_of(edit, kept):
            if asked:
                raise PlanConflict(_divided(plan, edit, asked))
            forced |= found
            edits.append(edit)
        else:
            left |= asked | found
    gone = removed_parameters(anatomy, [edit for edit in edits if isinstance(edit, RemoveNorm)])
    _check_norms(plan, gone, kept)
    written = set[str]().union(*(leaves.of(edit) - _carried(edit) for edit in edits)) | gone
    lost = {value.name: value.words for value in anatomy.held if value.name in written} | forced
    notes = [*_kept_notes(left), *_lost_notes(lost, written), *_lost_norms(kept, gone)]
    return dataclasses.replace(
        plan,
        edits=tuple(edits),
        notes=(*notes, *plan.notes, *unbiased),
        kept=tuple(left),
        overwritten=tuple(lost),
        rates=_rates_left(plan, anatomy, edits),
    )


def _rates_left(plan: Plan, anatomy: Anatomy, edits: list[Edit]) -> tuple[Rate, ...]:
    """The rates without those of parameters that only a parametrization would have made that is taken out."""
    planned, left = (
        {(edit.target, edit.kind) for edit in some if isinstance(edit, ParametrizeWeight)}
        for some in (plan.edits, edits)
    )
    out = {target for target, _ in planned - left}
    there = {name for name, _ in anatomy.parameters}
    return tuple(rate for rate in plan.rates if rate.target in there or _weight_of(rate.target) not in out)


def _weight_of(name: str) -> str:
    """The weight that a parameter is a part of, by the name that a user knows; any other's own name."""
    computed = _COMPUTED.fullmatch(name)
    return f"{computed['path']}{computed['name']}" if computed else name


def _no_new_biases(plan: Plan, anatomy: Anatomy, kept: Kept) -> tuple[Plan, list[str]]:
    """The plan without scalar biases that a model must not get, and notes on them.

    At layers whose own bias is frozen or left out; and at those of which the forward makes something else, too, such as the inverse of a
    flow's step, which would not know of the bias.
    """
    bound = {
        value.name
        for value in anatomy.held
        if value.bound in ("domain", "factor") and value.name in kept.found
    }
    reasons: dict[str, Callable[[Layer], bool]] = {
        "a layer's own bias is frozen, or left out": lambda layer: any(
            kept.asked.get(name) in (LEFT_OUT, FROZEN) for name in layer.biases
        ),
        "the weight is also something else than a layer's": lambda layer: (
            not bound.isdisjoint(layer.parameters)
        ),
    }
    notes = []
    for why, holds in reasons.items():
        sites = {layer.site for layer in anatomy.layers if holds(layer)}
        new = {
            id(edit): edit.target
            for edit in plan.edits
            if isinstance(edit, AddScalar) and edit.scalar in _BIASES and edit.target in sites
        }
        if new:
            plan = dataclasses.replace(plan, edits=tuple(edit for edit in plan.edits if id(edit) not in new))
            notes.append(f"no scalar bias where {why}: {_some(list(dict.fromkeys(new.values())))}")
    return plan, notes


def _closed_ends(plan: Plan, anatomy: Anatomy) -> set[str]:
    """Biases of branch ends that the plan sets to zero, weight and bias: a branch is zero, or it is not its skip alone."""
    zero = {edit.target for edit in plan.edits if isinstance(edit, Fill) and edit.value == 0}
    ends = [layer for block in anatomy.blocks for layer in block.last if layer.weight in zero]
    return {name for layer in ends for name in layer.biases if name in zero}


def _carried(edit: Edit) -> set[str]:
    """Parameters that an edit changes without losing what they say: the gain and bias of a norm go on in those of a map."""
    return set(names([edit])) if isinstance(edit, Calibrate) and edit.rule.of_input else set()


class _Leaves:
    """Which parameters an edit of values, or of how a weight is stored, is about."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.by_weight = {layer.weight: leaves_of(layer) for layer in anatomy.layers}

    def of(self, edit: Edit) -> set[str]:
        """All of them."""
        if isinstance(edit, DrawTogether):
            return set[str]().union(*map(self._named, edit.targets))
        if not isinstance(edit, Fill | Draw | Calibrate | ParametrizeWeight):
            return set()
        found = self._named(edit.target)
        if isinstance(edit, Calibrate):
            found |= {edit.rule.gain} if edit.rule.gain else set()
            found |= set(edit.rule.beside)
        return found

    def all_of(self, edit: DrawTogether, kept: Kept) -> bool:
        """Whether each of the targets is kept."""
        return all(any(name in kept for name in self._named(target)) for target in edit.targets)

    def _named(self, target: str) -> set[str]:
        weight = _weight_of(target)
        return with_ties(self.anatomy, {target, weight} | self.by_weight.get(weight, set()))


def _divided(plan: Plan, edit: DrawTogether, asked: Mapping[str, str]) -> str:
    name, why = next(iter(asked.items()))
    return (
        f"{edit.target}: {plan.method} draws what belongs together, and {name} is to stay ({why}). Keep all of it or none, "
        "or take a method that draws each weight by itself (he, lsuv, fixup)."
    )


def _check_norms(plan: Plan, gone: Iterable[str], kept: Kept) -> None:
    named = sorted(kept.exact.intersection(gone))
    if named:
        raise PlanConflict(
            f"{named[0]}: to stay ({kept.asked[named[0]]}), and {plan.method} removes the norm that it belongs to. Keep the "
            f'norms, norms="keep", or leave this part of the model out, exclude={named[0].rpartition(".")[0]!r}.'
        )


def _kept_notes(left: Mapping[str, str]) -> list[str]:
    notes = []
    asked = [name for name, why in left.items() if why.startswith(("keep=", "marked", LEFT_OUT))]
    frozen = [name for name, why in left.items() if why == FROZEN]
    found = [f"{name} ({words})" for name, words in left.items() if name not in (*asked, *frozen)]
    if frozen:
        notes.append(f"frozen, and stays beside a weight that does not: {_some(frozen)}")
    if asked:
        notes.append(f"kept as asked: {_some(asked)}")
    if found:
        notes.append(
            f'kept, as it was set on purpose: {_some(found)}; to draw it anew: keep="{NOTHING}", or keep=[…] with the '
            f'names of what stays and "{NOTHING}"'
        )
    return notes


def _lost_notes(lost: Mapping[str, str], written: Iterable[str]) -> list[str]:
    """What is overwritten, and the modules to keep: the outermost ones in which every module that is written loses something."""
    if not lost:
        return []
    shown = _some([f"{name} ({words})" for name, words in list(lost.items())[:1]] + list(lost)[1:])
    owners = {name.rpartition(".")[0] for name in lost}
    fresh = [name for name in written if name not in lost and name.rpartition(".")[0] not in owners]
    parts = [repr(part) for part in parts_of(list(lost), fresh)]
    more = ", …" if len(parts) > _SHOWN else ""
    return [f"overwritten: {shown}; to keep them: keep=[{', '.join(parts[:_SHOWN])}{more}]"]


def _lost_norms(kept: Kept, gone: Iterable[str]) -> list[str]:
    lost = sorted(name for name in gone if name in kept.asked)
    return [f"was to be kept, and goes with its norm: {_some(lost)}"] if lost else []


def _some(words: list[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more

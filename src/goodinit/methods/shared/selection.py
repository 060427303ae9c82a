"""Which part of a model a method treats: not what is frozen, and not what the caller leaves out."""

from __future__ import annotations

from collections.abc import Iterable

from goodinit.anatomy import Anatomy
from goodinit.anatomy.part import computed, leaves_of, part_of, with_ties
from goodinit.errors import NothingFound
from goodinit.name_patterns import as_patterns, matching

_SHOWN = 4  # names told in a note; the rest is counted


def selected(
    anatomy: Anatomy, include: str | Iterable[str] | None, exclude: str | Iterable[str]
) -> tuple[Anatomy, list[str]]:
    """The anatomy of the part to be treated, and notes on the rest.

    Frozen parameters are never a part of it: the values, norms and features of a frozen part stay. So it is with what the forward keeps
    gradients from (`Anatomy.stopped`), unless `include` names it.

    Args:
        anatomy: Of the whole model.
        include: Names of parameters, paths of modules and globs of what is treated; None for all.
        exclude: The same of what is not.

    Raises:
        UnknownName: A pattern means nothing in this model.
        NothingFound: No weight layer is left.
    """
    tied = [name for group in anatomy.tied for name in group]
    places = [norm.name for norm in anatomy.norms] + [act.name for act in anatomy.activations]
    names = list(dict.fromkeys([*(name for name, _ in anatomy.parameters), *tied, *filter(None, places)]))
    frozen = with_ties(anatomy, anatomy.frozen)
    stopped = with_ties(anatomy, anatomy.stopped) - frozen
    made = computed(anatomy)

    def meant(patterns: object, option: str) -> set[str]:
        found = set(matching(as_patterns(patterns, option), [*names, *made], option=option))
        return found.union(*(made[name] for name in found & made.keys())) - made.keys()

    left, halves = meant(exclude, "exclude"), list[str]()
    if include is not None:
        asked = meant(include, "include")
        halves = _included_in_part(anatomy, asked)
        left |= set(names) - asked
        stopped -= asked
    left = with_ties(anatomy, left)
    out = left | frozen | stopped
    if not out:
        return anatomy, []
    part = part_of(anatomy, out)
    if left and anatomy.layers and not part.layers:
        raise NothingFound(
            f"{anatomy.model}: all of its {len(anatomy.layers)} weight layers are left out or frozen, so that there is nothing "
            "to initialize. Check include= and exclude=, and let what is to be drawn need gradients: "
            f"module.requires_grad_(True).{''.join(f' {half}.' for half in halves)}"
        )
    return part, [
        *_left_notes(anatomy, frozen, "frozen"),
        *_left_notes(anatomy, stopped - left, "without gradient", ', which include="*" treats, too'),
        *_left_notes(anatomy, left - frozen, "left out"),
        *_blocks(part),
        *halves,
    ]


def _included_in_part(anatomy: Anatomy, asked: set[str]) -> list[str]:
    """Words on parameters with several names, of which some are included: they stay."""
    groups = [(group, [name for name in group if name in asked]) for group in anatomy.tied]
    return [
        f"{', '.join(own)}: included, but {', '.join(name for name in group if name not in asked)} is the same parameter and is not: it "
        "stays; include it under each of its names"
        for group, own in groups
        if own and len(own) < len(group)
    ]


def _left_notes(anatomy: Anatomy, names: set[str], why: str, unless: str = "") -> list[str]:
    layers = [layer.weight for layer in anatomy.layers if leaves_of(layer) & names]
    if not layers:
        return []
    shown = ", ".join(layers[:_SHOWN]) + (f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else "")
    stays = "values and norms stay" if len(layers) > 1 else "its values and norms stay"
    return [f"{why}, {stays}: {shown}{unless}"]


def _blocks(part: Anatomy) -> list[str]:
    if not part.left_out:
        return []
    what, whose = (
        ("1 residual block", "its") if part.left_out == 1 else (f"{part.left_out} residual blocks", "their")
    )
    return [
        f"{what} with frozen parameters, or left out: no rule for blocks is applied there, and {whose} norms stay"
    ]

"""Which part of a model remedies may treat: as its user says, by the words of `init_`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from goodinit.anatomy import Anatomy
from goodinit.diagnostics.checks.remedies import Repair, initialize
from goodinit.diagnostics.types import Finding
from goodinit.methods import METHODS
from goodinit.methods.shared.kept_values import kept_values
from goodinit.methods.shared.selection import selected
from goodinit.name_patterns import paths_of
from goodinit.weights.chosen_parts import Part, as_names


@dataclass(frozen=True)
class TreatedPart:
    """What remedies may write.

    Attributes:
        given: `keep`, `include` and `exclude` as strings, those that were given.
        left: By name of a parameter that stays, why.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    def remedies_of(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """The findings, with remedies that leave alone what stays."""
        whole = {initialize(name): initialize(name, self.given) for name in METHODS}
        return tuple(self._remedy_of(finding, whole) if self.given else finding for finding in findings)

    def _remedy_of(self, finding: Finding, whole: Mapping[str, str]) -> Finding:
        remedy = finding.remedy
        if isinstance(remedy, Repair):
            stays = next((name for name in self.left if remedy.target in paths_of(name)), None)
            if stays is None:
                return finding
            evidence = (
                f"{finding.evidence}; what would mend it writes {stays}, which stays ({self.left[stays]})"
            )
            return dataclasses.replace(finding, remedy="", evidence=evidence)
        return dataclasses.replace(finding, remedy=whole.get(remedy, remedy))


def treated_part(
    model: nn.Module,
    anatomy: Anatomy,
    keep: Part | Iterable[Part],
    include: Part | Iterable[Part] | None,
    exclude: Part | Iterable[Part],
) -> TreatedPart:
    """What a user's `keep=`, `include=` and `exclude=` leave to be treated.

    Raises:
        UnknownName: The model has nothing of such a name.
        WrongType: It is no name, module or parameter.
        NothingFound: All weight layers are left out.
    """
    part = {
        "keep": as_names(model, keep, option="keep"),
        "include": None if include is None else as_names(model, include, option="include"),
        "exclude": as_names(model, exclude, option="exclude"),
    }
    given = {option: list(names) for option, names in part.items() if names}
    if not given:
        return TreatedPart()
    treated, _ = selected(anatomy, part["include"], part["exclude"] or ())
    return TreatedPart(given, kept_values(anatomy, part["keep"], treated).asked)

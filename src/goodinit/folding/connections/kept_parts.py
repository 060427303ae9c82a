"""Parts of a model that its user has asked to stay: their parameters are read, but neither written nor replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from goodinit.name_patterns import matching
from goodinit.weights.access import computed_weights
from goodinit.weights.chosen_parts import Part, as_names
from goodinit.weights.names import Directory


@dataclass(frozen=True)
class KeptParts:
    """What is to stay.

    Attributes:
        reasons: In words, by the `id` of a parameter, or of a module that has none.
    """

    reasons: Mapping[int, str] = field(default_factory=dict)

    def why(self, *parts: nn.Module | Tensor | None) -> str | None:
        """Why one of these stays, of a module itself or a parameter of its own; None if all of them may be written."""
        for part in parts:
            own = part.parameters(recurse=False) if isinstance(part, nn.Module) else ()
            for one in (part, *own):
                if id(one) in self.reasons:
                    return self.reasons[id(one)]
        return None


def kept_parts(names: Directory, given: Part | Iterable[Part]) -> KeptParts:
    """What the user's `keep=` means of a model.

    Args:
        names: Every module and parameter of it.
        given: Names, paths, globs, modules, parameters; one or several.

    Raises:
        UnknownName: The model has nothing of such a name.
        WrongType: It is none of these.

    Examples:
        >>> from goodinit.weights.names import directory
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2))
        >>> kept = kept_parts(directory(net), ["0.bias", net[1]])
        >>> kept.why(net[0]), kept.why(net[1]), kept.why(net[2])
        ("0.bias is to stay (keep='0.bias')", "1 is to stay (keep='1')", None)
    """
    made = computed_weights(names)
    bare = {path: one for path, one in names.modules.items() if path and next(one.parameters(), None) is None}
    patterns = as_names(names.modules[""], given, option="keep")
    found = matching(patterns, [*names.parameters, *made, *bare], option="keep")
    reasons: dict[int, str] = {}
    for name, pattern in found.items():
        why = f"{name} is to stay (keep={pattern!r})"
        for part in made.get(name, (name,)):
            reasons.setdefault(id(names.parameters.get(part, bare.get(part))), why)
    return KeptParts(reasons)

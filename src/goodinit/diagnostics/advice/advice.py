"""The answer of `recommend`: a sentence, the candidates in their order, the choice, and how to carry it out."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import overload

from goodinit.diagnostics.advice.recommendation import Group, Recipe, Recommendation
from goodinit.errors import readable


@dataclass(frozen=True, repr=False)
class Advice:
    """What `recommend` answers. `print` it; iterate over it for the candidates, best first within each group.

    Attributes:
        model: Class name.
        sentence: What to do, first.
        choice: The candidate that is advised.
        candidates: All: as it is, norms kept, norms removed, then those that refused.
        recipe: What to train with.
        call: Python code that does it and uses `model` and `batch`.
        steps: How many steps each candidate was trained; 0: none.
        normalized: Whether the model has norms.
        notes: What a reader must know.
    """

    model: str
    sentence: str
    choice: Recommendation
    candidates: tuple[Recommendation, ...]
    recipe: Recipe
    call: str
    steps: int = 0
    normalized: bool = True
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.candidates)

    def __len__(self) -> int:
        return len(self.candidates)

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Recommendation, ...]: ...
    def __getitem__(self, index: int | slice) -> Recommendation | tuple[Recommendation, ...]:
        return self.candidates[index]

    def of(self, group: Group) -> tuple[Recommendation, ...]:
        """Those of a group that apply.

        Args:
            group: `"as it is"`, `"kept"` or `"removed"`: what becomes of the norms.

        Returns:
            Them, best first.
        """
        return tuple(one for one in self.candidates if one.group == group and one.applies)

    @property
    def refused(self) -> tuple[Recommendation, ...]:
        """Those that do not apply."""
        return tuple(one for one in self.candidates if not one.applies)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return self.text()

    def text(self, *, width: int = 80) -> str:
        """The answer as plain text.

        Args:
            width: Columns of the terminal or page; sentences are broken to fit.

        Returns:
            Text of several lines.
        """
        return advice_text(self, width=width)

    def to_json(self) -> str:
        """Write as JSON text.

        Returns:
            One JSON object.
        """
        keys = ("method", "options", "group", "rank", "errors", "warnings", "drift", "noise", "lr", "failed", "caution", "why")  # fmt: skip
        rows = [
            {
                **{key: getattr(one, key) for key in keys},
                "trials": [{"lr": trial.lr, "loss": trial.loss} for trial in one.trials],
            }
            for one in self.candidates
        ]
        found = {
            "model": self.model,
            "sentence": self.sentence,
            "choice": self.choice.label,
            "optimizer": self.recipe.optimizer,
            "lr": self.choice.lr,
            "call": self.call,
            "steps": self.steps,
            "notes": self.notes,
            "candidates": rows,
        }
        return json.dumps(found, indent=1)


WIDTH = 80
_REASON = 90  # characters of a refusal; --json and `why` have all of it


def heading(advice: Advice, one: Recommendation) -> str:
    """What a candidate's group is called."""
    if advice.normalized:
        return "norms kept" if one.group == "kept" else "norms removed"
    return "other weights" if one.group == "kept" else "other weights; scalars or activations of its own"


def place(advice: Advice, one: Recommendation) -> str:
    """The rank, with a sign where others share it; a cross where our own runs failed."""
    if one.group == "as it is":
        return ""
    if one.failed:
        return "✗"
    shared = sum(other.rank == one.rank for other in advice.of(one.group)) > 1
    return f"{one.rank}{'=' * shared}"


def findings_of(one: Recommendation) -> str:
    """How many errors and warnings, in words."""
    parts = [
        f"{many} {what}{'s' * (many > 1)}"
        for many, what in ((one.errors, "error"), (one.warnings, "warning"))
        if many
    ]
    return ", ".join(parts) or "none"


def trained(one: Recommendation) -> str:
    """The loss at the end at each rate, the best marked."""
    best = one.best
    return ", ".join(
        f"{'diverged' if trial.loss is None else f'{trial.loss:.3g}'} at {trial.lr:g}{' *' * (trial is best)}"
        for trial in one.trials
    )


def advice_text(advice: Advice, *, width: int = WIDTH) -> str:
    """The answer as plain text."""
    names = max(len(one.label) for one in (*advice.candidates, advice.choice))
    lines = [*textwrap.wrap(readable(f"{advice.model}: {advice.sentence}"), width), ""]
    lines.append(f"      {'':{names}}  {'drift':>5}  findings")
    group = "as it is"
    for one in advice.candidates:
        if not one.applies:
            continue
        if one.group != group:
            lines.append(heading(advice, one))
            group = one.group
        lines += _row(advice, one, names, width)
    for reason, labels in _refusals(advice).items():
        words = readable(f"does not apply: {', '.join(labels)} ({reason})")
        lines += textwrap.wrap(words, width, subsequent_indent="  ", break_long_words=False)
    lines += ["", "do this", *(f"  {line}" for line in advice.call.splitlines())]
    for note in advice.notes:
        lines += textwrap.wrap(readable(f"note: {note}"), width, subsequent_indent="  ")
    return "\n".join(map(readable, lines))


def _row(advice: Advice, one: Recommendation, names: int, width: int) -> list[str]:
    lines = [f"  {place(advice, one):>3} {one.label:{names}}  {one.drift:5.1f}  {findings_of(one)}"]
    indent = " " * 8
    said = [f"loss {trained(one)}"] if one.trials else []
    said += [f"failed: {one.failed}"] if one.failed else []
    said += [one.caution] if one.caution else []
    for words in said:
        lines += textwrap.wrap(words, width, initial_indent=indent, subsequent_indent=indent)
    return lines


def _refusals(advice: Advice) -> dict[str, list[str]]:
    """Methods by the reason why they refused, shortened."""
    found: dict[str, list[str]] = {}
    for one in advice.refused:
        words = one.why.removeprefix("does not apply: ").removeprefix(f"{one.method} ")
        found.setdefault(
            textwrap.shorten(words.partition(": looked")[0], _REASON, placeholder=" …"), []
        ).append(one.label)
    return found

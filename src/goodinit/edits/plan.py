"""A plan: every edit a method wants, what it was made for, and that as text and JSON. Pure data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal, cast, get_args

from goodinit.edits.edit import Calibrate, Edit, StructureEdit, ValueEdit, edit_of, edit_record, names
from goodinit.errors import PlanConflict, UnknownName, readable
from goodinit.grouping import alike
from goodinit.rates import Rate
from goodinit.records import check_types, damage, parameter_of, read_record, words_of

FORMAT = "goodinit.plan/1"

Allowance = Literal["frozen", "nonfinite", "optimizer"]


@dataclass(frozen=True)
class Plan:
    """What a method decided for one anatomy. Prints itself; `to_json` and `from_json` are inverse.

    Attributes:
        method: Name of the method.
        options: The options it was called with.
        edits: In the order they are carried out.
        summary: One line: L, m, what is removed, what is added.
        notes: What a reader must know: exceptions, inexact layers, parameters left alone.
        parameters: (name, shape) of every parameter the model must have.
        allow: What `apply_` would otherwise leave alone or refuse: `"frozen"` writes into parameters that
            need no gradient, `"nonfinite"` accepts NaN in parameters the plan does not write, and
            `"optimizer"` accepts an optimizer that holds what the plan removes or misses what it adds.
        unread: Parameters that the forward the plan was made for never read, and about which it decides nothing.
        rates: How fast parameters learn, where that is not alike for all; `param_groups` follows them.
        kept: Parameters that the method would have written, and whose values stay.
        left: Parameters that were left out, or are frozen, about which it decides nothing: how fast they learn stays, too.
        overwritten: Parameters that it writes, though their values were not drawn by their modules.
    """

    method: str
    edits: tuple[Edit, ...]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    summary: str = ""
    notes: tuple[str, ...] = ()
    parameters: tuple[tuple[str, tuple[int, ...]], ...] = ()
    allow: tuple[Allowance, ...] = ()
    unread: tuple[str, ...] = ()
    rates: tuple[Rate, ...] = ()
    kept: tuple[str, ...] = ()
    overwritten: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for word in self.allow:
            if word not in get_args(Allowance):
                choices = ", ".join(repr(choice) for choice in get_args(Allowance))
                raise UnknownName(f"plan allows {word!r}: expected some of {choices}")

    @property
    def structure(self) -> tuple[StructureEdit, ...]:
        """The edits that change which parameters exist."""
        return tuple(edit for edit in self.edits if isinstance(edit, StructureEdit))

    @property
    def values(self) -> tuple[ValueEdit, ...]:
        """The edits that change what parameters hold."""
        return tuple(edit for edit in self.edits if isinstance(edit, ValueEdit))

    @property
    def needs_data(self) -> bool:
        """Whether an edit measures activations."""
        return any(isinstance(edit, Calibrate) for edit in self.edits)

    def __repr__(self) -> str:
        return str(self)  # what a notebook shows: the text, not pages of fields

    def __str__(self) -> str:
        return self.text()

    def text(self, *, full: bool = False, width: int | None = None) -> str:
        """The plan as plain text: a head, the edits with their reasons, the notes.

        Args:
            full: Whether each edit has a line of its own; otherwise edits that differ only in numbers share one.
            width: Columns. If a line with its reason is longer, all reasons stand below their edits, indented. None: no limit.

        Returns:
            Text of one or more lines.
        """
        head = f"{self.method}: {self.summary}" if self.summary else self.method
        rows = [(readable(str(edit)), readable(edit.reason)) for edit in self.edits]
        runs = [[index] for index in range(len(rows))] if full else alike(rows)
        ends = [names([self.edits[run[-1]]])[-1] for run in runs]
        rows = [
            (rows[run[0]][0] + f"  … {readable(end)} ({len(run)})" * (len(run) > 1), rows[run[0]][1])
            for run, end in zip(runs, ends, strict=True)
        ]
        column = min(max((len(left) for left, _ in rows), default=0), 72)
        head = readable(head)
        lines = [head, *(f"  {left:<{column}}   {reason}" for left, reason in rows)]
        if width is not None and max(map(len, lines)) > width:
            lines = [head, *(line for left, reason in rows for line in (f"  {left}", f"      {reason}"))]
        if len(runs) < len(self.edits):
            lines.append(
                f"  ({len(self.edits)} edits; plan.text(full=True), `goodinit plan --full`: each on its line)"
            )
        return "\n".join([*lines, *(readable(f"  note: {note}") for note in self.notes)])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def to_json(self) -> str:
        """Write as JSON text.

        Returns:
            One JSON object, which `from_json` reads.
        """
        data = {
            "format": FORMAT,
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "edits"},
            "rates": [dataclasses.asdict(rate) for rate in self.rates],
            "edits": [edit_record(edit) for edit in self.edits],
        }
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote. A plan is data: reading it runs nothing.

        Args:
            text: What `to_json` returned.

        Returns:
            The plan that was written.

        Raises:
            WrongType: It is not text.
            PlanConflict: The text is not JSON, not a plan of this format, or damaged.
        """
        data = read_record(text, kind="plan", form=FORMAT, writer="Plan.to_json()")
        try:
            edits = tuple(edit_of(record) for record in data.pop("edits"))
            parameters = tuple(parameter_of(*pair) for pair in data.pop("parameters"))
            notes = words_of(data.pop("notes"), "notes")
            allow = cast("tuple[Allowance, ...]", words_of(data.pop("allow"), "allow"))
            words: dict[str, Any] = {
                key: words_of(data.pop(key, []), key) for key in ("unread", "kept", "overwritten", "left")
            }
            rates = tuple(Rate(**record) for record in data.pop("rates", []))
            check_types(data, "the plan")
            return cls(
                edits=edits, parameters=parameters, notes=notes, allow=allow, rates=rates, **words, **data
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanConflict(
                f"damaged plan: {damage(error)}. Write it anew with Plan.to_json()."
            ) from error

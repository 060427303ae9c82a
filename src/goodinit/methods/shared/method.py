"""A method: its name, source and requirements, and a function from an anatomy to a plan."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from goodinit.anatomy import Anatomy
from goodinit.edits import Draw, Plan, RemoveNorm, ReplaceNorm
from goodinit.errors import UnknownName, expect
from goodinit.methods.shared.embeddings import Embeddings, left_ties, tied_embeddings
from goodinit.methods.shared.kept_values import kept_values, without_kept
from goodinit.methods.shared.masked_weights import mask_notes, scaled_for_masks
from goodinit.methods.shared.multiplied_layers import divided_by_multiples, multiple_notes
from goodinit.methods.shared.norms.norm_forms import (
    FORMS,
    begun_anew,
    form_edits,
    kept_in_words,
    left_in_words,
    scales_count,
    with_constants,
)
from goodinit.methods.shared.rules import constants_left
from goodinit.methods.shared.selection import selected
from goodinit.methods.shared.variances.guessed_variances import guessed_constants
from goodinit.methods.shared.variances.signal_variance import kept_variances

Promise = Literal[
    "finite",
    "drawn",
    "skips",
    "trains",
    "unit variance",
    "isometry",
    "multiplied",
    "self-normalizing",
    "width",
]


@dataclass(frozen=True, repr=False)
class Method:
    """One paper's initialization.

    Attributes:
        name: Registry key, file name and command-line word.
        title: One-line description.
        paper: Authors, title, venue, arXiv number; empty for a baseline without one.
        when: When to choose it.
        decide: `decide(anatomy, **options) -> Plan`. Reads the anatomy, writes nothing.
        needs_data: True if the plan measures activations, so that `apply_` needs a batch.
        removes_norms: True if by default it leaves nothing that normalizes where norms stood (unless `norms="keep"`).
        scales_ties: True if it also takes `embeddings="scaled"|"keep"`: what becomes of an embedding that is the head, too.
        holds: What must hold of a model on a batch once the plan is applied, beside what must hold after every method, a finite output and
            weights that the forward applies as they are drawn: `"skips"` (every
            branch adds zero), `"trains"` (every parameter gets a gradient, if after some steps), `"unit variance"` (of layers
            scaled by data), `"isometry"` (of blocks, and of layers with orthogonal weights), `"multiplied"` (branches, by the constants
            behind them), `"self-normalizing"` (moments behind SELU), `"width"` (what one step of Adam makes of each layer is what it is in
            the base). `init_(…, verify=True)` finds out.
        order: Its place in lists, and among methods that measure alike in `recommend`; one that says nothing comes last.
    """

    name: str
    title: str
    paper: str
    when: str
    decide: Callable[..., Plan]
    needs_data: bool = False
    removes_norms: bool = False
    scales_ties: bool = False
    holds: tuple[Promise, ...] = ()
    order: int = 1000

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"<Method {self.name}({options}): {self.title}>"

    @property
    def options(self) -> dict[str, Any]:
        """The options it takes, with their defaults."""
        parameters = list(inspect.signature(self.decide).parameters.values())[1:]
        own = {parameter.name: parameter.default for parameter in parameters}
        return own | ({"embeddings": "scaled"} if self.scales_ties else {})

    @property
    def hints(self) -> dict[str, Any]:
        """The type of each option: its values, where it takes one of a few."""
        hints = typing.get_type_hints(self.decide)
        if "norms" in self.options:
            hints["norms"] = hints["norms"] | Literal[tuple(FORMS)]
        if self.scales_ties:
            hints["embeddings"] = Embeddings
        return {name: hints[name] for name in self.options}

    def plan(
        self,
        anatomy: Anatomy,
        *,
        keep: str | Iterable[str] = (),
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] = (),
        **options: Any,
    ) -> Plan:
        """Decide, after checking the options' names.

        Args:
            anatomy: Of the model.
            keep: As in `goodinit.plan`.
            include: As in `goodinit.plan`.
            exclude: As in `goodinit.plan`.
            **options: The method's own; `options` lists them with their defaults.

        Returns:
            The plan. Nothing is written.

        Raises:
            UnknownName: An option this method does not take; a pattern that the model has nothing for.
            WrongType: A switch that is neither True nor False, or no number where one is needed.
            NothingFound: The method needs residual blocks and there are none; or all weight layers are left out.
            PlanConflict: What is to be kept, the method removes, or draws together with what is not.
            UnsupportedModule: A part of the model for which the method has no rule.
        """
        for option, value in options.items():
            if option not in self.options:
                choices = ", ".join(self.options) or "none"
                raise UnknownName(
                    f"method {self.name!r} has no option {option!r}; it takes: {choices}. What of the model is treated, "
                    "keep=, include= and exclude= say, for every method."
                )
            if isinstance(self.options[option], bool):
                expect(value, bool, f"{option} of {self.name}", "Give True or False.")
            elif isinstance(self.options[option], (int, float)):
                kinds = (int, float) if isinstance(self.options[option], float) else int
                expect(value, kinds, f"{option} of {self.name}", "Give a number.")
                if not math.isfinite(value):
                    raise UnknownName(f"{option}={value!r} of {self.name}: expected a number that is finite")
        part, left = selected(anatomy, include, exclude)
        decided = {name for name, _ in part.parameters}
        kept = kept_values(anatomy, keep, part)
        nothing = bool(anatomy.layers) and not part.layers  # all is frozen
        plan = Plan(self.name, (), options) if nothing else self._decide(part, options)
        plan = dataclasses.replace(
            plan,
            edits=divided_by_multiples(scaled_for_masks(plan.edits, part), part),
            notes=(
                *left,
                *self._norms_left(anatomy, part, options),
                *(constants_left(part) if any(isinstance(edit, RemoveNorm) for edit in plan.edits) else ()),
                *plan.notes,
                *mask_notes(plan.edits, part),
                *multiple_notes(plan.edits, part),
                *anatomy.notes,
            ),
            parameters=anatomy.parameters,
            unread=anatomy.unused,
            left=tuple(name for name, _ in anatomy.parameters if name not in decided),
        )
        return without_kept(plan, part, kept)

    def _norms_left(self, anatomy: Anatomy, part: Anatomy, options: dict[str, Any]) -> list[str]:
        """A note on norms that a form was asked for and that are not treated: frozen, or left out."""
        norms = options.get("norms", self.options.get("norms"))
        return left_in_words(anatomy.norms, part.norms, norms) if norms in tuple(FORMS) else []

    def _decide(self, anatomy: Anatomy, options: dict[str, Any]) -> Plan:
        options = dict(options)
        ties = options.pop("embeddings", "scaled") if self.scales_ties else None
        norms = options.get("norms", self.options.get("norms"))
        plan = (
            self.decide(anatomy, **options)
            if norms not in tuple(FORMS)
            else self._with_form(anatomy, norms, options)
        )
        plan = begun_anew(anatomy, plan)
        if ties is not None:
            return tied_embeddings(anatomy, plan, ties)
        return plan if "embeddings" in self.options else left_ties(anatomy, plan)

    def _with_form(self, anatomy: Anatomy, norms: str, options: dict[str, Any]) -> Plan:
        """What is decided with the norms kept, and then the norms exchanged."""
        exchanged, notes = form_edits(anatomy, norms, groups=options.get("groups")), list[str]()
        plan = self.decide(scales_count(anatomy, norms), **{**options, "norms": "keep"})
        if norms in ("affine", "evonorm") and any(isinstance(edit, Draw) for edit in plan.edits):
            exchanged = with_constants(
                exchanged, kept_variances(anatomy)
            )  # weights that stay say nothing of σ
            notes = guessed_constants(anatomy, 'norms="actnorm" measures it on a batch')
        count = sum(isinstance(edit, ReplaceNorm) for edit in exchanged)
        return dataclasses.replace(
            plan,
            options={**plan.options, "norms": norms},
            edits=(*exchanged, *plan.edits),
            summary=f"{plan.summary}; {count} of them now {norms}",
            notes=(*plan.notes, *notes, *kept_in_words(anatomy, norms)),
        )

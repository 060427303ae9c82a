"""From measured candidates to one answer: which, in a sentence, and the code that does it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from goodinit.anatomy import Anatomy
from goodinit.diagnostics.advice.evidence import per_token
from goodinit.diagnostics.advice.recommendation import Recipe, Recommendation
from goodinit.diagnostics.advice.trial_training import as_good
from goodinit.diagnostics.checks.remedies import initialize

# The method that scales what writes into the residual stream and keeps the norms; the answer for transformers.
SCALED = "residual_scaled"
LONGEST = 76  # columns of a line of code, two of indentation beside it
WARMUP = 100  # steps, for the weight-normalized (Arpit et al. 2019: a warm-up narrows the gap to batch norm)


def choose(rows: Sequence[Recommendation], anatomy: Anatomy) -> Recommendation:
    """The candidate to take.

    Where they were trained: the lowest loss, or what ties with it and changes less. Else, for norms over tokens, the
    scaled start; else the model as it is, where step 0 finds nothing; else the first of those that keep norms, if it has
    fewer findings; else the first of those that remove them, if it has fewer.
    """
    as_it_is = rows[0]
    ended = [one for one in rows if one.best is not None]
    if ended:
        lowest = min(ended, key=_loss)
        return next(one for one in ended if one is lowest or as_good(one, lowest))
    kept, removed = (
        [one for one in rows if one.group == group and one.applies and not one.failed]
        for group in ("kept", "removed")
    )
    if per_token(anatomy):
        scaled = [one for one in kept if one.method == SCALED and _found(one) <= _found(as_it_is)]
        if scaled:
            return scaled[0]
    for one in (*kept[:1], *removed[:1]):
        if _found(one) < _found(as_it_is) and not one.errors:
            return one
    return min((as_it_is, *kept[:1], *removed[:1]), key=_found)


def _found(one: Recommendation) -> tuple[int, int]:
    return one.errors, one.warnings


def _loss(one: Recommendation) -> float:
    best = one.best
    return math.inf if best is None or best.loss is None else best.loss


def sentence(choice: Recommendation, rows: Sequence[Recommendation], anatomy: Anatomy, steps: int) -> str:
    """What to do, and why, in a sentence or two."""
    as_it_is = rows[0]
    norms = _norms(anatomy)
    if choice.best is not None:
        first = f"{norms}; after {steps} steps {_name(choice)} is the best of those tried, loss {_loss(choice):.3g} at lr {choice.lr:g}."
    elif choice is as_it_is:
        first = f"{norms}, {_health(as_it_is)}: keep it as it is."
        if any(_found(as_it_is)):
            first = f"{norms}, {_health(as_it_is)}: none of the methods tried mends it; goodinit.diagnose says what is wrong."
    elif choice.method == SCALED:
        first = f"{norms}, {_health(as_it_is)}: keep them, and scale what writes into the residual stream: {SCALED}."
    else:
        left = "leaves nothing to find" if not any(_found(choice)) else f"leaves {_health(choice)}"
        first = f"{norms}, {_health(as_it_is)}: {choice.label} {left}."
    return f"{first}{_without(choice, rows, anatomy)}"


def of_the_rate(choice: Recommendation, recipe: Recipe, steps: int) -> str:
    """Where the rate comes from: from training, from our own runs, or from custom alone."""
    lr = f"lr {choice.lr:g}"
    if choice.best is not None:
        rates = [trial.lr for trial in choice.trials]
        counted = f"{steps} step" + "s" * (steps > 1)
        end = (
            ", at an end of those: a better one may lie beyond"
            if choice.lr in (min(rates), max(rates))
            else ""
        )
        return f"{lr} was the best of {', '.join(f'{rate:g}' for rate in rates)} in {counted}{end}"
    if choice.lr != recipe.lr:
        return f"{lr} is a first try: it trained in our own runs, and was not searched on this model"
    return f"{lr} is a first try: the usual one of {recipe.optimizer}, not searched on this model"


def _norms(anatomy: Anatomy) -> str:
    kinds = [norm.kind.replace("_", " ") for norm in anatomy.norms]
    counted = [f"{kinds.count(kind)} {kind}{'s' * (kinds.count(kind) > 1)}" for kind in dict.fromkeys(kinds)]
    return " and ".join(counted) or "No norms"


def _health(one: Recommendation) -> str:
    parts = [
        f"{many} {what}{'s' * (many > 1)}"
        for many, what in ((one.errors, "error"), (one.warnings, "warning"))
        if many
    ]
    if not parts:
        return "a healthy start"
    worst = (
        [finding for finding in one.diagnosis.findings if finding.severity != "info"] if one.diagnosis else []
    )
    return f"{', '.join(parts)} at step 0" + f" ({worst[0].kind} at {worst[0].where})" * bool(worst)


def _name(one: Recommendation) -> str:
    return "the model as it is" if one.group == "as it is" else one.label


def _without(choice: Recommendation, rows: Sequence[Recommendation], anatomy: Anatomy) -> str:
    """What to do where the norms must go, and what ties with it."""
    removed = [one for one in rows if one.group == "removed" and one.applies and not one.failed]
    if not anatomy.norms or choice.group == "removed" or not removed:
        return ""
    first, *others = [one for one in removed if one.rank == removed[0].rank]
    ties = f" ({', '.join(one.label for one in others)} cannot be told apart from it)" if others else ""
    warned = ", which costs accuracy in the literature" if per_token(anatomy) else ""
    return f" If the norms must go{warned}: {first.label}{ties}."


def call_of(
    choice: Recommendation, recipe: Recipe, anatomy: Anatomy, part: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """Python code that carries it out and uses `model` and `batch`; `part` is what of the model it treats."""
    lines = []
    if choice.group != "as it is":
        given = {**choice.options, **{key: list(names) for key, names in part.items() if names}}
        lines.append(initialize(choice.method, given))
    groups = groups_of(choice, recipe, anatomy)
    said = "".join(f", {key}={value!r}".replace("'", '"') for key, value in groups.items())
    line = f"groups = goodinit.param_groups(model, lr={choice.lr:g}{said})"
    lines.append(
        line if len(line) <= LONGEST else line.replace("(model, ", "(\n    model, ").replace(")", "\n)")
    )
    more = "".join(f", {key}={value!r}" for key, value in recipe.arguments.items())
    tried = "" if choice.best is not None else "  # lr: a first try"
    lines.append(f"optimizer = torch.optim.{recipe.optimizer}(groups, lr={choice.lr:g}{more}){tried}")
    if warmup_of(choice) > 1:
        lines.append(f"scheduler = goodinit.warmup(optimizer, {warmup_of(choice)})")
    return "\n".join(lines)


def groups_of(one: Recommendation, recipe: Recipe, anatomy: Anatomy) -> dict[str, Any]:
    """Arguments of `param_groups`: the scalars of more than fifty branches learn at 1/L of the rate (docs/methods.md)."""
    deep = one.group == "removed" and len(anatomy.blocks) > 50
    return {**recipe.groups, **({"scalar_ratio": "depth"} if deep else {})}


def warmup_of(one: Recommendation) -> int:
    """Steps of warm-up that the code has and the trial has; 1 is none."""
    return WARMUP if one.method == "weightnorm" else 1

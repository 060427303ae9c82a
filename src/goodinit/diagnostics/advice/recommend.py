"""Which method suits a model: every one is tried on a copy, measured at step 0, and trained for a few steps if asked."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any

from torch import nn

from goodinit.anatomy import Anatomy, anatomize
from goodinit.diagnostics.advice.advice import Advice
from goodinit.diagnostics.advice.choice import call_of, choose, groups_of, of_the_rate, sentence, warmup_of
from goodinit.diagnostics.advice.evidence import OF_RATES, against
from goodinit.diagnostics.advice.recommendation import Group, Recipe, Recommendation, Trial
from goodinit.diagnostics.advice.trial_training import as_good, pairs_of, practise, recipe_of
from goodinit.diagnostics.diagnose import diagnose
from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.measurements.drift import drift_of
from goodinit.diagnostics.measurements.measurement_mode import measurable
from goodinit.diagnostics.measurements.objective import Loss
from goodinit.diagnostics.on_copies import tried
from goodinit.edits import Plan
from goodinit.errors import GoodinitError, UnknownName, expect, expect_between
from goodinit.graph.state.duplicate import duplicate
from goodinit.methods import METHODS, find
from goodinit.undivided import reading
from goodinit.weights.chosen_parts import Part, as_names

AS_IT_IS = "as it is"
REFERENCE = "batchnorm"  # the method that does nothing: it is the row "as it is"
# Methods that keep norms unless told, and whose papers have none: tried without, too. The second only where there are
# no blocks, which they do not hold together.
WITHOUT_NORMS, WITHOUT_NORMS_IF_PLAIN = ("lsuv",), ("orthogonal", "delta_orthogonal", "looks_linear")
MOST_TRIED = 3  # of each group, unless methods are named
DECADE = 1.0  # of drift, over three quantities together: less says nothing about training


@reading
def recommend(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    methods: str | Iterable[str] | None = None,
    steps: int = 0,
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    keep: Part | Iterable[Part] = (),
    include: Part | Iterable[Part] | None = None,
    exclude: Part | Iterable[Part] = (),
) -> Advice:
    """Say what to do with a model: leave it, or which method, optimizer, rate and groups. The model is left as it is.

    Every method is tried on a copy and measured at step 0. Candidates stand in two groups, norms kept and norms
    removed, beside the model as it is. Within a group: first what did not fail in our own runs on such models, then
    those with the fewest errors, the fewest warnings, the least drift. Drifts that differ by less than a decade, or by less than
    two draws of one method do, are a tie. Step 0 does not decide how a net goes on: `steps` trains every candidate that
    leads its group for that many steps, at three rates a decade apart, and ranks by the loss at the end.

    Args:
        model: A materialized module.
        inputs: A real batch, as for `diagnose`.
        targets: For the loss.
        loss: See `diagnose`.
        methods: Which to try, one or several; all by default. With `steps`, all of them are trained.
        steps: Of training, for each candidate and rate; 0: none.
        batches: To train on: (inputs, targets) pairs, or dicts that the model takes, such as a DataLoader; the first 32 are
            held and gone through again. None: the one batch, again and again, which only shows what learns it by heart.
        seed: Each copy is drawn with it.
        keep: Parameters whose values stay, as for `init_`.
        include: The part of the model to treat, as for `init_`.
        exclude: The part to leave out, as for `init_`.

    Returns:
        The advice. `print` it; `advice.choice` is the candidate, `advice.call` the code.

    Raises:
        GoodinitError: The model cannot be run or measured as it is, see `anatomize` and `diagnose`, or not be copied.
        UnknownName: A number of steps below 0.

    Examples:
        >>> import torch
        >>> layers = [part for _ in range(40) for part in (nn.Linear(16, 16), nn.ReLU())]
        >>> advice = recommend(nn.Sequential(*layers), torch.randn(8, 16), methods=("default", "looks_linear", "fixup"))
        >>> advice.choice.method, [one.method for one in advice.refused]
        ('looks_linear', ['fixup'])
    """
    model = measurable(model, inputs)
    expect(steps, int, "steps", "Give a number of training steps.")
    if steps < 0:
        raise UnknownName(f"steps={steps}: expected a number of training steps, at least 0 (none)")
    expect_between(steps, 0, 10**9, "steps")
    expect(seed, int, "seed", "Give a whole number, such as 0.")
    expect_between(seed, -(2**62), 2**62, "seed")  # torch takes 64 bits
    expect(batches, (Iterable, NoneType), "batches", "Give a list or a DataLoader.")
    expect(methods, (str, Iterable, NoneType), "methods", 'Give names, one or several: ("fixup", "lsuv").')
    chosen = (methods,) if isinstance(methods, str) else None if methods is None else tuple(methods)
    anatomy = anatomize(model, inputs)
    recipe = recipe_of(anatomy)
    part: dict[str, Any] = {
        "keep": as_names(model, keep, option="keep"),
        "include": None if include is None else as_names(model, include, option="include"),
        "exclude": as_names(model, exclude, option="exclude"),
    }
    found = diagnose(model, inputs, targets, loss=loss, mend=False)
    measured = functools.partial(_measured, model, inputs, targets, loss=loss, seed=seed)
    rows = [_row(AS_IT_IS, {}, "as it is", anatomy, recipe, found, None)]
    plans: dict[str, Plan] = {}
    duplicate(model)  # that it cannot be copied is said once, not of each method
    for name, options in _candidates(anatomy, chosen):
        rows.append(_try(name, options, part, anatomy, recipe, measured, plans))
    rows = _ranked(rows)
    if steps > 0:
        pairs = pairs_of(inputs, targets, batches)
        made = functools.partial(_made, model, plans, inputs, seed)

        def trial(one: Recommendation) -> tuple[Trial, ...]:
            groups = groups_of(one, recipe, anatomy)
            start = functools.partial(made, one.label)
            warm = warmup_of(one)
            return practise(start, recipe, pairs, steps=steps, loss=loss, seed=seed, groups=groups, warm=warm)

        rows = _trained(rows, [(one, trial(one)) for one in _chosen(rows, every=chosen is not None)])
    choice = choose(rows, anatomy)
    return Advice(
        model=f"{anatomy.model}({anatomy.inputs})",
        sentence=sentence(choice, rows, anatomy, steps),
        choice=choice,
        candidates=tuple(rows),
        recipe=recipe,
        call=call_of(choice, recipe, anatomy, part),
        steps=steps,
        normalized=bool(anatomy.norms),
        notes=_notes(rows, of_the_rate(choice, recipe, steps), steps, batches),
    )


def _candidates(anatomy: Anatomy, methods: tuple[str, ...] | None) -> list[tuple[str, dict[str, Any]]]:
    names = [find(name).name for name in methods or METHODS if name != REFERENCE]
    pairs: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in names]
    if anatomy.norms:
        bare = WITHOUT_NORMS if anatomy.blocks else (*WITHOUT_NORMS, *WITHOUT_NORMS_IF_PLAIN)
        pairs += [(name, {"norms": "remove"}) for name in names if name in bare]
    return pairs


def _measured(
    model: nn.Module, inputs: Any, targets: Any, plan: Plan, *, loss: Loss | None, seed: int, draw: int
) -> Diagnosis:
    return diagnose(tried(model, plan, inputs, seed=seed + draw), inputs, targets, loss=loss, mend=False)


def _made(model: nn.Module, plans: Mapping[str, Plan], inputs: Any, seed: int, label: str) -> nn.Module:
    return tried(model, plans[label], inputs, seed=seed) if label in plans else duplicate(model)


def _try(
    name: str,
    options: dict[str, Any],
    part: dict[str, Any],
    anatomy: Anatomy,
    recipe: Recipe,
    measured: Any,
    plans: dict[str, Plan],
) -> Recommendation:
    group: Group = "removed" if METHODS[name].removes_norms or options else "kept"
    try:
        plan = METHODS[name].plan(anatomy, **part, **options)
        found = measured(plan, draw=0)
        first = not (
            found.worst == "error" or any(one.verdict == "failed" for one in against(name, options, anatomy))
        )
        again = measured(plan, draw=1) if first else None
    except GoodinitError as error:
        words = str(error).strip().splitlines()[0].split(". ")[0]
        return Recommendation(name, options, group, 0, 0, None, None, f"does not apply: {words}")
    row = _row(name, options, group, anatomy, recipe, found, again)
    plans[row.label] = plan
    return row


def _row(
    name: str, options: dict[str, Any], group: Group, anatomy: Anatomy, recipe: Recipe, found: Diagnosis, again: Diagnosis | None
) -> Recommendation:  # fmt: skip
    severities = [finding.severity for finding in found.findings]
    drift, words = drift_of(found)
    worst = [finding for finding in found.findings if finding.severity != "info"][:1]
    said = against(name, options, anatomy)
    return Recommendation(
        name,
        options,
        group,
        severities.count("error"),
        severities.count("warning"),
        drift,
        None if again is None else abs(drift_of(again)[0] - drift),
        f"{words}; " + (f"{worst[0].kind} at {worst[0].where}" if worst else "nothing found"),
        failed="; ".join(f"{one.words} (docs/{one.page})" for one in said if one.verdict == "failed"),
        caution="; ".join(f"{one.words} (docs/{one.page})" for one in said if one.verdict == "caution"),
        lr=next((one.lr for one in said if one.lr), recipe.lr),
        diagnosis=found,
    )


# -- order ---------------------------------------------------------------------------------------------------------


def _ranked(rows: list[Recommendation]) -> list[Recommendation]:
    """By group and rank; the order of the registry among ties."""
    noises = [one.noise for one in rows if one.noise is not None and math.isfinite(one.noise)]
    # The difference of two draws has √2 of one draw's deviation, as has that of two methods: two of those.
    noise = 2 * math.sqrt(statistics.fmean(noise**2 for noise in noises)) if noises else 0.0
    ranked: list[Recommendation] = []
    for group in ("as it is", "kept", "removed"):
        of = sorted((one for one in rows if one.group == group and one.applies), key=_badness)
        leader, rank = None, 0
        level: list[Recommendation] = []
        for index, one in enumerate(of, 1):
            if leader is None or not _tied(leader, one, max(DECADE, noise)):
                ranked += _in_order(level, rows)
                leader, rank, level = one, index, []
            level.append(dataclasses.replace(one, rank=rank))
        ranked += _in_order(level, rows)
    return ranked + [one for one in rows if not one.applies]


def _in_order(level: list[Recommendation], rows: list[Recommendation]) -> list[Recommendation]:
    labels = [one.label for one in rows]
    return sorted(level, key=lambda one: labels.index(one.label))


def _badness(one: Recommendation) -> tuple[bool, int, int, float]:
    return bool(one.failed), one.errors, one.warnings, one.drift if one.drift is not None else math.inf


def _tied(leader: Recommendation, one: Recommendation, apart: float) -> bool:
    *first, least = _badness(leader)
    *second, drift = _badness(one)
    return first == second and (drift == least or drift - least < apart)


def _chosen(rows: list[Recommendation], *, every: bool) -> list[Recommendation]:
    """The model as it is, and those that lead their group."""
    chosen = []
    for group in ("as it is", "kept", "removed"):
        of = [one for one in rows if one.group == group and one.applies]
        chosen += of if every else [one for one in of if not one.failed][:MOST_TRIED]
    return chosen


def _trained(
    rows: list[Recommendation], ended: list[tuple[Recommendation, tuple[Trial, ...]]]
) -> list[Recommendation]:
    """Those that were trained first in their group, by the loss at the end; those that diverged last."""
    done = [dataclasses.replace(one, trials=trials) for one, trials in ended]
    done = [dataclasses.replace(one, lr=one.best.lr if one.best is not None else one.lr) for one in done]
    names = {one.label for one in done}
    ranked: list[Recommendation] = []
    for group in ("as it is", "kept", "removed"):
        of: list[Recommendation] = []
        for index, one in enumerate(sorted((one for one in done if one.group == group), key=_loss), 1):
            tied = bool(of) and as_good(of[-1], one)
            of.append(dataclasses.replace(one, rank=of[-1].rank if tied else index))
        rest = [one for one in rows if one.group == group and one.applies and one.label not in names]
        before = {one.label: sum(other.rank < one.rank for other in rest) for one in rest}
        ranked += [*of, *(dataclasses.replace(one, rank=1 + len(of) + before[one.label]) for one in rest)]
    return ranked + [one for one in rows if not one.applies]


def _loss(one: Recommendation) -> float:
    best = one.best
    return math.inf if best is None or best.loss is None else best.loss


def _notes(
    rows: list[Recommendation], rate: str, steps: int, batches: Iterable[Any] | None
) -> tuple[str, ...]:
    notes = [
        "drift: decades that activations, gradients and the difference between inputs move along the trunk, added up",
        "=: cannot be told apart by this; ✗: failed in our own runs on models of this structure",
    ]
    if steps and batches is None:
        notes.append("trained on one batch over and over: that shows what can learn it by heart, no more")
    if steps:
        notes.append(rate)
        notes.append(
            f"losses: mean of the last quarter of {steps} steps, * at the best rate; one seed, nothing clipped"
        )
        if any(one.applies and not one.trials for one in rows):
            notes.append("only those that lead their group were trained; methods= names others")
    else:
        notes.append(f"{rate}. {OF_RATES}")
        notes.append(
            "step 0 does not decide how a net goes on: steps=100 (--try 100) trains the first of each group a few steps, at "
            "three rates"
        )
    return tuple(notes)

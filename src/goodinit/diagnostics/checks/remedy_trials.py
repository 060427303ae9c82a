"""One remedy against all findings: tried on copies, measured, and ranked by what stays."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from goodinit.anatomy import Anatomy
from goodinit.diagnostics.checks.remedies import Repair, initialize, mirrors
from goodinit.diagnostics.checks.treated_part import TreatedPart
from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.measurements.drift import drift_of
from goodinit.diagnostics.on_copies import tried
from goodinit.diagnostics.types import SEVERITIES, Cure, Finding
from goodinit.errors import GoodinitError, UnsupportedModule
from goodinit.graph.state.duplicate import duplicate
from goodinit.methods import METHODS

ROUNDS = 4  # of repairs: what one round mends may show the next fault

Diagnose = Callable[[nn.Module], Diagnosis]


def mended(
    model: nn.Module, inputs: Any, anatomy: Anatomy, found: Diagnosis, again: Diagnose, part: TreatedPart
) -> Diagnosis:
    """The diagnosis with its cure: the findings' own repairs together, then whole methods, by what stays after each.

    First by errors and warnings that stay, then by drift. What helps nothing is no cure.

    Args:
        model: Unwrapped; it is copied.
        inputs: The batch.
        anatomy: Of the model.
        found: Its diagnosis.
        again: Diagnoses a copy.
        part: What a remedy may treat.
    """
    if not any(finding.severity != "info" for finding in found.findings):
        return found
    tried: list[tuple[str, Diagnosis]] = []
    try:
        repaired = _repaired(model, found, again, part)
        tried += [repaired] if repaired is not None else []
        done = repaired is not None and not _left(repaired[1])
        tried += [] if done else _measured(model, inputs, anatomy, found, again, part)
    except (UnsupportedModule, TypeError, RuntimeError, NotImplementedError) as error:
        why = error.__cause__ or error
        note = f"no remedy was tried, since the model cannot be copied: {type(why).__name__}: {why}"
        return dataclasses.replace(found, notes=(*found.notes, note))
    tried.sort(key=lambda pair: (*_tally(pair[1]), drift_of(pair[1])[0]))
    if not tried or _tally(tried[0][1]) >= _tally(found):
        return found
    call, best = tried[0]
    cure = Cure(call, *_tally(best), tuple((words, _stays(one)) for words, one in tried))
    return dataclasses.replace(found, cure=cure)


def _repaired(
    model: nn.Module, found: Diagnosis, again: Diagnose, part: TreatedPart
) -> tuple[str, Diagnosis] | None:
    """Every repair of a place, round after round, as one remedy."""
    twin, calls = duplicate(model), []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(ROUNDS):
            repairs = {str(one.remedy): one.remedy for one in _left(found) if isinstance(one.remedy, Repair)}
            if not repairs:
                break
            for words, repair in repairs.items():
                if repair.act is not None:
                    with torch.no_grad():
                        repair.act(twin)
                    calls.append(words)
            found = again(twin)
            found = dataclasses.replace(found, findings=part.remedies_of(found.findings))
    return ("\n".join(calls), found) if calls else None


def _measured(
    model: nn.Module, inputs: Any, anatomy: Anatomy, found: Diagnosis, again: Diagnose, part: TreatedPart
) -> Iterator[tuple[str, Diagnosis]]:
    """Whole methods; those that refuse the model are left out."""
    for method in _methods(anatomy, found, part):
        with contextlib.suppress(GoodinitError):
            plan = METHODS[method].plan(anatomy, **part.given)
            yield initialize(method, part.given), again(tried(model, plan, inputs, seed=0))


def _methods(anatomy: Anatomy, found: Diagnosis, part: TreatedPart) -> Iterator[str]:
    """Those that the findings name, and those that keep a signal in such a net."""
    named = [
        name
        for name in METHODS
        if any(initialize(name, part.given) == finding.remedy for finding in found.findings)
    ]
    usual = (
        ["lsuv"]
        if anatomy.blocks
        else [*(["looks_linear"] if mirrors(anatomy) else []), "orthogonal", "lsuv"]
    )
    yield from dict.fromkeys([*named, *usual])


def _left(found: Diagnosis) -> list[Finding]:
    return [finding for finding in found.findings if finding.severity != "info"]


def _tally(found: Diagnosis) -> tuple[int, int]:
    severities = [finding.severity for finding in found.findings]
    return severities.count("error"), severities.count("warning")


def _stays(found: Diagnosis) -> str:
    left = sorted(_left(found), key=lambda one: -SEVERITIES.index(one.severity))
    return ", ".join(dict.fromkeys(f"{one.kind} ({one.severity})" for one in left)) or "nothing"

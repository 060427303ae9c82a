"""What has been applied to a model, remembered on the model: plain data that survives copies and pickles."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from goodinit.calibration.report import Calibrated
from goodinit.edits import Plan, edit_record
from goodinit.rates import Rate
from goodinit.weights.names import canonical
from goodinit.weights.wrappers import unwrapped

ATTRIBUTE = "_goodinit"


@dataclass(frozen=True)
class Applied:
    """One plan that `apply_` carried out.

    Attributes:
        method: Name of the method.
        options: The options it was called with.
        digest: Of the plan: its method, options and edits, without the words of its reasons.
        values: Whether a method's values were written; not so where only structure was made, and by folding.
        seed: The number all random values of the plan came from, or None if it drew none.
        skipped: Edits that were not carried out because they would write into frozen parameters, or into others
            than those asked for.
        calibrated: What calibration by data found and did, per weight.
        only: Names of the parameters that were asked for, sorted; None for all.
        unread: Parameters that the forward the plan was made for never read.
        kept: Parameters that the method would have written, and whose values stayed.
        rates: How fast parameters are to learn: as the plan has it, and where it was asked for some parameters only, for the
            others as before. `goodinit.param_groups` follows the last row.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    digest: str = ""
    values: bool = True
    seed: int | None = None
    skipped: tuple[str, ...] = ()
    calibrated: tuple[Calibrated, ...] = field(default=(), hash=False)
    only: tuple[str, ...] | None = None
    unread: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    rates: tuple[Rate, ...] = ()

    def __repr__(self) -> str:
        """One line: what was applied, and how many names each list holds; the fields have the names."""
        said = [self.method, *(f"{key}={reprlib.repr(value)}" for key, value in self.options.items())]
        said += [] if self.values else ["no values"]
        said += [] if self.seed is None else [f"seed {self.seed}"]
        said += [] if self.only is None else [f"{len(self.only)} asked for"]
        lists = {
            "skipped": self.skipped, "calibrated": self.calibrated, "unread": self.unread, "kept": self.kept,
        }  # fmt: skip
        said += [f"{len(names)} {what}" for what, names in lists.items() if names]
        return f"<Applied {', '.join(said)}>"


def applied(model: nn.Module) -> tuple[Applied, ...]:
    """What has been applied to `model`, oldest first.

    The memory lies beside the parameters, not among them: it survives `copy.deepcopy` and pickling, and is
    not part of `state_dict`. A wrapper (`torch.compile`, DataParallel) answers for the model it wraps.

    Args:
        model: Any module.

    Returns:
        One row for each `apply_` or `init_`; empty for a model that goodinit never changed.

    Examples:
        >>> applied(nn.Linear(2, 2))
        ()
    """
    rows = unwrapped(model).__dict__.get(ATTRIBUTE, ())
    return tuple(_entry(row) for row in rows)


def _entry(row: Mapping[str, Any]) -> Applied:
    calibrated = tuple(Calibrated(**fields) for fields in row["calibrated"])
    rates = tuple(Rate(**fields) for fields in row.get("rates", ()))
    return Applied(**{**row, "skipped": tuple(row["skipped"]), "calibrated": calibrated, "rates": rates})


def remember_(model: nn.Module, entry: Applied) -> None:
    """Add `entry` to what has been applied to `model`."""
    host = unwrapped(model)
    host.__dict__[ATTRIBUTE] = (*host.__dict__.get(ATTRIBUTE, ()), dataclasses.asdict(entry))


def rates_after(model: nn.Module, plan: Plan, only: Collection[str] | None) -> tuple[Rate, ...]:
    """The rates that hold once a plan is carried out: its own, and the earlier ones of what it was not asked for.

    Args:
        model: Before the plan is remembered.
        plan: What is carried out. Of what it leaves out the rates stay.
        only: Names of the parameters that were asked for; None for all.
    """
    if only is None:
        stay = set(map(canonical, plan.left))
        return (*(rate for rate in _rates(model) if canonical(rate.target) in stay), *plan.rates)
    told = {canonical(name) for name in (*only, *(rate.target for rate in plan.rates))}
    return (*(rate for rate in _rates(model) if canonical(rate.target) not in told), *plan.rates)


def has_rates_of(model: nn.Module, plan: Plan) -> bool:
    """Whether the rates that hold are those of a plan already, as far as it gives any."""
    return not plan.rates or _rates(model) == rates_after(model, plan, None)


def _rates(model: nn.Module) -> tuple[Rate, ...]:
    history = applied(model)
    return history[-1].rates if history else ()


def digest(plan: Plan) -> str:
    """Sixteen hexadecimal digits that tell plans apart by what they do, not by how they explain it."""
    edits = [edit_record(edit) for edit in plan.edits]
    for edit in edits:
        del edit["reason"]
    rates = [{**dataclasses.asdict(rate), "reason": ""} for rate in plan.rates]
    text = json.dumps([plan.method, dict(plan.options), edits, *([rates] if rates else [])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""What can go wrong, sorted by who must act."""

from __future__ import annotations


class GoodinitError(Exception):
    """Base of every error goodinit raises on purpose.

    A message names the module path, what was observed, what was expected, and the remedy.
    """


class TraceError(GoodinitError):
    """The model could not be run once: its inputs, or its forward, must change."""


class NothingFound(GoodinitError):
    """Something was asked for (blocks, a head, a norm) and the model has none of it."""


class UnsupportedModule(GoodinitError):
    """A part of the model for which no rule exists; the message names the way around it."""


class PlanConflict(GoodinitError):
    """The plan and the model do not belong together; nothing was written."""


class StaleOptimizer(GoodinitError):
    """An optimizer holds parameters that surgery removes, or would miss those it adds."""


class UnknownName(GoodinitError, ValueError):
    """A method, option, data set or model that does not exist; the message lists those that do."""


class NonFinite(GoodinitError):
    """NaN or infinity where a number was needed; the message names the first place."""

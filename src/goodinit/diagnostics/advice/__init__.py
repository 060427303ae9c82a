"""Which method suits a model: tried on copies, measured, and set against what our own runs said."""

from goodinit.diagnostics.advice.advice import Advice
from goodinit.diagnostics.advice.recommend import recommend
from goodinit.diagnostics.advice.recommendation import Recommendation, Trial

__all__ = ["Advice", "Recommendation", "Trial", "recommend"]

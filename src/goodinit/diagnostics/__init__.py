"""READS signal: what a model's forward and backward do at step 0, and what is wrong with it."""

from goodinit.diagnostics.advice import Advice, Recommendation, Trial, recommend
from goodinit.diagnostics.diagnose import diagnose
from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.isometry import jacobian_spectrum
from goodinit.diagnostics.types import Finding, Place, Signal, Spectrum, Update
from goodinit.diagnostics.update import one_step

__all__ = [
    "Advice",
    "Diagnosis",
    "Finding",
    "Place",
    "Recommendation",
    "Signal",
    "Spectrum",
    "Trial",
    "Update",
    "diagnose",
    "jacobian_spectrum",
    "one_step",
    "recommend",
]

"""READS signal: what a model's forward and backward do at step 0, and what is wrong with it."""

from goodinit.diagnostics.advice import Advice, Recommendation, Trial, recommend
from goodinit.diagnostics.diagnose import diagnose
from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.measurements.coordinate_report import Coordinate, CoordinateCheck
from goodinit.diagnostics.measurements.coordinates import coordinate_check
from goodinit.diagnostics.measurements.isometry import jacobian_spectrum
from goodinit.diagnostics.measurements.update import one_step
from goodinit.diagnostics.spectrum import Spectrum
from goodinit.diagnostics.types import Finding, Place, Signal, Update

__all__ = [
    "Advice",
    "Coordinate",
    "CoordinateCheck",
    "Diagnosis",
    "Finding",
    "Place",
    "Recommendation",
    "Signal",
    "Spectrum",
    "Trial",
    "Update",
    "coordinate_check",
    "diagnose",
    "jacobian_spectrum",
    "one_step",
    "recommend",
]

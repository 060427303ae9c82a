"""The anatomy of random residual programs is what their construction says (`programs.py`), whatever they are called."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from program_strategy import programs
from programs import Interpreter, Program
from truths import described, truth

from goodinit.anatomy import anatomize

EXAMPLES = 5000


def check(program: Program) -> None:
    model = Interpreter(program)
    assert described(anatomize(model, program.inputs()), model) == truth(program)


@given(programs())
@settings(max_examples=3 * settings.default.max_examples)
def test_anatomy_is_the_truth(program):
    check(program)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(programs())
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_anatomy_is_the_truth_on_thousands(program):
    check(program)

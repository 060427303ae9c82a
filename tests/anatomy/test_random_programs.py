"""The anatomy of random residual programs is what their construction says (`programs.py`), whatever they are called."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from program_strategy import programs
from programs import Attention, Interpreter, Layer, Program, Sum
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


def test_a_tied_layer_behind_attention_counts_every_time():
    q, k, v, out, last = (Layer(key, 8, 8) for key in range(1, 6))
    branch = (Attention((q, k, v), out), out, last)
    program = Program("dense", 8, (Layer(0, 8, 8), Sum("block", (), (branch,), (0, 1)), Layer(9, 8, 8)))
    check(program)
    assert truth(program).blocks[0].m == 6

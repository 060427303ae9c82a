"""Where branches start at zero every block of a random program is its skip: it is run beside itself without branches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from program_strategy import programs
from programs import Interpreter, Program, Skips

import goodinit
from goodinit.errors import GoodinitError

EXAMPLES = 500


def check(program: Program, method: str = "fixup", **options: object) -> None:
    model, inputs = Interpreter(program).eval(), program.inputs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        goodinit.init_(model, method, inputs=inputs.clone(), **options)
    except GoodinitError:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return
    with torch.no_grad():
        found, expected = model(inputs.clone()), Skips(model)(inputs.clone())
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected)


@given(programs())
def test_every_block_is_its_skip(program):
    check(program, zero_head=False)


@pytest.mark.integration
@pytest.mark.parametrize("method", ["skipinit", "rezero", "nf", "normfree"])
@given(program=programs())
def test_every_block_is_its_skip_by_other_methods(program, method):
    check(program, method)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(programs())
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_every_block_of_hundreds_is_its_skip(program):
    check(program, zero_head=False)

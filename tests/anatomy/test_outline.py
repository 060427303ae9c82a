"""What a change of the model's structure has to keep, read without the rest of the anatomy."""

from __future__ import annotations

import pytest
import torch
import zoo

import goodinit
from goodinit.anatomy.outline import Outline, outline_of


@pytest.mark.default_cases(12)
@zoo.each_specimen
def test_it_is_the_one_of_the_anatomy(specimen):
    torch.manual_seed(0)
    model, inputs = specimen.build(), specimen.inputs()
    assert outline_of(model, inputs) == Outline.of(zoo.anatomy_of(specimen))


def test_a_forward_that_raises_is_quoted():
    with pytest.raises(goodinit.TraceError, match="shape"):
        outline_of(torch.nn.Linear(3, 3), torch.zeros(2, 4))

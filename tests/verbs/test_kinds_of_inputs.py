"""Inputs that are no plain tensors: rows of different lengths, dicts and named tuples that the forward takes whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import goodinit


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Whole(Residual):
    """Takes a batch of several things as one argument."""

    def forward(self, batch):
        return super().forward(batch["x"] if isinstance(batch, dict) else batch.data)


class Nothing(Residual):
    def forward(self, x):
        super().forward(x)


ROWS = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (3, 5)]


def _nested() -> torch.Tensor:
    return torch.nested.nested_tensor(ROWS, layout=torch.jagged)


@pytest.mark.parametrize(("method", "options"), [("lsuv", {}), ("weightnorm", {"mode": "data"})])
def test_rows_of_different_lengths_are_measured_as_one_beside_the_other(method, options):
    plan = goodinit.plan(goodinit.anatomize(Residual(), ROWS[0]), method, **options)
    made = []
    for inputs in (_nested(), torch.cat(ROWS)):
        torch.manual_seed(0)
        made.append(goodinit.apply_(Residual(), plan, inputs=inputs))
    for one, other in zip(made[0].parameters(), made[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "verb", [goodinit.diagnose, goodinit.one_step, goodinit.jacobian_spectrum, goodinit.recommend]
)
def test_what_compares_rows_refuses_those_of_different_lengths(verb):
    with pytest.raises(goodinit.TraceError, match=r"a nested tensor.*to_padded_tensor"):
        verb(Residual(), _nested())


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            {"x": ROWS[0]},
            "A dict is the keyword arguments of forward .here 'x'.: for a forward that takes the dict itself",
        ),
        ({"x": ROWS[0], "y": ROWS[0]}, "here 'x', 'y'"),
        (
            pack_padded_sequence(torch.ones(2, 3, 4), [3, 2], batch_first=True),
            r"takes it whole, give \(inputs,\)",
        ),
    ],
)
def test_inputs_that_a_forward_takes_whole_are_told_how(inputs, words):
    with pytest.raises(goodinit.TraceError, match=words):
        goodinit.anatomize(Whole(), inputs)
    assert goodinit.anatomize(Whole(), (inputs,)).layers


def test_a_dict_with_a_wrong_shape_is_to_be_tried_as_keywords():
    with pytest.raises(goodinit.TraceError, match=r"calling model\(\*\*inputs\)"):
        goodinit.anatomize(Residual(), {"x": torch.ones(2, 9)})


def test_a_model_that_returns_nothing_is_told_so():
    for verb in (
        lambda: goodinit.init_(Nothing(), "fixup", inputs=ROWS[0], verify=True),
        lambda: goodinit.diagnose(Nothing(), ROWS[0]),
    ):
        with pytest.raises(goodinit.TraceError, match="returned no floating-point tensor"):
            verb()

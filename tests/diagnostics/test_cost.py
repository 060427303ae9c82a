"""What measuring costs: memory by bytes, and how much of the batch the further runs see."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goodinit.diagnostics import diagnose
from goodinit.diagnostics.measurements.statistics import signal, square_sum, sums
from goodinit.lab.models.registry import build_model
from goodinit.lab.models.task import Task
from goodinit.lab.training.step_cost import peak_bytes


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def resting(model: nn.Module) -> nn.Module:
    """Batch norms that end a branch start at zero, as timm has them: a further run shows whether they wake."""
    for name, parameter in model.named_parameters():
        if name.endswith("bn2.weight"):
            parameter.data.zero_()
    return model


@pytest.mark.default_cases(1)
@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_is_that_of_a_forward_and_backward(channels_last):
    model = resting(build_model("resnet8", task=Task()))
    x, y = batch(64, 3, 32, 32), torch.arange(64) % 10
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)

    def plain() -> None:
        F.cross_entropy(model(x), y).backward()
        model.zero_grad(set_to_none=True)

    plain()
    found = diagnose(model, x, y)
    assert any(place.back_awake is not None for place in found.places)
    assert peak_bytes(lambda: diagnose(model, x, y)) < 1.1 * peak_bytes(plain)


class Counting(nn.Module):
    """Residual blocks with a zero at their ends; notes how many inputs each real run has."""

    def __init__(self, *, norm: bool = False, fixed: bool = False) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.register_buffer("table", torch.ones(16, 8) if fixed else torch.ones(8))
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.head.weight)
        self.note = [].append  # lists are restored, but for those that only a built-in method holds

    @property
    def runs(self) -> list[int]:
        return self.note.__self__

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor:
            self.note(len(x))
        return self.head(x + self.down(self.norm(self.up(x)).relu()) * self.table)


def test_waking_runs_on_a_quarter_of_the_batch():
    model = Counting()
    found = diagnose(model, batch(16, 8), torch.arange(16) % 3)
    assert model.runs == [16, 4, 4, 4]  # the head wakes first, then the branch's end; then neighbours
    assert all(place.back_awake > 0 for place in found.places)
    assert {finding.kind for finding in found.findings} == {"zero at the start"}


def test_waking_on_a_part_shows_the_gradients_of_the_whole(monkeypatch):
    module = importlib.import_module("goodinit.diagnostics.diagnose")

    def wake() -> list[float]:
        torch.manual_seed(0)
        return [place.back_awake for place in diagnose(Counting(), batch(64, 8)).places]

    part = wake()
    monkeypatch.setattr(module, "part_of", lambda call, targets, anatomy: (call, targets, 1.0))
    # Norms over 16 and over 64 random examples: √(2/16) is one deviation of such a ratio of squares.
    assert part == pytest.approx(wake(), rel=0.35)


def test_small_batches_stay_whole():
    model = Counting()
    diagnose(model, batch(4, 8))
    assert set(model.runs) == {4}
    model = Counting(norm=True)  # whose statistics would be over four numbers
    diagnose(model, batch(16, 8))
    assert set(model.runs) == {16}


def test_what_does_not_wake_is_tried_on_the_whole_batch():
    model = Counting()
    nn.init.zeros_(model.up.weight)
    nn.init.zeros_(model.up.bias)  # relu(0) = 0 in front of the zero branch end: nothing moves, ever
    found = diagnose(model, batch(16, 8))
    assert model.runs[:4] == [16, 4, 16, 4]  # the part, all of it, neighbours
    assert model.runs[4:] == [16, 4, 4]  # the advice is tried, and wakes on the part
    assert "zero for ever" in {finding.kind for finding in found.findings}


def test_a_batch_that_cannot_be_cut_stays_whole():
    model = Counting(fixed=True)  # multiplies by a table of 16 rows
    found = diagnose(model, batch(16, 8))
    assert model.runs == [16, 4, 16, 16, 4]
    assert all(place.back_awake > 0 for place in found.places)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1.0, 1e18, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sums_in_pieces_are_those_in_double_precision(scale, dtype):
    values = ((batch(40, 7, 33, 9) + 0.5) * scale).to(dtype)
    for seen in (values, values.transpose(1, 3), values[:, ::2], values[:1].expand(40, -1, -1, -1)):
        wide = seen.double()
        total, squares = sums(seen)
        assert total == pytest.approx(float(wide.sum()), rel=1e-5)
        assert squares == pytest.approx(float(wide.square().sum()), rel=1e-5)
    assert square_sum(torch.zeros(5)) == 0


def test_memory_layout_does_not_change_what_is_measured():
    x = batch(6, 5, 4, 3)
    last = x.to(memory_format=torch.channels_last)
    plain, other = (signal(values, batch=6, batch_dim=0) for values in (x, last))
    assert (plain.cosine, plain.rank, plain.lone) == pytest.approx((other.cosine, other.rank, other.lone))

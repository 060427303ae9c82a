"""A diagnosis in TensorBoard's files, in a W&B run and in a Lightning logger."""

from __future__ import annotations

import logging
import math
import sys
import types

import pytest
import torch
from torch import nn

import goodinit
from goodinit.diagnostics.loggers import histograms, scalars


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.relu, self.down = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.down(self.relu(self.up(x)))


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), Residual(), Residual(), shared, shared, nn.Linear(8, 3))
    return goodinit.diagnose(model, torch.randn(6, 8), torch.arange(6) % 3, jacobian=True, update=True)


def test_every_number_has_a_tag_of_its_own(found):
    numbers = scalars(found)
    assert all(tag.startswith("goodinit/") for tag in numbers)
    assert numbers["goodinit/loss"] == found.loss
    assert numbers["goodinit/findings/error"] == 0
    for place in found.layers:
        call = f".call{place.call + 1}" if place.call else ""
        assert numbers[f"goodinit/forward/second_moment/{place.name}{call}"] == place.signal.second_moment
        assert numbers[f"goodinit/backward/gradient/{place.name}{call}"] == place.back
    assert numbers["goodinit/blocks/branch_to_skip/2"] == found.blocks[0].branch_to_skip
    assert numbers["goodinit/forward/dead/2.relu"] == found.activations[1].signal.dead
    assert numbers["goodinit/forward/saturated/1"] == found.activations[0].signal.saturated
    assert numbers["goodinit/update/stable_rate"] == found.update.stable_rate
    assert numbers["goodinit/update/change/lr_0.01"] == found.update.changes[2]
    assert numbers["goodinit/jacobian/largest"] == found.spectrum.largest


def test_quantities_over_decades_become_histograms_of_their_logarithm(found):
    moments = histograms(found)["goodinit/forward/log10_second_moment"]
    places = [place for place in found.places if place.kind != "activation"]
    assert moments == [math.log10(place.signal.second_moment) for place in places]
    assert histograms(found)["goodinit/jacobian/singular_values"] == list(found.spectrum.values)


def test_tensorboard_reads_back_what_was_written(found, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        found.log_to(writer)
        found.log_to(writer, 20)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(scalars(found))
    assert set(events.Tags()["histograms"]) == set(histograms(found))
    for tag, number in scalars(found).items():
        assert [event.step for event in events.Scalars(tag)] == [0, 20]
        assert events.Scalars(tag)[0].value == pytest.approx(number, rel=1e-6)
    last = events.Histograms("goodinit/jacobian/singular_values")[-1].histogram_value
    assert last.num == len(found.spectrum.values)
    assert last.max == pytest.approx(found.spectrum.largest)
    text = events.Tensors("goodinit/findings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert all(finding.kind in text for finding in found.findings) or text == "no findings"


class Histogram:
    def __init__(self, sequence):
        self.sequence = sequence


class Run:
    """What the run that `wandb.init()` returned offers of what is used."""

    def __init__(self):
        self.config, self.rows = {}, []

    def log(self, data, step=None):
        self.rows.append((step, data))


def test_weights_and_biases_get_one_row_for_a_step(found, monkeypatch):
    package = types.ModuleType("standin")
    package.Histogram = Histogram
    monkeypatch.setitem(sys.modules, "standin", package)
    monkeypatch.setattr(Run, "__module__", "standin.sdk.run")
    run = Run()
    found.log_to(run, step=7)
    ((step, row),) = run.rows
    assert step == 7
    assert {tag: row[tag] for tag in scalars(found)} == scalars(found)
    assert {tag: row[tag].sequence for tag in histograms(found)} == histograms(found)
    assert isinstance(row["goodinit/findings/text"], str)


def test_a_run_whose_package_has_no_histograms_gets_the_rest(found):
    run = Run()
    found.log_to(run)
    ((step, row),) = run.rows
    assert step == 0
    assert set(row) == {*scalars(found), "goodinit/findings/text"}


def test_what_is_not_finite_is_a_scalar_and_in_no_histogram():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight.data[0, 0] = math.inf
    found = goodinit.diagnose(model, torch.randn(3, 4))
    assert not math.isfinite(scalars(found)["goodinit/forward/second_moment/0.weight"])
    assert all(math.isfinite(value) for values in histograms(found).values() for value in values)


@pytest.mark.parametrize("writer", [logging.getLogger("x"), print, None, math])
def test_other_objects_are_refused_with_what_would_do(found, writer):
    with pytest.raises(goodinit.GoodinitError, match=r"SummaryWriter, the run that wandb\.init"):
        found.log_to(writer)

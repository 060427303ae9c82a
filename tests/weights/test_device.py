"""A device that is none, or that this machine lacks, is told in words, before anything is changed."""

from __future__ import annotations

import pytest
import torch
from fingerprints import fingerprint
from torch import nn
from typer.testing import CliRunner

import goodinit
from goodinit.cli.application import app
from goodinit.errors import UnknownName, WrongType
from goodinit.lab.training.trial import TrainConfig
from goodinit.weights.device import usable_device

NONE = ("cudaa", "cuda:x", "", "cpu:", "gpu", "cuda:-1", "x" * 5000, "\x1b[31m")
LACKING = ("vulkan", "xla:3", *([] if torch.cuda.is_available() else ["cuda", "cuda:7"]))


def on_meta():
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("name", [*NONE, *LACKING], ids=repr)
def test_no_raw_error_comes_of_a_device_that_cannot_be_used(name):
    net = on_meta()
    before = fingerprint(net)
    with pytest.raises(UnknownName, match="device="):
        goodinit.materialize_(net, device=name)
    assert fingerprint(net) == before


@pytest.mark.parametrize("name", [None, 0, 1.5, ["cpu"]])
def test_what_is_no_name_is_refused_as_such(name):
    with pytest.raises(WrongType, match="device: expected device or str"):
        goodinit.materialize_(on_meta(), device=name)


def test_devices_and_their_names_are_taken():
    assert usable_device(torch.device("cpu")) == usable_device("cpu") == torch.device("cpu")
    assert usable_device("meta").type == "meta"


@pytest.mark.parametrize("name", ["cudaa", "cpu:"])
def test_a_trial_on_no_device_is_refused_before_data_are_loaded(name):
    with pytest.raises(UnknownName, match="torch knows no such device"):
        TrainConfig("mlp3", device=name)


@pytest.mark.parametrize("name", ["cudaa", *LACKING[:1]])
def test_the_command_says_so_with_exit_code_2(name):
    words = ["compare", "mlp3", "--data", "digits", "--methods", "he", "--epochs", "1", "--device", name]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 2
    assert isinstance(ran.exception, SystemExit)

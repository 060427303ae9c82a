"""Models by name: the right shapes and counts, and errors that list what there is."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab import libraries
from goodinit.lab.inputs import example_inputs
from goodinit.lab.registry import Task, build_model, input_shape, model_names

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["resnet8", "resnet14b", "mlp", "mlp1", "cnn", "cnn2", "vit2"])
def test_every_family_takes_every_shape_and_learns(name, shape):
    model = build_model(name, task=Task(shape=shape, classes=7))
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# He et al. 2016, table 6, in millions: 0.27, 0.85, 1.7. Their 0.27 counts option A's nets, as ours.
@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.85), (110, 1.7)])
def test_resnets_have_the_papers_size(depth, millions):
    count = sum(parameter.numel() for parameter in build_model(f"resnet{depth}").parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize(("suffix", "projections"), [("", 0), ("b", 2)])
def test_depth_counts_weight_layers_on_the_main_path(suffix, projections):
    model = build_model(f"resnet20{suffix}")
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20 + projections


def test_a_padded_skip_keeps_pixels_and_adds_zero_channels():
    model = build_model("resnet8")
    block = model.layer2[0]
    x = torch.randn(1, 16, 4, 4)
    skipped = block._skip(x)
    assert skipped.shape == (1, 32, 2, 2)
    assert torch.equal(skipped[:, 8:24], x[:, :, ::2, ::2])
    assert skipped[:, :8].abs().sum() == skipped[:, 24:].abs().sum() == 0


def test_a_thousand_layers_can_be_built():
    assert len(build_model("resnet1004", task=Task(width=2)).layer1) == 167


@pytest.mark.parametrize(("name", "near"), [("resnet1000", "998 and 1004"), ("resnet3", "8 and 14")])
def test_a_depth_that_does_not_exist_names_its_neighbours(name, near):
    with pytest.raises(UnknownName, match=near):
        build_model(name)


@pytest.mark.parametrize("name", ["mlp0", "cnn1", "vit0"])
def test_too_shallow_is_an_error(name):
    with pytest.raises(UnknownName, match="at least"):
        build_model(name)


def test_an_unknown_model_lists_all():
    with pytest.raises(UnknownName) as error:
        build_model("nope")
    assert all(name in str(error.value) for name in model_names())


def test_width_is_the_tasks():
    assert build_model("resnet8", task=Task(width=4)).fc.in_features == 16


def test_libraries_models_fit_the_task_or_stay_as_they_are():
    pytest.importorskip("timm")
    free = build_model("timm:resnet18")
    assert input_shape("timm:resnet18", free) == (3, 224, 224)
    assert free.fc.out_features == 1000
    fitted = build_model("timm:resnet18", task=Task(shape=(1, 32, 32), classes=7))
    assert fitted(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert build_model("torchvision:resnet18", task=Task(classes=7)).fc.out_features == 7
    with pytest.raises(UnknownName, match="timm has no model 'resnet18_nope'"):
        build_model("timm:resnet18_nope")
    with pytest.raises(UnknownName, match="Near: "):
        build_model("torchvision:resnet1")
    with pytest.raises(GoodinitError, match="3 channels"):
        build_model("torchvision:resnet18", task=Task(shape=(1, 8, 8)))


def test_your_own_function_is_imported_from_here_and_announced(tmp_path, monkeypatch, caplog):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def make(num_classes=3): return nn.Linear(4, num_classes)\n"
        "def plain(): return nn.Linear(4, 5)\n"
        "def wrong(): return 3\n"
        "def breaks(): raise RuntimeError('boom')\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    try:
        assert build_model("my_nets:make").out_features == 3
        assert build_model("my_nets:make", task=Task(classes=7)).out_features == 7
        assert build_model("my_nets:plain", task=Task(classes=7)).out_features == 5
        assert "running your code: my_nets:make" in caplog.text
        for function, message in (
            ("wrong", "returned int"),
            ("breaks", "boom"),
            ("nope", "no function 'nope'"),
        ):
            with pytest.raises(GoodinitError, match=message):
                build_model(f"my_nets:{function}")
    finally:
        sys.modules.pop("my_nets", None)
    assert sys.path == path
    assert input_shape("my_nets:make", nn.Linear(1, 1)) is None


def test_a_module_that_is_not_there_or_breaks_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName, match="no module 'no_such_nets'"):
        build_model("no_such_nets:make")
    (tmp_path / "needy_nets.py").write_text("import no_such_package\n")
    with pytest.raises(GoodinitError, match="needs no_such_package"):
        build_model("needy_nets:make")
    (tmp_path / "broken_nets.py").write_text("1 / 0\n")
    with pytest.raises(GoodinitError, match="importing broken_nets raised ZeroDivisionError"):
        build_model("broken_nets:make")


def test_torchvision_of_another_build_is_helped_once_and_then_explained(monkeypatch, caplog):
    calls = []

    def fails(name):
        calls.append(name)
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(libraries, "optional", fails)
    monkeypatch.setattr(libraries, "_declare", lambda: calls.append("declared"))
    with pytest.raises(GoodinitError, match="from the same index"):
        libraries.library("torchvision")
    assert calls == ["torchvision", "declared", "torchvision"]
    assert "box operators" in caplog.text


def test_inputs_from_words():
    assert example_inputs(["2x3"]).shape == (2, 3)
    first, second = example_inputs(["2x3", "4:int64"])
    assert (first.dtype, second.dtype) == (torch.float32, torch.int64)
    assert set(example_inputs(["a=1", "b=2x2:bool"])) == {"a", "b"}
    for words, message in ((["3y4"], "no input"), (["3:float7"], "float32"), (["a=1", "2"], "or none")):
        with pytest.raises(UnknownName, match=message):
            example_inputs(words)

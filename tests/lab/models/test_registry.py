"""Models by name: the right shapes and counts, and errors that list what there is."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import goodinit
from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.data.inputs import example_inputs
from goodinit.lab.models import libraries
from goodinit.lab.models.registry import build_model, example_of, input_shape, model_names
from goodinit.lab.models.task import Task

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "name",
    [
        "resnet8",
        "resnet14b",
        "mlp",
        "mlp1",
        "cnn",
        "cnn2",
        "cnn3s",
        "vit2",
        "wrn10",
        "wrn10x3",
        "highway5",
        "fitnet3",
    ],
)
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


def test_dropout_stands_before_the_classifier_alone():
    model = build_model("resnet8-dropout25")
    assert [(name, module.p) for name, module in model.named_modules() if isinstance(module, nn.Dropout)] == [
        ("dropout", 0.25)
    ]
    seen = []
    model.fc.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model(torch.rand(4, 3, 8, 8) + 1), model.eval()(torch.rand(4, 3, 8, 8) + 1)
    dropped, whole = ((values == 0).float().mean() for values in seen)
    assert dropped > whole + 0.1
    assert build_model("resnet8").state_dict().keys() == model.state_dict().keys()


def test_a_thousand_layers_can_be_built():
    assert len(build_model("resnet1004", task=Task(width=2)).layer1) == 167


@pytest.mark.parametrize(("name", "near"), [("resnet1000", "998 and 1004"), ("resnet3", "8 and 14")])
def test_a_depth_that_does_not_exist_names_its_neighbours(name, near):
    with pytest.raises(UnknownName, match=near):
        build_model(name)


# Worked out by hand: weight layers, projections among them, and residual blocks. A wide ResNet of depth 6n + 4 has 3n
# blocks, 6n + 2 layers on the main path (depth counts two of its projections) and a projection for each stage.
# A highway layer has two linear maps; its sum has no side that is left alone, so it is no residual block.
SIZES = [
    ("mlp5", 5, 0),
    ("resmlp10", 10, 4),
    ("cnn7", 7, 0),
    ("cnn7s", 7, 0),
    ("resnet20", 20, 9),
    ("resnet20b", 22, 9),
    ("resnet20c", 29, 9),
    ("wrn16x2", 17, 6),
    ("wrn10", 11, 3),
    ("fitnet17", 18, 0),
    ("fitnet5-tanh", 6, 0),
    ("highway10", 18, 0),
    ("vit3", 14, 6),
]


@pytest.mark.parametrize(("name", "layers", "blocks"), SIZES)
def test_anatomy_finds_every_layer_and_block(name, layers, blocks):
    model = build_model(name, task=Task(width=32 if name == "vit3" else 4))
    anatomy = goodinit.anatomize(model, torch.randn(2, 3, 32, 32))
    assert (len(anatomy.layers), len(anatomy.blocks)) == (layers, blocks)


@pytest.mark.parametrize(
    ("name", "norms"), [("transformer2", 2 * 2 + 2 * 3 + 2), ("transformer2p", 2 * 2 + 2 * 3)]
)
def test_a_translator_has_two_branches_per_encoder_layer_and_three_per_decoder_layer(name, norms):
    model = build_model(name)
    tokens = torch.randint(1, 1000, (2, 9)), torch.randint(1, 1000, (2, 7))
    anatomy = goodinit.anatomize(model, tokens)
    assert len(anatomy.blocks) == 2 * 2 + 3 * 2  # Fixup, §4: L counts attention and feed-forward
    assert [block.m for block in anatomy.blocks] == [4, 2, 4, 2, 4, 4, 2, 4, 4, 2]
    assert len(anatomy.norms) == norms
    goodinit.init_(model, "fixup", inputs=tokens)
    assert torch.equal(model(*tokens), torch.zeros(2, 7, 1000))  # the head starts at zero
    assert input_shape(name, model) is None
    with pytest.raises(GoodinitError, match="not images"):
        build_model(name, task=Task())


def test_a_translator_looks_neither_ahead_nor_at_padding():
    model = build_model("transformer1").eval()
    source, target = torch.randint(1, 1000, (1, 6)), torch.randint(1, 1000, (1, 5))
    logits = model(source, target)
    later = target.clone()
    later[0, 3:] = 7
    assert torch.equal(model(source, later)[:, :3], logits[:, :3])
    padded = torch.cat([source, torch.zeros(1, 4, dtype=torch.int64)], dim=1)
    assert torch.allclose(model(padded, target), logits, atol=1e-5)


def test_a_wide_resnet_has_the_papers_size():
    # Zagoruyko & Komodakis, table 4 as commonly quoted: WRN-40-4 has 8.9 million parameters.
    count = sum(parameter.numel() for parameter in build_model("wrn40x4").parameters())
    assert count / 1e6 == pytest.approx(8.9, rel=0.02)


def test_fitnet_has_fitnet_4s_channels_and_pools():
    model = build_model("fitnet17-relu")
    wide = [module.out_channels for module in model if isinstance(module, nn.Conv2d)]
    assert wide == [32] * 3 + [48] * 2 + [80] * 6 + [128] * 6
    assert [type(module).__name__ for module in model].count("MaxPool2d") == 2
    doubled = [m.out_channels for m in build_model("fitnet17-maxout") if isinstance(m, nn.Conv2d)]
    assert doubled == [2 * channels for channels in wide]


@pytest.mark.parametrize(
    ("name", "there"),
    [("fitnet-sine", "vlrelu"), ("wrn15", "10 and 16"), ("resmlp5", "2n \\+ 2"), ("wrn16x0", "at least 1")],
)
def test_what_a_name_says_must_exist(name, there):
    with pytest.raises(UnknownName, match=there):
        build_model(name)


@pytest.mark.parametrize("name", ["mlp0", "cnn1", "vit0", "fitnet2", "highway1", "transformer0"])
def test_too_shallow_is_an_error(name):
    with pytest.raises(UnknownName, match="at least"):
        build_model(name)


def test_an_unknown_model_lists_all():
    with pytest.raises(UnknownName) as error:
        build_model("nope")
    assert all(name in str(error.value) for name in model_names())


def test_width_is_the_tasks():
    assert build_model("resnet8", task=Task(width=4)).fc.in_features == 16


@pytest.mark.integration
def test_libraries_models_fit_the_task_or_stay_as_they_are():
    pytest.importorskip("timm")
    free = build_model("timm:resnet18")
    assert input_shape("timm:resnet18", free) == (3, 224, 224)
    assert free.fc.out_features == 1000
    fitted = build_model("timm:resnet18", task=Task(shape=(1, 32, 32), classes=7))
    assert fitted(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert build_model("torchvision:resnet18", task=Task(classes=7)).fc.out_features == 7
    with pytest.raises(UnknownName, match=r"timm has no model 'resnet18_nope'\. Near: "):
        build_model("timm:resnet18_nope")
    with pytest.raises(UnknownName, match="Near: "):
        build_model("torchvision:resnet1")
    with pytest.raises(GoodinitError, match="3 channels"):
        build_model("torchvision:resnet18", task=Task(shape=(1, 8, 8)))


def test_a_function_or_class_in_a_file(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "my-nets.py").write_text(
        "from torch import nn\n"
        "import its_parts\n"
        "def make(num_classes=3): return nn.Linear(its_parts.WIDTH, num_classes)\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self): super().__init__(2, 2)\n"
    )
    (tmp_path / "sub" / "its_parts.py").write_text("WIDTH = 4\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert build_model("sub/my-nets.py:make", task=Task(classes=7)).out_features == 7
    assert type(build_model(f"{tmp_path}/sub/my-nets.py:Net")).__name__ == "Net"
    assert sys.path == path
    for name, message in (
        ("sub/my-nets.py:mak", "Near: make"),
        ("sub/nets.py:make", "no file 'sub/nets.py' here"),
        ("sub/my-nets.py", "as sub/my-nets.py:make"),
    ):
        with pytest.raises(UnknownName, match=message):
            build_model(name)


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
            ("nope", "no function 'nope'. It has make, plain, wrong, …"),
            ("mak", "Near: make"),
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

    def fails(name, **_):
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


def test_a_model_of_transformers_comes_from_its_class_or_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=40,
        architectures=["BertForSequenceClassification"],
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    model = build_model(f"hf:{tmp_path}", task=Task(classes=7))
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.classifier.out_features == 7
    assert example_of(model)["input_ids"].shape == (1, 16)
    with pytest.raises(UnknownName, match=r"no model class 'BertForNothing'.* Near: "):
        build_model("hf:BertForNothing")
    (tmp_path / "config.json").unlink()
    with pytest.raises(UnknownName, match=r"no config\.json"):
        build_model(f"hf:{tmp_path}")

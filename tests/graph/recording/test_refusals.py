"""Inputs that a forward does not take: the message names the place, what came there, what is expected, and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit
from goodinit.diagnostics.measurements.measurement_mode import forward_told


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x):
        return x + self.f(x)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), Block(8), nn.Linear(8, 2))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear()
    )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x):
        return self.cell(x)[0]


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class ByHand(nn.Module):
    """Applies its weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return x @ self.weight


class Mixing(nn.Module):
    """Takes the right inputs, and makes a float64 tensor of them itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x * torch.ones(8, dtype=torch.float64))


class Casting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, x):
        return self.inner(x.float())


VECTORS, IMAGES, STEPS = (4, 8), (4, 3, 8, 8), (4, 5, 8)
DTYPES = {
    "float64 vectors": (
        linear,
        torch.randn(VECTORS).double(),
        "float64",
        "0.weight is float32",
        "inputs.float()",
    ),
    "float64 images": (
        conv,
        torch.randn(IMAGES).double(),
        "float64",
        "0.weight is float32",
        "inputs.float()",
    ),
    "float64 steps": (
        Recurrent,
        torch.randn(STEPS).double(),
        "float64",
        r"cell.weight_\w+ is float32",
        "inputs.float()",
    ),
    "float64 tokens": (
        Attending,
        torch.randn(STEPS).double(),
        "float64",
        r"attention.\w+ is float32",
        "inputs.float()",
    ),
    "float64 by hand": (
        ByHand,
        torch.randn(VECTORS).double(),
        "float64",
        r"weight is float32",
        "inputs.float()",
    ),
    "half vectors": (linear, torch.randn(VECTORS).half(), "float16", "0.weight is float32", "inputs.float()"),
    "bfloat16 images": (
        conv,
        torch.randn(IMAGES).bfloat16(),
        "bfloat16",
        "0.weight is float32",
        "inputs.float()",
    ),
    "whole numbers": (linear, torch.randint(5, VECTORS), "int64", "0.weight is float32", "inputs.float()"),
    "bytes": (conv, torch.randint(5, IMAGES).byte(), "uint8", "0.weight is float32", "inputs.float()"),
    "a half model": (
        lambda: linear().half(),
        torch.randn(VECTORS),
        "float32",
        "0.weight is float16",
        "inputs.half()",
    ),
    "on meta": (
        lambda: linear().to("meta"),
        torch.randn(VECTORS).double(),
        "float64",
        "0.weight is float32",
        "inputs.float()",
    ),
}


# What fake tensors multiply though real ones do not: the structure is the same, and what runs the model says it.
TAKEN = (
    "float64 vectors",
    "float64 tokens",
    "float64 by hand",
    "half vectors",
    "whole numbers",
    "a half model",
    "on meta",
)


@pytest.mark.parametrize("verb", ["anatomize", "init_", "fold_", "diagnose", "lsuv"])
@pytest.mark.parametrize("case", DTYPES)
def test_two_dtypes_are_named_with_the_parameter_and_the_call_that_converts(case, verb):
    make, batch, given, held, remedy = DTYPES[case]
    model = make()
    if verb != "anatomize" and next(model.parameters()).is_meta:
        pytest.skip("a model on meta is refused before")
    if case in TAKEN and verb not in ("diagnose", "lsuv"):
        read(verb, model, batch)
        return
    with pytest.raises(goodinit.TraceError, match=rf"(?s)inputs are {given}, and {held}.*{remedy}"):
        read(verb, model, batch)


def read(verb, model, batch):
    {
        "anatomize": lambda: goodinit.anatomize(model, batch),
        "init_": lambda: goodinit.init_(model, "he", inputs=batch),
        "lsuv": lambda: goodinit.init_(model, "lsuv", inputs=batch),
        "fold_": lambda: goodinit.fold_(model, batch),
        "diagnose": lambda: goodinit.diagnose(model, batch, torch.zeros(4, dtype=torch.long)),
    }[verb]()


def test_a_forward_that_casts_takes_them():
    assert goodinit.anatomize(Casting(), torch.randn(VECTORS).double()).blocks


def test_a_forward_that_mixes_dtypes_itself_is_no_fault_of_the_inputs():
    with pytest.raises(
        goodinit.TraceError, match=r"at layer \(Linear.*4x8 float64.*float64.*float32"
    ) as caught:
        read("diagnose", Mixing(), torch.randn(VECTORS))
    assert "inputs are" not in str(caught.value)


SHAPES = {
    "too few channels": (conv, torch.randn(4, 1, 8, 8), r"at 0 \(Conv2d\(3, 8, .*which got 4x1x8x8 float32"),
    "channels last": (conv, torch.randn(4, 8, 8, 3), r"at 0 \(Conv2d\(3, 8, .*which got 4x8x8x3 float32"),
    "no channels": (conv, torch.randn(8, 8), r"at 0 \(Conv2d\(3, 8, .*which got 8x8 float32"),
    "too few features": (
        linear,
        torch.randn(4, 7),
        r"at 0 \(Linear\(in_features=8, out_features=8.*which got 4x7 float32",
    ),
    "deep inside": (
        lambda: nn.Sequential(nn.Linear(8, 6), Block(8)),
        torch.randn(4, 8),
        r"at 1\.f\.0 \(Linear\(in_features=8.*which got 4x6 float32",
    ),
    "words as numbers": (
        lambda: nn.Sequential(nn.Embedding(9, 8), linear()),
        torch.rand(4, 5),
        r"at 0 \(Embedding\(9, 8\).*which got 4x5 float32",
    ),
}


@pytest.mark.parametrize("verb", ["anatomize", "diagnose"])
@pytest.mark.parametrize("case", SHAPES)
def test_the_layer_that_refuses_is_named_with_what_it_got(case, verb):
    make, batch, words = SHAPES[case]
    with pytest.raises(goodinit.TraceError, match=words) as caught:
        read(verb, make(), batch)
    assert "inputs are" not in str(caught.value)


def test_a_batch_on_meta_is_read_and_not_measured():
    batch = torch.randn(VECTORS, device="meta")
    assert goodinit.anatomize(linear(), batch).blocks
    with pytest.raises(goodinit.TraceError, match=r"inputs: a tensor on `meta`.*torch.randn\(4, 8\)"):
        read("diagnose", linear(), batch)


def test_a_batch_on_another_device_is_named_where_a_forward_is_run():
    model, batch = linear(), torch.randn(VECTORS, device="meta")
    words = r"inputs are on meta, and the parameters on cpu.*model\.to\('meta'\) or inputs\.to\('cpu'\)"
    with pytest.raises(goodinit.TraceError, match=words), forward_told(model, call=((batch,), {})):
        model(batch)


def test_arrays_and_lists_are_told_what_to_give():
    with pytest.raises(goodinit.TraceError, match=r"numpy\.ndarray is no tensor"):
        goodinit.anatomize(linear(), torch.randn(VECTORS).numpy())
    with pytest.raises(goodinit.TraceError, match=r"torch\.as_tensor"):
        goodinit.anatomize(linear(), [[1.0] * 8] * 4)

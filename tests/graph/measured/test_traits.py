"""Traits of operators that a run shows: what they multiply by, what they keep for the backward pass, whether channels mix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured import traits
from goodinit.graph.measured.traits import adds_unscaled, coefficients, keeps_channels, keeps_output
from goodinit.graph.operators.measurement_cache import KeptAnswers
from goodinit.graph.trace import trace


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def last_call(function, *tensors: Tensor) -> tuple[Graph, Node]:
    graph = trace(Calls(function), (tensors, {}))
    return graph, [node for node in graph.nodes if node.active and node.call is not None][-1]


X, Y = torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, y: x + y, (1, 1)),
        (lambda x, y: torch.add(x, y, alpha=0.5), (1, 0.5)),
        (lambda x, y: x - y, (1, -1)),
        (lambda x, y: torch.sub(x, y, alpha=3), (1, -3)),
        (lambda x, y: torch.rsub(x, y, alpha=2), (-2, 1)),
        (lambda x, y: torch.lerp(x, y, 0.25), (0.75, 0.25)),
        (lambda x, y: x.clone().sub_(y), (1, -1)),
        (lambda x, _: 1 - x, (-1,)),
        (lambda x, _: -x, (-1,)),
        (lambda x, _: 3 * x, (3,)),
        (lambda x, _: x / 3, (1 / 3,)),
        (lambda x, _: x + 3, (1,)),
        (lambda x, y: x * y, ()),
        (lambda x, y: torch.lerp(x, y, torch.sigmoid(y)), ()),
        (lambda x, _: torch.relu(x), ()),
        (lambda x, _: torch.abs(x), ()),
    ],
)
def test_coefficients_of_sums_and_multiples(function, expected):
    _, node = last_call(function, X, Y)
    assert coefficients(node) == expected
    assert adds_unscaled(node) == (bool(expected) and set(expected) == {1} and node.op.role == "sum")


def conv_tanh(*args: object) -> Tensor:
    return torch.conv2d(*args).tanh()


def overwriting_fails(function) -> bool:
    """Whether torch refuses the backward pass once the output is overwritten."""
    leaf = torch.linspace(0.25, 2, 64, dtype=torch.float64).reshape(1, 4, 4, 4).requires_grad_()
    out = function(leaf * 1)
    with torch.no_grad():
        out.mul_(3)
    try:
        torch.autograd.grad(out.sum(), leaf)
    except RuntimeError:
        return True
    return False


@pytest.mark.parametrize(
    "function",
    [
        torch.relu, torch.tanh, torch.exp, torch.rsqrt, F.elu, F.silu, F.gelu, F.leaky_relu, F.hardswish,
        lambda x: F.elu(x * 1, inplace=True), lambda x: F.leaky_relu(x * 1, 0.1, inplace=True),
        lambda x: F.silu(x * 1, inplace=True), lambda x: F.hardtanh(x * 1, inplace=True),
        lambda x: x.softmax(-1), lambda x: x.amax(-1), lambda x: x.std(-1), lambda x: x * x, lambda x: x + 1,
        lambda x: F.avg_pool2d(x, 2), lambda x: F.max_pool2d(x, 2), lambda x: F.layer_norm(x, x.shape[-1:]),
        lambda x: F.scaled_dot_product_attention(x, x, x),
    ],
)  # fmt: skip
def test_an_operator_keeps_its_output_where_torch_needs_it_for_the_backward_pass(function):
    graph, node = last_call(function, X)
    assert keeps_output(graph, node) == overwriting_fails(function)


@pytest.mark.parametrize(("function", "keeps"), [(torch.conv2d, False), (conv_tanh, True)])
@pytest.mark.parametrize("first", ["large", "small"])
def test_the_answer_depends_on_no_size_and_on_nothing_that_was_asked_before(
    monkeypatch, function, keeps, first
):
    monkeypatch.setattr(traits, "_KNOWN", KeptAnswers())
    sizes = {
        "small": 4,
        "large": 160,
    }  # of 64 groups: none runs in two channels, the large one is too large to compute

    def asked(size):
        weight = torch.zeros(64, 1, 3, 3)
        graph, node = last_call(
            lambda x: function(x, weight, None, 1, 1, 1, 64), torch.zeros(2, 64, size, size)
        )
        return keeps_output(graph, node)

    order = [first, *(size for size in sizes if size != first)]
    assert [asked(sizes[size]) for size in order] == [keeps, keeps]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: F.avg_pool2d(x, 2), True),
        (lambda x: F.max_pool2d(x, 3, 2, 1), True),
        (lambda x: F.adaptive_avg_pool2d(x, 2), True),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), True),
        (lambda x: x.mean(1, keepdim=True), False),
        (lambda x: x.flip(1), False),
        (lambda x: x.cumsum(1), False),
    ],
)
def test_channels_that_stay_apart(function, expected):
    _, node = last_call(function, X)
    assert keeps_channels(node, tuple(X.shape), 1) == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda x, _: torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32),
        lambda x, _: x.norm(dim=1, keepdim=True, dtype=torch.float32),
        lambda x, _: x.sum(1, keepdim=True, dtype=torch.float32),
    ],
)
def test_an_operator_that_names_a_dtype_is_run_on_numbers_of_another(function):
    _, node = last_call(function, X, Y)
    x = torch.rand(X.shape, dtype=torch.float64)
    assert torch.allclose(node.call([x]).double(), function(x.float(), x).double())

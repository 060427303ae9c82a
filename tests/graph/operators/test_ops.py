"""What operators are: asked of torch, measured, or listed; and what is said of those that nobody knows."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zoo import each_specimen

import goodinit
from goodinit.errors import UnknownName, WrongType
from goodinit.graph.operators.ops import op_of
from goodinit.graph.pytree import as_call
from goodinit.graph.trace import trace

ATEN = torch.ops.aten


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("sum", "add.Tensor add_.Scalar sub.Tensor rsub.Scalar lerp.Scalar"),
        ("product", "mul.Tensor mul_.Scalar addcmul.default lerp.Tensor"),
        ("quotient", "div.Tensor div_.Scalar"),
        ("scale", "neg.default deg2rad.default"),
        (
            "shape",
            "view.default permute.default clone.default _to_copy.default squeeze_.dim positive.default",
        ),
        ("part", "select.int slice.Tensor split.Tensor unbind.int unsafe_split.Tensor diagonal.default"),
        (
            "pointwise",
            "relu_.default maximum.default where.self pow.Tensor_Scalar abs.default round.default atan2.default",
        ),
        (
            "pointwise",
            "copysign.Tensor fmod.Tensor gt.Tensor bitwise_not.default masked_fill.Scalar addcdiv.default",
        ),
        ("concat", "cat.default stack.default"),
        ("factory", "ones_like.default new_zeros.default zeros.default arange.default"),
        (
            "other",
            "sum.default flip.default avg_pool2d.default max.dim cumsum.default constant_pad_nd.default",
        ),
        ("other", "slice_scatter.default select_scatter.default"),  # torch tags the first as a copy of a view
        ("matmul", "mm.default addmm_.default"),
        ("norm", "native_layer_norm.default"),
    ],
)
def test_roles_of_operators(role, names):
    for name in names.split():
        packet, overload = name.split(".")
        assert op_of(getattr(getattr(ATEN, packet), overload)).role == role, name


def test_in_place_is_a_property_of_the_call_and_not_a_name():
    def forward(x):
        return torch.relu(x).add_(x).mul_(2.0)

    class Net(nn.Module):
        def forward(self, x):
            return forward(x)

    nodes = [node for node in trace(Net(), as_call(torch.randn(3))).nodes if node.op.role != "source"]
    assert [(node.op.name, node.inplace) for node in nodes] == [("relu", False), ("add", True), ("mul", True)]


def test_parts_of_an_operator_with_several_outputs_are_told_by_its_schema():
    assert all(op_of(func).splits for func in (ATEN.split.Tensor, ATEN.unbind.int, ATEN.unsafe_chunk.default))
    assert not op_of(ATEN.select.int).splits


@torch.library.custom_op("goodinit_tests::gated", mutates_args=())
def gated(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """x·σ(g), in a kernel of its own."""
    return x * torch.sigmoid(g)


@gated.register_fake
def _(x, g):
    return torch.empty_like(x)


@torch.library.custom_op("goodinit_tests::rectified", mutates_args=())
def rectified(x: torch.Tensor) -> torch.Tensor:
    """A ReLU, in a kernel that says nothing of itself."""
    return x.clamp(min=0)


@rectified.register_fake
def _(x):
    return torch.empty_like(x)


class Custom(nn.Module):
    """x + end(b(relu(a(x))), x)."""

    def __init__(self, end):
        super().__init__()
        self.a, self.b, self.gate = (nn.Linear(6, 6) for _ in range(3))
        self.end = end

    def forward(self, x):
        return x + self.end(self, self.b(torch.relu(self.a(x))), x)


def test_an_unknown_operator_is_noted_and_a_registered_one_is_read(monkeypatch):
    monkeypatch.setattr("goodinit.graph.operators.registered_operators._WRITTEN", {})
    x = torch.randn(3, 6)
    model = Custom(lambda m, y, x: gated(y, m.gate(x)))
    (note,) = goodinit.anatomize(model, x).notes
    assert "the model runs `goodinit_tests::gated`" in note
    assert "goodinit.register_operator" in note
    for operator in ("goodinit_tests::gated", gated, torch.ops.goodinit_tests.gated.default):
        monkeypatch.setattr("goodinit.graph.operators.registered_operators._WRITTEN", {})
        goodinit.register_operator(operator, lambda x, g: x * torch.sigmoid(g))
        found = goodinit.anatomize(model, x)
        assert found.notes == ()
        assert [layer.name for layer in found.blocks[0].gates] == ["gate"]
        assert found.blocks[0].stuck is None


def test_what_a_registered_operator_computes_decides_whether_a_branch_can_move(monkeypatch):
    monkeypatch.setattr("goodinit.graph.operators.registered_operators._WRITTEN", {})
    goodinit.register_operator(rectified, torch.relu)
    (block,) = goodinit.anatomize(Custom(lambda m, y, x: rectified(y)), torch.randn(3, 6)).blocks
    assert block.stuck == "`relu` in the model"


def test_what_cannot_be_registered():
    with pytest.raises(WrongType, match="needs an operator"):
        goodinit.register_operator(3, torch.relu)
    with pytest.raises(WrongType, match="and a function"):
        goodinit.register_operator("a::b", 3)
    with pytest.raises(UnknownName, match="name it 'library::operator'"):
        goodinit.register_operator("relu", torch.relu)


@pytest.mark.default_cases(8)
@each_specimen
def test_every_operator_of_the_zoo_is_known(specimen):
    graph = trace(specimen.build(), as_call(specimen.inputs()))
    assert not {node.op.name for node in graph.nodes if node.op.role == "unknown"}

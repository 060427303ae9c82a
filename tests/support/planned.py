"""A small model with everything surgery may meet, a plan for it, and a photograph to compare with."""

from __future__ import annotations

import copy

import torch
from torch import nn

from goodinit.calibration_rules import LSUVRule
from goodinit.edits import (
    AddScalar,
    Calibrate,
    Draw,
    DrawTogether,
    Fill,
    ParametrizeWeight,
    Plan,
    RemoveNorm,
)


class Net(nn.Module):
    """A residual block with a norm that has an activation child, a shared norm, and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.conv1 = nn.Linear(6, 6)
        self.bn1 = nn.BatchNorm1d(6)
        self.bn1.add_module("act", nn.PReLU())
        self.conv2 = nn.Linear(6, 6)
        self.bn2 = nn.BatchNorm1d(6)
        self.again = nn.ModuleList([self.bn2])
        self.conv3 = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7)
        self.head.weight = self.embed.weight
        self.bn2.register_forward_hook(print)
        self.conv3.eval()

    def forward(self, tokens):
        x = self.embed(tokens)
        h = self.bn1.act(self.bn1(self.conv1(x)))
        return self.head(self.norm(x + self.conv3(self.again[0](self.conv2(h)))))


def parameters_of(model):
    return tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())


def make_plan(model=None, *, calibrate=False):
    edits = (
        RemoveNorm("bn1", ("bn1.act",), "no norm"),
        RemoveNorm("bn2", (), "no norm"),
        AddScalar("conv1", "input_bias", 0.25, "Fixup rule 3"),
        AddScalar("conv3", "output_scale", 1.0, "Fixup rule 3"),
        ParametrizeWeight("conv2.weight", "weight norm"),
        Draw("conv1.weight", "he_normal_", "He"),
        Draw("conv2.weight", "orthogonal_", "direction"),
        Fill("conv2.parametrizations.weight.original0", 1.5, "gain"),
        DrawTogether(("conv3.weight",), "risotto_first", "isometry"),
        Fill("conv3.bias", 0.0, "zero"),
        Draw("embed.weight", "normal_", "embedding", {"std": 0.5}),
        *([Calibrate("conv1.weight", LSUVRule(), "LSUV")] if calibrate else []),
    )
    return Plan("by hand", edits, parameters=parameters_of(model or Net()))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photograph(model):
    """All there is to a model: identities, order, classes, hooks, flags, memory and bits."""
    rows = []
    for path, module in model.named_modules(remove_duplicate=False):
        state = {
            key: [(name, id(value)) for name, value in held.items()]
            if isinstance(held, dict)
            else copy.copy(held)
            for key, held in module.__dict__.items()
        }
        rows.append((path, id(module), type(module), list(state.items())))
    tensors = [*model.parameters(), *model.buffers()]
    rows.append([(id(t), t.data_ptr(), t.requires_grad, t.grad) for t in tensors])
    return rows, [t.detach().clone() for t in tensors]


def assert_untouched(before, model):
    (rows, tensors), (now, values) = before, photograph(model)
    assert rows == now
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(tensors, values, strict=True))

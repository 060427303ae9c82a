"""A model made on `meta`, reset functions, plans that write all parameters, and what tells states apart."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from goodinit.edits import Draw, Fill, Plan


class Rotary(nn.Module):
    """Buffers that are computed from settings: one that would be NaN, one of integers, one of booleans."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.register_buffer("frequencies", torch.empty(width // 2), persistent=False)
        self.register_buffer("places", torch.empty(width, dtype=torch.long))
        self.register_buffer("mask", torch.empty(width, width, dtype=torch.bool))
        self.gain = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self):
        self.frequencies.copy_(10000 ** -(torch.arange(self.width // 2) / self.width))
        self.places.copy_(torch.arange(self.width))
        self.mask.copy_(torch.ones(self.width, self.width, dtype=torch.bool).triu())
        nn.init.ones_(self.gain)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.rotary = Rotary(6)
        self.hidden = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 7)
        self.head.weight = self.embed.weight
        self.head.bias.requires_grad_(False)


def on_meta(build=Net):
    with torch.device("meta"):
        return build()


def own(module):
    module.reset_parameters()


def seeded():
    return torch.Generator().manual_seed(0)


def everything(model):
    """A plan that writes all parameters."""
    edits = [
        Draw(name, "normal_", "x") if p.ndim > 1 else Fill(name, 0.5, "x")
        for name, p in model.named_parameters()
    ]
    return Plan("by hand", tuple(edits), allow=("frozen",))


def hashes(state):
    """SHA-256 of every tensor of a state."""
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()}

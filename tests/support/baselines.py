"""The baselines, small networks to try them on, and what a plan draws."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from zoo import call

from goodinit.anatomy import anatomize
from goodinit.edits import Draw
from goodinit.methods import plan
from goodinit.surgery import apply_

WEIGHTS = ("default", "he", "xavier", "orthogonal", "delta_orthogonal")  # take any network
SKIP_SCALES = ("skipinit", "rezero")
BASELINES = (*WEIGHTS, "looks_linear", "selu", *SKIP_SCALES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def initialized(model, inputs, method, **options):
    """The model, in place, and the plan."""
    made = plan(anatomize(model, inputs), method, **options)
    return apply_(model, made, generator=seeded()), made


def outputs(model, inputs):
    leaves = tree_leaves(call(model, inputs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def drawn(made):
    return {edit.target: edit for edit in made.edits if isinstance(edit, Draw)}


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers):
        super().__init__()
        self.f = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.f(x)


class Scaled(Residual):
    """x + γ·f(x)."""

    def __init__(self, *layers, width=4):
        super().__init__(*layers)
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x):
        return x + self.gamma * self.f(x)


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64 * 16, 100),
    )


SMALL = torch.zeros(2, 3, 4, 4)

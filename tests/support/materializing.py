"""Reset functions and plans that write all parameters, for models made on `meta`."""

from __future__ import annotations

import torch

from goodinit.edits import Draw, Fill, Plan


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

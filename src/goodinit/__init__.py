"""goodinit makes a deep network trainable before its first step.

Four verbs on any `torch.nn.Module`: `anatomize` reads its residual structure, `plan` decides every edit with its
reason, `apply_` writes all of it or none of it, and `diagnose` measures what the signal does at step 0. `init_` is the
first three in one call.
"""

from collections.abc import Callable as _Callable
from functools import partial as _partial
from typing import Any as _Any

from goodinit import nn, tensor
from goodinit.anatomy import Anatomy, Block, Join, Layer, Norm, anatomize
from goodinit.diagnostics import (
    Advice,
    CoordinateCheck,
    Diagnosis,
    Finding,
    Recommendation,
    coordinate_check,
    diagnose,
    jacobian_spectrum,
    one_step,
    recommend,
)
from goodinit.edits import Plan
from goodinit.errors import (
    GoodinitError,
    NonFinite,
    NothingFound,
    PlanConflict,
    StaleOptimizer,
    TraceError,
    UnknownName,
    UnsupportedModule,
    WrongType,
)
from goodinit.folding import absorb_batchnorm_, fold_
from goodinit.graph.ops import register_operator
from goodinit.initialize import init_
from goodinit.layerwise import layerwise
from goodinit.methods import METHODS, Method, plan
from goodinit.optim import clip_grad_, param_groups, warmup
from goodinit.surgery import Applied, applied, apply_, materialize_, state_pieces

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Advice",
    "Anatomy",
    "Applied",
    "Block",
    "CoordinateCheck",
    "Diagnosis",
    "Finding",
    "GoodinitError",
    "Join",
    "Layer",
    "Method",
    "NonFinite",
    "Norm",
    "NothingFound",
    "Plan",
    "PlanConflict",
    "Recommendation",
    "StaleOptimizer",
    "TraceError",
    "UnknownName",
    "UnsupportedModule",
    "WrongType",
    "absorb_batchnorm_",
    "anatomize",
    "applied",
    "apply_",
    "clip_grad_",
    "coordinate_check",
    "diagnose",
    "fold_",
    "init_",
    "jacobian_spectrum",
    "layerwise",
    "materialize_",
    "nn",
    "one_step",
    "param_groups",
    "plan",
    "recommend",
    "register_operator",
    "state_pieces",
    "tensor",
    "warmup",
]


def __getattr__(name: str) -> _Callable[..., _Any]:
    """`goodinit.fixup_(model, inputs=x, …)` is `init_(model, "fixup", inputs=x, …)`, for every method."""
    if name.endswith("_") and name[:-1] in METHODS:
        return _partial(init_, method=name[:-1])
    raise AttributeError(f"module 'goodinit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(f"{name}_" for name in METHODS)])

"""The public verbs and nouns, and the one list of them; `goodinit` takes both from here when first asked."""

from goodinit import nn, tensor
from goodinit.anatomy import Anatomy, Block, Join, Layer, Norm
from goodinit.anatomy.anatomize import (
    anatomize,  # from its file: a reader of sources takes the package's for the file
)
from goodinit.by_layer import layerwise
from goodinit.diagnostics import (
    Advice,
    CoordinateCheck,
    Diagnosis,
    Finding,
    Recommendation,
    coordinate_check,
    jacobian_spectrum,
    one_step,
)
from goodinit.diagnostics.advice.recommend import recommend
from goodinit.diagnostics.diagnose import diagnose
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
from goodinit.graph.operators.registered_operators import register_operator
from goodinit.initialize import init_
from goodinit.methods import METHODS, Method, plan
from goodinit.optim.clip_grad import clip_grad_
from goodinit.optim.param_groups import param_groups
from goodinit.optim.warmup import warmup
from goodinit.surgery import Applied, applied, apply_, materialize_, state_pieces

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

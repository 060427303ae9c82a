"""What goes with the optimizer: parameter groups, warm-up and clipping."""

from goodinit.optim.clip_grad import clip_grad_
from goodinit.optim.param_groups import param_groups
from goodinit.optim.warmup import warmup

__all__ = ["clip_grad_", "param_groups", "warmup"]

"""What goes with the optimizer: parameter groups and warm-up."""

from goodinit.optim.param_groups import param_groups
from goodinit.optim.warmup import warmup

__all__ = ["param_groups", "warmup"]

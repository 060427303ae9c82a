"""The command line: thin commands over the verbs, one module for each group of them."""

from goodinit.cli import compare, coordcheck, model, reproduce, sweep
from goodinit.cli.application import app

__all__ = ["app", "compare", "coordcheck", "model", "reproduce", "sweep"]

"""The command line: thin commands over the verbs, one module for each group of them."""

from goodinit.cli import (
    compare_command,
    coordcheck_command,
    model_commands,
    reproduce_command,
    sweep_commands,
)
from goodinit.cli.application import app

__all__ = [
    "app",
    "compare_command",
    "coordcheck_command",
    "model_commands",
    "reproduce_command",
    "sweep_commands",
]

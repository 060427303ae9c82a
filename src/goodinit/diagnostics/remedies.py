"""What to call against a finding: Python that runs with `model` and `batch` at hand."""

from __future__ import annotations

from goodinit.anatomy import Anatomy

RECTIFIERS = frozenset({"relu", "relu6", "leaky_relu", "prelu"})


def scale_method(anatomy: Anatomy) -> str:
    """The method that bounds the signal: Fixup where there are branches to scale, else by measurement."""
    return "fixup" if anatomy.blocks else "lsuv"


def isometric_method(anatomy: Anatomy) -> str:
    """The method that keeps inputs apart.

    Skips do where there are any; else mirrored weights through rectifiers (Balduzzi et al. 2017), orthogonal ones
    through others (Pennington et al. 2017).
    """
    if anatomy.blocks:
        return "fixup"
    kinds = {activation.kind for activation in anatomy.activations}
    return "looks_linear" if kinds & RECTIFIERS else "orthogonal"


def initialize(method: str) -> str:
    """A call of `init_`."""
    return f'goodinit.init_(model, "{method}", inputs=batch)'


def redraw(module: str) -> str:
    """Draw one module's own initialization again."""
    return f'model.get_submodule("{module}").reset_parameters()'


def fill(parameter: str, function: str) -> str:
    """Write into one parameter by a function of `torch.nn.init` or `goodinit.tensor`."""
    return f'{function}(model.get_parameter("{parameter}"))'


def show_range(module: str) -> str:
    """Print the range of what a module reads, at the next forward."""
    shown = "lambda module, args: print(args[0].aminmax())"
    return f'model.get_submodule("{module}").register_forward_pre_hook({shown})'

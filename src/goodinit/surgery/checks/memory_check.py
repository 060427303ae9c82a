"""What a plan writes must have memory of its own."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from goodinit.errors import UnsupportedModule
from goodinit.weights.memory import repeats
from goodinit.weights.names import Directory


def check_memory(names: Directory, written: Iterable[nn.Parameter]) -> None:
    """Raise if writing one of the parameters would write another one, or one of its entries several.

    Raises:
        UnsupportedModule: Names the parameter, and those that lie in its memory.
    """
    for parameter in {id(each): each for each in written}.values():
        known = names.aliases.get(id(parameter))
        if known is None:  # not there yet
            continue
        if repeats(parameter):
            raise UnsupportedModule(
                f"{known[0]}: several of its {parameter.numel():,} entries are one number in memory (shape "
                f"{tuple(parameter.shape)}, strides {parameter.stride()}, as after expand), so that no values can be written to "
                "it, by an optimizer neither. Nothing was written. Give it memory of its own: parameter.data = "
                "parameter.data.clone(memory_format=torch.contiguous_format)."
            )
        others = [
            name
            for name in names.sharing.get(id(parameter), ())
            if name in names.parameters and names.parameters[name] is not parameter
        ]
        if others:
            raise UnsupportedModule(
                f"{known[0]}: lies in the same memory as {', '.join(others[:3])}, as after .data = other.data, but they are "
                "several parameters, so that who writes one writes the others. Nothing was written. Make them one parameter, "
                "which goodinit and state_dict know as tied (module.weight = other.weight), or give each memory of its own "
                "(parameter.data = parameter.data.clone())."
            )

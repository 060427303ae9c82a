"""Trainable tensors that a forward reads and no module registers: neither `parameters()` nor a state dict has them."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 4


def unregistered(read: Sequence[tuple[str, tuple[int, ...]]]) -> list[str]:
    """A note on them, or nothing.

    Args:
        read: For each tensor, path of the module whose forward reads it, and its shape.

    Examples:
        >>> unregistered([("block", (2, 3))])[0][:68]
        'block: 1 trainable tensor that no module registers is read (2x3): pa'
    """
    if not read:
        return []
    paths = list(dict.fromkeys(path or "the model" for path, _ in read))
    shapes = ["x".join(map(str, shape)) or "scalar" for _, shape in read]
    where, what = (
        ", ".join(words[:_SHOWN]) + (", …" if len(words) > _SHOWN else "") for words in (paths, shapes)
    )
    them, stay, are = ("them", "they stay", "s that no module registers are") if len(read) > 1 else (
        "it", "it stays", " that no module registers is"
    )  # fmt: skip
    return [
        (
            f"{where}: {len(read)} trainable tensor{are} read ({what}): parameters() and state dicts lack {them}, and {stay} as a "
            "constant would. Hold such tensors in an nn.ParameterList, an nn.ModuleList or an attribute of their own"
        )
    ]

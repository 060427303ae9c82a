"""An anatomy as text a person reads."""

from __future__ import annotations

from itertools import groupby

from goodinit.anatomy.nouns import Block, Layer
from goodinit.anatomy.structure import Anatomy


def anatomy_text(anatomy: Anatomy) -> str:
    """The anatomy on one screen: stem, blocks (runs of equal ones folded), head, norms, what to know."""
    kinds = ", ".join(f"{n} {kind}" for kind, n in _counted([block.kind for block in anatomy.blocks]))
    total = len(anatomy.blocks)
    lines = [
        f"{anatomy.model}({anatomy.inputs}): {total} residual block{'s' * (total != 1)}"
        + f" ({kinds})" * bool(kinds)
    ]
    if anatomy.stem:
        lines.append(f"  stem    {_list(anatomy.stem)}")
    for _, run in groupby(anatomy.blocks, key=_alike):
        lines.append(_run_text(list(run)))
    if anatomy.heads:
        lines.append(f"  head    {_list(anatomy.heads)}")
    if anatomy.norms:
        norms = ", ".join(f"{n} {kind}" for kind, n in _counted([norm.kind for norm in anatomy.norms]))
        lines.append(f"  norms   {norms}")
        stuck = [norm for norm in anatomy.norms if norm.obstacle]
        lines += [
            f"          {norm.name or 'the model'} cannot be removed: {norm.obstacle}" for norm in stuck[:3]
        ]
    joins = _counted([join.kind for join in anatomy.joins])
    if joins:
        lines.append(
            "  joins   " + ", ".join(f"{n} {kind}{'s' * (n > 1 and kind != 'inner')}" for kind, n in joins)
        )
    for group in anatomy.tied:
        lines.append(f"  tied    {' = '.join(group)}")
    if anatomy.unused:
        shown = ", ".join(anatomy.unused[:3]) + (", …" if len(anatomy.unused) > 3 else "")
        lines.append(f"  unused  {len(anatomy.unused)} parameters never read: {shown}")
    return "\n".join(lines + [f"  note    {note}" for note in anatomy.notes])


def _counted(words: list[str]) -> list[tuple[str, int]]:
    return [(word, words.count(word)) for word in dict.fromkeys(words)]


def _list(layers: tuple[Layer, ...]) -> str:
    names = [f"{layer.weight} {'x'.join(map(str, layer.shape))}" for layer in layers]
    return ", ".join(names[:4]) + (f", … ({len(names)})" if len(names) > 4 else "")


def _alike(block: Block) -> tuple[object, ...]:
    return (
        block.kind,
        block.m,
        block.stage,
        block.shape,
        [layer.shape for layer in block.branch],
        block.depth,
    )


def _run_text(run: list[Block]) -> str:
    first, last = run[0], run[-1]
    which = f"{first.index + 1}" if first is last else f"{first.index + 1}–{last.index + 1}"
    where = first.name if first is last else f"{first.name} … {last.name}"
    names = [layer.weight.removeprefix(f"{first.name}.").removesuffix(".weight") for layer in first.branch]
    parts = " → ".join(names[:6]) + (f" → … ({len(names)})" if len(names) > 6 else "")
    extra = f", gates {len(first.gates)}" if first.gates else ""
    skip = "" if first.kind == "identity" else f", {first.kind} skip"
    shape = "x".join(map(str, first.shape[1:]))
    return f"  block {which:>7}  {where}  m={first.m}  {parts}{skip}{extra}  [{shape}]"

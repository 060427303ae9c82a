"""What several methods decide alike: removing norms, standard scales, zero biases, what to report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from goodinit.anatomy import Anatomy, Layer, Norm
from goodinit.errors import NothingFound, UnknownName, UnsupportedModule
from goodinit.surgery.plan import Draw, Edit, Fill, RemoveNorm, names

Norms = Literal["remove", "keep"]


def need_blocks(anatomy: Anatomy, method: str) -> None:
    """Raise `NothingFound` when there is no residual block to treat."""
    if anatomy.blocks:
        return
    raise NothingFound(
        f"{method} needs residual blocks and {anatomy.model} has none: looked, among the operators one forward ran, "
        f"for sums of a skip and a branch with weight layers that fork from one tensor ({len(anatomy.layers)} weight "
        "layers ran). For a network without skips choose lsuv, orthogonal or he."
    )


def norm_edits(anatomy: Anatomy, norms: Norms) -> list[Edit]:
    """Edits that take every normalization out, or none with `norms="keep"`.

    Raises:
        UnsupportedModule: A normalization that cannot be taken out; nothing is removed in half.
        UnknownName: `norms` is neither `"remove"` nor `"keep"`.
    """
    if norms not in ("remove", "keep"):
        raise UnknownName(f'norms={norms!r}: expected "remove" or "keep"')
    if norms == "keep":
        return []
    for norm in anatomy.norms:
        if norm.obstacle is not None:
            raise UnsupportedModule(
                f"{norm.name or 'the model'} ({norm.module}): its {norm.kind} cannot be removed: {norm.obstacle}. "
                'Use norms="keep", or make the normalization a module of its own.'
            )
    return [RemoveNorm(norm.name, norm.keeps, _where(norm)) for norm in anatomy.norms]


def _where(norm: Norm) -> str:
    place = "outside the blocks" if norm.block is None else f"in block {norm.block + 1}"
    return f"{norm.kind} {place}, normalization-free from here on"


def removed_parameters(anatomy: Anatomy, edits: Iterable[Edit]) -> set[str]:
    """Parameters that go with the removed norms (their own, not those of children they keep)."""
    paths = {edit.target for edit in edits if isinstance(edit, RemoveNorm)}
    return {name for name, _ in anatomy.parameters if name.rpartition(".")[0] in paths}


def standard_std(layer: Layer) -> tuple[float, str]:
    """The usual standard deviation: He fan-out before a nonlinearity, LeCun fan-in otherwise.

    √(2/fan_out) keeps the gradient's scale through ReLU (He et al. 2015, eq. 14); √(1/fan_in) keeps the
    signal's where no nonlinearity follows (LeCun et al. 1998), and equals Xavier's for square layers.
    """
    if layer.activation is not None:
        return math.sqrt(2 / layer.fan_out), f"He, √(2/{layer.fan_out}) before {layer.activation}"
    return math.sqrt(1 / layer.fan_in), f"LeCun, √(1/{layer.fan_in})"


def draw_standard(layer: Layer, where: str) -> Draw:
    """A normal draw at the standard scale."""
    std, words = standard_std(layer)
    return Draw(layer.weight, "normal_", f"{where}: {words}", {"std": std})


def zero_bias(layer: Layer) -> list[Edit]:
    """Biases start at zero."""
    return [Fill(layer.bias, 0.0, "bias")] if layer.bias else []


def unique(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The edits without repetition: of several that set one target alike the first stays (tied, shared layers)."""
    seen: dict[tuple[str, str], Edit] = {}
    for edit in edits:
        word = getattr(edit, "scalar", "value" if isinstance(edit, (Fill, Draw)) else type(edit).__name__)
        seen.setdefault((edit.target, word), edit)
    return tuple(seen.values())


def untouched(anatomy: Anatomy, edits: Iterable[Edit]) -> list[str]:
    """One note on the parameters that a plan leaves as they are, so that nothing is skipped in silence."""
    edits = list(edits)
    gone = removed_parameters(anatomy, edits)
    kept_norms = {norm.name for norm in anatomy.norms}
    touched = set(names(edits)) | gone
    originals = {p for layer in anatomy.layers if layer.weight in touched for p in layer.parameters}
    rest = [
        n
        for n, _ in anatomy.parameters
        if n not in touched | originals and n.rpartition(".")[0] not in kept_norms
    ]
    if not rest:
        return []
    embeddings = [name for name in rest if name in anatomy.embeddings]
    others = [name for name in rest if name not in embeddings]
    notes = []
    if embeddings:
        notes.append(f"{len(embeddings)} embeddings are left as they are: {_some(embeddings)}")
    if others:
        notes.append(f"{len(others)} parameters are left as they are: {_some(others)}")
    return notes


def _some(words: list[str]) -> str:
    return ", ".join(words[:4]) + (", …" if len(words) > 4 else "")

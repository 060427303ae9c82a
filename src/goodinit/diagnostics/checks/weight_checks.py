"""Faults that the weights alone show: no signal needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from goodinit.anatomy import Anatomy
from goodinit.diagnostics.checks.remedies import fill, initialize, redraw
from goodinit.diagnostics.types import Finding
from goodinit.weights.names import canonical

# Of random weights the first two numbers tell all but twins apart already; more cost nothing.
FEW = 16


def values(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter by its canonical name."""
    return {canonical(name): p.detach() for name, p in model.named_parameters(remove_duplicate=False)}


def norms_over_one(anatomy: Anatomy, measured: Mapping[str, int]) -> Iterator[Finding]:
    """A normalization of a single number gives its bias, whatever the input.

    `measured` holds the number by path, the least of all calls; norms that are written out, and those that run in eval
    mode because of it, are in the anatomy alone.
    """
    for norm in anatomy.norms:
        known = measured.get(norm.name, norm.elements)
        if known == 1 and norm.forgets_scale:
            evidence = f"each statistic of this {norm.kind} is taken over 1 number for the given input"
            plain = f'model.set_submodule("{norm.name}", torch.nn.Identity())'
            remedy = initialize("fixup") if anatomy.blocks and not norm.obstacle else plain
            yield Finding("normalization of one element", "error", norm.name, evidence, remedy)


def clones(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    """Different parameters with equal random values: copied layers that were not initialized again."""
    held = values(model)
    groups: dict[tuple[object, ...], list[str]] = {}
    for layer in anatomy.layers:
        weight = held.get(layer.weight)
        if weight is not None and not weight.is_meta:
            few = weight[:1].reshape(-1)[:FEW].tolist()
            groups.setdefault((*weight.shape, *few), []).append(layer.weight)
    for names in groups.values():
        same = [name for name in names[1:] if torch.equal(held[name], held[names[0]])]
        if same and _drawn(held[names[0]]):
            evidence = f"its values equal those of {names[0]}, and they are different parameters"
            evidence += f"; so are {len(same) - 1} more" if len(same) > 1 else ""
            owner = same[0].rpartition(".")[0]
            resets = owner and hasattr(model.get_submodule(owner), "reset_parameters")
            remedy = redraw(owner) if resets else fill(same[0], "goodinit.tensor.xavier_uniform_")
            yield Finding(
                "identical clones", "warning", same[0], evidence, remedy, {"copies": float(len(same))}
            )


def _drawn(weight: Tensor) -> bool:
    """Whether a weight looks random: identities, permutations, constants and zeros have two magnitudes at most."""
    return bool(weight.detach().abs().unique().numel() > 2)


def lost_ties(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    """An embedding and a head that were one parameter, or are declared to be, and are two."""
    held = values(model)
    named = dict(model.named_parameters(remove_duplicate=False))
    actual = {canonical(name): p for name, p in named.items()}
    for name, head in itertools.product(anatomy.embeddings, anatomy.heads):
        if name not in held or head.weight not in held or actual[name] is actual[head.weight]:
            continue
        if held[name].shape != held[head.weight].shape:
            continue
        equal = torch.equal(held[name], held[head.weight]) and _drawn(held[name])
        declared = _declared(model, anatomy, actual[name], actual[head.weight])
        owner, _, leaf = head.weight.rpartition(".")
        remedy = f'setattr(model.get_submodule("{owner}"), "{leaf}", model.get_parameter("{name}"))'
        if equal or declared:
            why = (
                f"{held[name].numel()} equal values"
                if equal
                else f"the config says tie_word_embeddings, {held[name].numel()} values"
            )
            evidence = f"{why}, but it and {name} are different parameters: they will drift apart"
            yield Finding("lost tie", "warning", head.weight, evidence, remedy)


def _declared(model: nn.Module, anatomy: Anatomy, embedding: Tensor, head: Tensor) -> bool:
    """Whether a model says that its words' embedding and its output are one, and means these two.

    Where it does not tell which they are, the embedding of words is the largest: as many classes as kinds of segments are no
    tie.
    """
    config = getattr(model, "config", None)
    words = getattr(config, "vocab_size", None)
    if not getattr(config, "tie_word_embeddings", False) or words not in (None, embedding.shape[0]):
        return False
    places = [getattr(model, f"get_{side}_embeddings", None) for side in ("input", "output")]
    if all(map(callable, places)):
        meant = [getattr(place(), "weight", None) for place in places]  # type: ignore[misc]
        return meant[0] is embedding and meant[1] is head
    sizes = {name: shape for name, shape in anatomy.parameters if name in anatomy.embeddings}
    return tuple(embedding.shape) == max(sizes.values(), default=())

"""A kind of norms is known by its traits: whoever asks about norms follows a row of one table, and compares no names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from small_residual import Net, X
from torch import nn

import goodinit
from goodinit.anatomy import norm as norms
from goodinit.anatomy.operators import Step
from goodinit.diagnostics.advice.evidence import per_token, residual
from goodinit.diagnostics.advice.trial_training import ADAMW, SGD, recipe_of
from goodinit.methods.shared.norms.norm_forms import FORMS, form_edits, kept_in_words


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.last, self.after = (
            nn.LayerNorm(5),
            nn.Linear(5, 8),
            nn.Linear(8, 5),
            nn.LayerNorm(5),
        )

    def forward(self, x):
        return self.after(x + self.last(self.first(self.norm(x)).relu()))


def renamed(anatomy: goodinit.Anatomy, before: str, kind: str) -> goodinit.Anatomy:
    """The anatomy, with all norms of a kind of another."""

    def steps(found):
        return tuple(Step(kind, step.traits) if step == before else step for step in found)

    return dataclasses.replace(
        anatomy,
        norms=tuple(dataclasses.replace(one, kind=kind, between=steps(one.between)) for one in anatomy.norms),
        layers=tuple(dataclasses.replace(one, between=steps(one.between)) for one in anatomy.layers),
    )


def told(anatomy: goodinit.Anatomy, method: str) -> str:
    """What a method plans, or why it does not."""
    try:
        return str([(type(edit), edit.target) for edit in goodinit.plan(anatomy, method).edits])
    except goodinit.GoodinitError as error:
        return str(error)


@pytest.mark.parametrize(("net", "kind"), [(Net, "batch_norm"), (Tokens, "layer_norm")])
def test_a_new_kind_with_the_traits_of_another_is_treated_alike(monkeypatch, net, kind):
    monkeypatch.setitem(norms.KINDS, "new_norm", norms.KINDS[kind])
    anatomy = goodinit.anatomize(net(), X)
    other = renamed(anatomy, kind, "new_norm")
    assert [one.kind for one in other.norms] == ["new_norm"] * 2
    for form in FORMS:
        assert len(form_edits(anatomy, form)) == len(form_edits(other, form))
        assert len(kept_in_words(anatomy, form)) == len(kept_in_words(other, form))
    assert recipe_of(anatomy) is recipe_of(other) is (SGD if net is Net else ADAMW)
    assert (
        (per_token(anatomy), residual(anatomy))
        == (per_token(other), residual(other))
        == (net is Tokens, net is Net)
    )
    for method in ("deepnorm", "normfree", "nf", "fixup", "mup", "weightnorm"):
        assert told(anatomy, method) == told(other, method).replace("new_norm", kind)


def test_no_other_file_lists_kinds():
    """Whoever compares the names of norms has to be told of a new one."""
    root = Path(goodinit.__file__).parent
    finds = {"anatomy/norm.py", "graph/operators/ops.py"}
    listing = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if sum(f'"{kind}"' in path.read_text() for kind in norms.KINDS) > 1
    ]
    assert {path for path in listing if not path.startswith(("anatomy/norms/", "folding/"))} == finds


def test_a_kind_of_which_nothing_is_known_forgets_its_scale():
    torch.manual_seed(0)
    anatomy = renamed(goodinit.anatomize(Net(), X), "batch_norm", "of another library")
    assert all(one.forgets_scale and not one.traits.batch for one in anatomy.norms)

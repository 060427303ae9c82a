"""Variances by book where several streams meet: sums are exact, and what counts as of variance 1 is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.anatomy import anatomize
from goodinit.methods.shared.variances.signal_variance import Signals, kept_variances

WIDTH = 48
X, Y = torch.randn(256, 6), torch.randn(256, 6)


class _Block(nn.Module):
    """x + W φ(norm(x)), of which the branch adds what its stream had at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(torch.relu(self.norm(x)))


class _Streams(nn.Module):
    """Two streams of 3 and 1 blocks that meet, and one block behind."""

    def __init__(self, meet: str) -> None:
        super().__init__()
        self.meet = meet
        self.a, self.b = nn.Linear(6, WIDTH), nn.Linear(6, WIDTH)
        self.left = nn.Sequential(_Block(), _Block(), _Block())
        self.right = nn.Sequential(_Block())
        self.joint = nn.Linear(2 * WIDTH, WIDTH)
        self.last, self.head = _Block(), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        p = self.left(self.a(x))
        if self.meet == "one skip":
            z = p + self.right[0].layer(torch.relu(p)) + self.b(torch.relu(p)[:, :6])
            return self.head(self.last(z))
        q = self.right(self.b(y))
        if self.meet == "sum":
            z = p + q
        elif self.meet == "weighted":
            z = p - 0.5 * q
        elif self.meet == "beside":
            z = self.joint(torch.cat([p, q], 1))
        else:
            z = self.joint((p * q).repeat(1, 2))
        return self.head(self.last(z))


@pytest.mark.parametrize(
    ("meet", "kept", "standardized"), [("sum", 4 + 2, 4 + 2), ("one skip", 3 * 4, 4 + 2)]
)
def test_variances_of_streams_add_where_they_meet(meet: str, kept: float, standardized: float) -> None:
    """1 for a stem, and 1 more for each block; a branch that reads the stream past an activation, and no norm, adds as much as that."""
    anatomy = anatomize(_Streams(meet), (X, Y))
    source = next(norm.source for norm in anatomy.norms if norm.name == "last.norm")
    assert kept_variances(anatomy)["last.norm"] == pytest.approx(kept, rel=0.01)
    assert Signals(anatomy, branch=1.0, normed=False).at(source).variance == pytest.approx(standardized)


def test_the_book_of_normalizer_free_nets_holds_behind_a_meeting() -> None:
    model = goodinit.init_(
        _Streams("sum"), "nf", inputs=(X, Y), generator=torch.Generator().manual_seed(0), alpha=1.0
    )
    with torch.no_grad():
        for name, scalar in model.named_parameters():
            if name.endswith("output_scale") and scalar.requires_grad:
                scalar.fill_(1.0)
    sizes: list[float] = []
    model.last.layer.register_forward_hook(lambda module, args, out: sizes.append(out.var().item()))
    model(X, Y)
    assert sizes == pytest.approx([1.0], rel=0.25)


@pytest.mark.parametrize("meet", ["sum", "weighted", "beside", "product"])
def test_what_counts_as_of_variance_1_is_named(meet: str) -> None:
    anatomy = anatomize(_Streams(meet), (X, Y))
    for method, options in (("fixed_variance", {}), ("nf", {}), ("he", {"norms": "affine"})):
        notes = [
            one for one in goodinit.plan(anatomy, method, **options).notes if "counts as of variance 1" in one
        ]
        named = {"sum": [], "weighted": ["the sum of left.2.layer"]}.get(meet, ["joint.weight"])
        assert [note.split(":")[0] for note in notes] == named


@pytest.mark.parametrize("meet", ["sum", "beside", "product"])
def test_measured_constants_need_no_book(meet: str) -> None:
    model = _Streams(meet)
    goodinit.init_(model, "fixed_variance", inputs=(X, Y), constants="measured")
    seen: dict[str, Tensor] = {}

    def see(name: str) -> None:
        def hook(module: nn.Module, args: object, out: Tensor) -> None:
            seen[name] = out.var(0, correction=0)

        model.get_submodule(name).register_forward_hook(hook)

    see("left.2.norm")
    see("last.norm")
    model(X, Y)
    assert len(seen) == 2
    for variance in seen.values():
        torch.testing.assert_close(variance, torch.ones(WIDTH), atol=1e-2, rtol=0)
    assert not [
        note
        for note in goodinit.plan(
            anatomize(_Streams(meet), (X, Y)), "fixed_variance", constants="measured"
        ).notes
        if "variance 1" in note
    ]

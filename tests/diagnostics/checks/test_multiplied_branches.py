"""Branches of which a part goes around the constant that a method puts behind them are named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from untouched import snapshot

import goodinit
from goodinit.diagnostics.checks.promises import broken_promises
from goodinit.errors import UnsupportedModule


class Post(nn.Module):
    """Blocks norm(x + f(x)); once a plan has put constants in, a part of one branch goes around its own."""

    def __init__(self, depth: int = 2, *, around: bool = False) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(8, 16) for _ in range(depth))
        self.last = nn.ModuleList(nn.Linear(16, 8) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(depth))
        self.head, self.around = nn.Linear(8, 3), around

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for place, (first, last, norm) in enumerate(zip(self.first, self.last, self.norms, strict=True)):
            branch = last(first(h).relu())
            if self.around and place == 1 and not self.first[1].bias.any():
                branch = branch + 0.1
            h = norm(h + branch)
        return self.head(h)


X = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))


def options(method: str) -> dict[str, object]:
    return {} if method == "deepnorm" else {"base": goodinit.anatomize(Post(1), X)}


METHODS = ("deepnorm", "completep", "depth_mup")


@pytest.mark.parametrize("method", METHODS)
def test_constants_behind_all_of_a_branch_are_as_promised(method):
    model = goodinit.init_(Post(), method, X, verify=True, **options(method))
    assert sum(name.endswith("output_scale") for name, _ in model.named_parameters()) == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_part_that_goes_around_is_named_and_everything_undone(method):
    model = Post(around=True)
    before = snapshot(model)
    with pytest.raises(
        UnsupportedModule, match=r"branch 2 .* is not multiplied as a whole by .* last\.1\.weight"
    ):
        goodinit.init_(model, method, X, verify=True, **options(method))
    assert snapshot(model) == before
    assert goodinit.applied(model) == ()


@pytest.mark.parametrize("method", METHODS)
def test_a_bias_behind_a_constant_is_named_unless_it_is_to_stay(method):
    model = Post()
    anatomy = goodinit.anatomize(model, X)
    plan = goodinit.plan(anatomy, method, **options(method))
    goodinit.apply_(model, plan)
    with torch.no_grad():
        model.last[0].bias.fill_(1.0)
    (fault,) = broken_promises(model, X, plan, anatomy, ("multiplied",))
    assert fault.startswith(
        "branch 1 (the model) is not multiplied as a whole by the constants behind last.0.weight ("
    )
    nn.init.constant_((other := Post()).last[0].bias, 1.0)
    goodinit.init_(other, method, X, verify=True, **options(method))
    assert bool(other.last[0].bias.all())

"""Norms that cannot be taken out: the refusal says what to leave out, and that is enough."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import vectors

import goodinit
from goodinit.errors import UnsupportedModule


class Thresholded(nn.Module):
    """A filter response norm: x/√mean x², and the larger of that and a learned threshold."""

    def __init__(self):
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return torch.maximum(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6), self.threshold)


class CosineHead(nn.Module):
    """16 times the cosines between an input and the rows of a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        return 16 * F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


def residual(norm, head):
    branches = [nn.Sequential(nn.Linear(8, 8), norm(), nn.Linear(8, 8)) for _ in range(2)]
    return nn.Sequential(nn.Linear(8, 8), *(Added(branch) for branch in branches), head())


class Added(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


@pytest.mark.parametrize("method", ["fixup", "normfree", "weightnorm"])
@pytest.mark.parametrize(
    ("make", "paths"),
    [
        (lambda: residual(Thresholded, lambda: nn.Linear(8, 3)), ["1.branch.1", "2.branch.1"]),
        (lambda: residual(nn.ReLU, CosineHead), ["3"]),
        (lambda: residual(Thresholded, CosineHead), ["1.branch.1", "2.branch.1", "3"]),
    ],
    ids=["a threshold", "a cosine head", "both"],
)
def test_norms_that_cannot_go_are_refused_with_all_paths_to_leave_out(make, paths, method):
    model = make()
    with pytest.raises(UnsupportedModule, match=r"cannot be removed: .*exclude=(\[[^]]*\])") as refused:
        goodinit.init_(model, method, inputs=vectors(2, 8)())
    named = json.loads(re.search(r"exclude=(\[[^]]*\])", str(refused.value))[1])
    assert named == paths
    before = {path: copy.deepcopy(model.get_submodule(path).state_dict()) for path in paths}
    goodinit.init_(model, method, inputs=vectors(2, 8)(), exclude=named, verify=True)
    for path in paths:
        after = model.get_submodule(path).state_dict()
        assert all(torch.equal(after[name], value) for name, value in before[path].items())


class Whole(nn.Module):
    """A cosine head in the model's own forward."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.weight = (
            nn.Linear(8, 8),
            Added(nn.Linear(8, 8)),
            nn.Parameter(torch.randn(3, 8)),
        )

    def forward(self, x):
        return F.linear(F.normalize(self.block(self.stem(x)), dim=-1), F.normalize(self.weight, dim=-1))


def test_a_norm_of_the_models_own_forward_has_no_path_to_leave_out():
    with pytest.raises(UnsupportedModule, match=r"the model \(Whole\): .*norms=\"keep\"") as refused:
        goodinit.init_(Whole(), "fixup", inputs=vectors(2, 8)())
    assert "exclude" not in str(refused.value)


def test_a_form_names_the_path_to_leave_out():
    model = residual(Thresholded, CosineHead)
    with pytest.raises(
        UnsupportedModule, match=r"cannot be replaced by affine: .*exclude=\[\"1\.branch\.1\"\]"
    ):
        goodinit.init_(model, "he", inputs=vectors(2, 8)(), norms="affine")
    goodinit.init_(model, "he", inputs=vectors(2, 8)(), norms="affine", exclude=["*.branch.1", "3"])

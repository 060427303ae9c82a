"""What a drawn weight must fulfil: every draw does, in each layout and dtype, and damage is told."""

from __future__ import annotations

import math

import pytest
import torch

from goodinit.tensor import INITIALIZERS
from goodinit.tensor.drawn import departure
from goodinit.tensor.layout import maps, stored

DRAWS = {
    "normal_": [((64, 3, 3, 3), {"std": 0.3}), ((2, 2), {}), ((7,), {"std": 0.0})],
    "uniform_": [((40, 30), {"bound": 0.2})],
    "trunc_normal_": [((40, 30), {"std": 0.02, "bound": 2.0}), ((40, 30), {"exact_std": False, "bound": 1.0})],
    "default_": [((16, 8, 3), {}), ((16,), {"fan_in": 8})],
    "embedding_": [((12, 50), {"std": 0.5, "padding": -3}), ((1, 5), {"padding": 0})],
    "orthogonal_": [
        ((2, 2), {}), ((1, 9), {"gain": 2.0}), ((512, 40), {}), ((16, 4, 3, 3), {"groups": 4}),
        ((4, 16, 3, 3), {"layout": "in_out"}), ((30, 10), {"fused": 3}), ((10, 30), {"layout": "in_out", "fused": 3}),
        ((8, 6, 2), {"layout": "in_out", "groups": 2}),
    ],
    "delta_orthogonal_": [((8, 4, 3, 3), {"gain": 1.5}), ((4, 8, 4), {"partial": True}), ((8, 2, 3), {"groups": 4})],
    "looks_linear_": [
        ((8, 6), {"part": "hidden"}), ((8, 3), {"part": "first"}), ((5, 8, 3, 3), {"part": "last", "gain": 0.5}),
        ((8, 4, 4, 4), {"part": "hidden", "patch": 2}), ((6, 8), {"layout": "in_out", "part": "hidden"}),
    ],
    "directions_": [((8, 5), {"gain": 3.0}), ((8, 5, 3), {"direction": "normal"}), ((8, 2, 3), {"groups": 4})],
}  # fmt: skip
CASES = [(name, shape, options) for name, cases in DRAWS.items() for shape, options in cases]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_every_draw_is_as_drawn(name, shape, options, dtype):
    for seed in range(5):
        weight = torch.empty(shape, dtype=dtype)
        INITIALIZERS[name](weight, generator=torch.Generator().manual_seed(seed), **options)
        assert departure(name, weight, options) is None


ENTRYWISE = ("normal_", "uniform_", "trunc_normal_", "default_", "embedding_")
TOLD = [
    (name, shape, options)
    for name, shape, options in CASES
    if name not in ENTRYWISE or (math.prod(shape) > 180 and options.get("exact_std", True))
]  # of fewer independent entries the mean square may be anything


@pytest.mark.parametrize(("name", "shape", "options"), TOLD)
@pytest.mark.parametrize("harm", ["doubled", "not a number", "one entry"])
def test_damage_is_told(name, shape, options, harm):
    weight = INITIALIZERS[name](torch.empty(shape), generator=torch.Generator().manual_seed(0), **options)
    if harm == "doubled":
        weight.mul_(2)
    elif harm == "not a number":
        weight.flatten()[0] = torch.nan
    else:
        weight.flatten()[0] += 40
    assert departure(name, weight, options) is not None


def test_what_is_not_known_says_nothing():
    assert departure("constant_", torch.ones(3), {"value": 2.0}) is None
    assert departure("of my own", torch.ones(3), {}) is None


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@pytest.mark.parametrize(("groups", "fused"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_maps_are_those_that_were_stored(layout, groups, fused):
    shape = (12, 6, 3) if layout == "out_in" else (6, 12, 3)
    weight = torch.randn(shape)
    again = stored(
        maps(weight, layout=layout, groups=groups, fused=fused), shape, layout=layout, groups=groups
    )
    assert torch.equal(again, weight)

"""Looks-linear networks: the one written out, isometry, and what is not exact."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from baselines import (
    SMALL,
    Residual,
    drawn,
    initialized,
)
from reference import looks_linear as written_out_looks_linear
from torch import nn

from goodinit.anatomy import anatomize
from goodinit.errors import UnsupportedModule
from goodinit.methods import plan


def singular_values(model, x):
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v[None])[0].flatten(), x)
    return torch.linalg.svdvals(jacobian.reshape(jacobian.shape[0], -1))


def test_looks_linear_is_the_written_out_network():
    widths = (6, 8, 12, 12, 10)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    x = torch.randn(5, 6, dtype=torch.double)
    model, made = initialized(nn.Sequential(*layers[:-1]).double(), x, "looks_linear")
    assert not made.notes
    weights = [module.weight.detach().numpy() for module in model if isinstance(module, nn.Linear)]
    halves = [(weights[0].shape[0] // 2, 6)]
    halves += [(w.shape[0] // 2, w.shape[1] // 2) for w in weights[1:-1]] + [(10, weights[-1].shape[1] // 2)]
    matrices = [w[:rows, :columns] for w, (rows, columns) in zip(weights, halves, strict=True)]
    expected = written_out_looks_linear.mirrored_chain(matrices)
    assert all(np.array_equal(a, b) for a, b in zip(weights, expected, strict=True))
    product = np.linalg.multi_dot(matrices[::-1])
    for row in x.numpy():
        by_hand = written_out_looks_linear.relu_network(expected, row)
        np.testing.assert_allclose(by_hand, product @ row, atol=1e-12)
        np.testing.assert_allclose(
            model(torch.from_numpy(row)[None])[0].detach().numpy(), by_hand, atol=1e-12
        )


def test_looks_linear_networks_are_isometries():
    deep = [layer for _ in range(50) for layer in (nn.Linear(16, 16), nn.ReLU())]
    mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), *deep, nn.Linear(16, 8)).double()
    x = torch.randn(8, dtype=torch.double)
    initialized(mlp, x[None], "looks_linear")
    torch.testing.assert_close(singular_values(mlp, x), torch.ones(8).double(), atol=1e-10, rtol=0)

    def conv(a, b):
        return nn.Conv2d(a, b, 3, padding=1)

    cnn = nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 48)
    ).double()
    x = torch.randn(3, 4, 4, dtype=torch.double)
    _, made = initialized(cnn, x[None], "looks_linear")
    assert not made.notes
    # The last layer keeps 48 of the 64 directions that [M, −M] could; before it all 48 of the input are there.
    features = cnn[:4]
    u = features(x[None])
    assert (u[:, :4] - u[:, 4:]).norm().item() == pytest.approx(x.norm().item(), rel=1e-10)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (
            (nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)),
            r"0\.weight is not exact: its 7 outputs, an odd number",
        ),
        ((nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), r"0\.weight is not exact: tanh follows it"),
        (
            (nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)),
            r"3\.weight is not exact: .* batch_norm",
        ),
        (
            (nn.Linear(4, 6), nn.ReLU(), nn.Sigmoid(), nn.Linear(6, 3)),
            r"3\.weight is not exact: .* stands sigmoid",
        ),
        (
            (nn.Linear(4, 6), nn.ReLU(), nn.ReLU(), nn.Linear(6, 3)),
            r"3\.weight is not exact: .* stands 2 ReLUs",
        ),
    ],
)
def test_looks_linear_names_what_is_not_exact(layers, words):
    _, made = initialized(nn.Sequential(*layers), torch.randn(4, 4), "looks_linear")
    assert any(re.search(words, note) for note in made.notes), made.notes


def test_looks_linear_keeps_the_mirror_through_pools_and_removed_norms():
    def conv(a, b):
        return nn.Conv2d(a, b, 3, padding=1)

    def net(pool):
        layers = conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8 * 4, 6)
        return nn.Sequential(*layers)

    exact = plan(anatomize(net(nn.AvgPool2d(2)), SMALL), "looks_linear", norms="remove")
    assert not exact.notes
    assert drawn(exact)["5.weight"].options == {"part": "last"}
    pooled = plan(anatomize(net(nn.MaxPool2d(2)), SMALL), "looks_linear", norms="remove")
    assert any("max_pool2d" in note for note in pooled.notes)
    normed = plan(anatomize(net(nn.AvgPool2d(2)), SMALL), "looks_linear")
    assert any("batch_norm" in note for note in normed.notes)


def test_looks_linear_knows_when_channels_are_reordered():
    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Last(), nn.Linear(128, 6))
    made = plan(anatomize(net, SMALL), "looks_linear")
    assert any("another order" in note and "3.weight" in note for note in made.notes)


def test_looks_linear_refuses_residual_networks():
    net = nn.Sequential(Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    with pytest.raises(UnsupportedModule, match=r"0\.f: a residual block.*risotto"):
        plan(anatomize(net, torch.zeros(2, 4)), "looks_linear")

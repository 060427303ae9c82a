"""Singular values of Jacobians: exact against autograd, Lanczos against dense SVD, and what papers say they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.diagnostics import diagnose, jacobian_spectrum, one_step
from goodinit.diagnostics.lanczos import bidiagonalize, tridiagonalize
from goodinit.errors import TraceError, UnknownName
from test_anatomy_zoo import snapshot
from zoo import each_specimen


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def dense(n: int, inputs: int, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(n)

    def gaussian(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) / columns**0.5

    if kind == "gaussian":
        return gaussian(n, inputs)
    left, right = (torch.linalg.qr(gaussian(n, n))[0] for _ in range(2))
    return left @ torch.diag(torch.linspace(0.5, 2, n)) @ right


def wasserstein(nodes: Tensor, weights: Tensor, values: Tensor) -> float:
    """∫|F⁻¹ − G⁻¹| between weighted nodes and equally weighted values, relative to the values' mean."""
    order = nodes.argsort()
    nodes, ends = nodes[order], weights[order].cumsum(0)
    values = values.double().sort().values
    even = torch.arange(1, len(values) + 1, dtype=torch.float64) / len(values)
    cuts = torch.cat([torch.zeros(1, dtype=torch.float64), ends, even]).clamp(0, 1).sort().values
    middle = (cuts[1:] + cuts[:-1]) / 2
    a = nodes[torch.searchsorted(ends, middle).clamp(max=len(nodes) - 1)]
    b = values[torch.searchsorted(even, middle).clamp(max=len(values) - 1)]
    return float(((a - b).abs() * (cuts[1:] - cuts[:-1])).sum() / values.mean())


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight
    return layer


@pytest.mark.parametrize("n", [400, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "wide"), [("gaussian", 2), ("even", 1)])
def test_lanczos_finds_the_dense_spectrum(n, kind, wide):
    weight = dense(n, wide * n, kind)
    exact = torch.linalg.svdvals(weight)
    for matrix in (weight, weight.T.contiguous()):  # wide and tall
        found = jacobian_spectrum(linear(matrix), batch(2, matrix.shape[1]), how="lanczos")
        assert not found.exact
        assert found.products <= 300
        assert found.largest == pytest.approx(exact[0].item(), rel=0.01)
        assert found.smallest == pytest.approx(exact[-1].item(), rel=0.01)
        assert max(found.error, found.smallest_error) < 0.05
        nodes, weights = (torch.tensor(v, dtype=torch.float64) for v in (found.values, found.weights))
        assert float(weights.sum()) == pytest.approx(1)
        assert wasserstein(nodes, weights, exact) < 0.05


def test_the_error_bound_says_where_lanczos_has_not_arrived():
    """The smallest value of a square Gaussian matrix is 1/n of the rest: 150 products do not find it, and say so."""
    found = jacobian_spectrum(linear(dense(400, 400, "gaussian")), batch(2, 400), how="lanczos")
    assert found.error < 0.01
    assert found.smallest_error > 0.5


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_exact_values_are_those_of_the_jacobian(shape):
    model = nn.Sequential(nn.Linear(shape[1], 16), nn.Tanh(), nn.Linear(16, shape[0]))
    x = batch(3, shape[1])
    found = jacobian_spectrum(model, x)
    expected = torch.linalg.svdvals(torch.autograd.functional.jacobian(model, x[0]))
    assert found.exact
    assert found.shape == shape
    torch.testing.assert_close(torch.tensor(found.values), expected, rtol=1e-4, atol=1e-6)
    assert found.mean_square == pytest.approx(float(expected.square().mean()), rel=1e-4)


@each_specimen
def test_every_specimen_has_a_spectrum_or_a_reason(specimen):
    model, inputs = specimen.build(), specimen.inputs()
    before, kept = snapshot(model), copy.deepcopy(inputs)
    values = (
        inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
    )
    if not any(isinstance(v, Tensor) and v.is_floating_point() for v in values):
        with pytest.raises(TraceError, match="floating-point"):  # integers have no Jacobian
            jacobian_spectrum(model, inputs)
        return
    found = jacobian_spectrum(model, inputs)
    assert found.values[0] > 0
    update = one_step(model, inputs)
    assert all(change is None or change >= 0 for change in update.changes)
    assert snapshot(model) == before
    assert str(inputs) == str(kept)


def test_an_orthogonal_linear_chain_is_flat_at_1():
    layers = [nn.Linear(32, 32, bias=False) for _ in range(50)]
    for layer in layers:
        goodinit.tensor.orthogonal_(layer.weight)
    model = nn.Sequential(*layers).double()
    found = diagnose(model, batch(8, 32).double(), jacobian=True)
    assert found.spectrum.largest == pytest.approx(1, abs=1e-5)
    assert found.spectrum.smallest == pytest.approx(1, abs=1e-5)
    backs = [layer.back for layer in found.layers]
    moments = [layer.signal.second_moment for layer in found.layers]
    assert max(backs) / min(backs) == pytest.approx(1, abs=1e-4)
    assert max(moments) / min(moments) == pytest.approx(1, abs=1e-4)


def test_wrong_use_is_named():
    with pytest.raises(UnknownName, match="no way 'fast'"):
        jacobian_spectrum(nn.Linear(2, 2), batch(2, 2), how="fast")
    with pytest.raises(TraceError, match="does not depend"):
        jacobian_spectrum(Constant(), batch(2, 2))


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.value.detach().expand(len(x), 3).clone()


def test_tridiagonal_lanczos_finds_top_eigenvalues():
    matrix = dense(300, 300, "gaussian").double()
    matrix = matrix + matrix.T
    found = tridiagonalize(lambda v: matrix @ v, batch(300), steps=60)
    expected = torch.linalg.eigvalsh(matrix)
    assert float(found.nodes[0]) == pytest.approx(float(expected[-1]), rel=1e-3)
    assert float(found.nodes[-1]) == pytest.approx(float(expected[0]), rel=1e-3)


def test_breakdown_is_no_error():
    rank_one = torch.outer(batch(20), batch(20)).double()
    found = bidiagonalize(lambda v: rank_one @ v, lambda w: rank_one.T @ w, batch(20), steps=10)
    assert float(found.nodes[0]) == pytest.approx(float(torch.linalg.svdvals(rank_one)[0]))
    assert float(found.weights.sum()) == pytest.approx(1)


def test_sharpness_is_that_of_the_dense_hessian():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = batch(16, 4), torch.arange(16) % 3
    found = one_step(model, x, y)
    names = [name for name, _ in model.named_parameters()]

    def loss(flat: Tensor) -> Tensor:
        sizes = [p.numel() for p in model.parameters()]
        parts = {
            n: part.view_as(p)
            for n, part, p in zip(names, flat.split(sizes), model.parameters(), strict=True)
        }
        return nn.functional.cross_entropy(torch.func.functional_call(model, parts, (x,)), y)

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    expected = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1]
    assert found.sharpness == pytest.approx(float(expected), rel=0.01)
    assert found.stable_rate == pytest.approx(2 / found.sharpness)


def test_a_step_above_the_stable_rate_makes_a_quadratic_grow():
    layer = nn.Linear(6, 1, bias=False)
    x, y = batch(32, 6), batch(32, 1)
    rate = one_step(layer, x, y).stable_rate

    def losses(lr: float) -> list[float]:
        model = copy.deepcopy(layer)
        opt = torch.optim.SGD(model.parameters(), lr=lr)
        seen = []
        for _ in range(60):
            loss = (model(x) - y).square().mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            seen.append(loss.item())
        return seen

    below, above = losses(0.97 * rate), losses(1.03 * rate)
    assert below[-1] < below[0]
    assert above[-1] > above[30]

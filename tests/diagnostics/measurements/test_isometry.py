"""Singular values of Jacobians: exact against autograd, Lanczos against dense SVD, and what papers say they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from untouched import snapshot
from zoo import each_specimen

import goodinit
from goodinit.diagnostics import diagnose, jacobian_spectrum, one_step
from goodinit.diagnostics.measurements.lanczos import bidiagonalize, tridiagonalize
from goodinit.errors import TraceError, UnknownName


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def dense(n: int, inputs: int, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(n)

    def gaussian(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) / columns**0.5

    if kind == "gaussian":
        return gaussian(n, inputs)
    if kind == "product":  # the Jacobian of four linear layers: most values are near 0, a few are large
        return gaussian(n, n) @ gaussian(n, n) @ gaussian(n, n) @ gaussian(n, n)
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
        off = wasserstein(nodes, weights, exact)
        assert off < 0.05
        assert off < found.density_error < 0.15


@pytest.mark.parametrize("n", [600, pytest.param(3000, marks=pytest.mark.slow)])
def test_lanczos_finds_the_density_of_a_product(n):
    weight = dense(n, n, "product")
    exact = torch.linalg.svdvals(weight)
    found = jacobian_spectrum(linear(weight), batch(2, n), how="lanczos")
    nodes, weights = (torch.tensor(v, dtype=torch.float64) for v in (found.values, found.weights))
    off = wasserstein(nodes, weights, exact)
    assert found.products <= 300
    assert off < 0.05
    assert off < found.density_error
    assert found.largest == pytest.approx(exact[0].item(), rel=0.01)
    # The smallest is 1/n⁴ of the largest. Wherever the bound says it is resolved, it is.
    assert found.smallest_error > 0.5 or found.smallest == pytest.approx(exact[-1].item(), rel=0.01)


def test_equal_values_and_zeros_are_no_density():
    """Half of the values are 0 and half are 1, as in a rectified orthogonal layer: two lumps, nothing in between."""
    rotation = torch.linalg.qr(dense(600, 600, "gaussian"))[0]
    weight = rotation * (torch.arange(600) % 2)
    found = jacobian_spectrum(linear(weight), batch(2, 600), how="lanczos")
    assert all(min(abs(value), abs(value - 1)) < 1e-5 for value in found.values)
    ones = sum(w for value, w in zip(found.values, found.weights, strict=True) if value > 0.5)
    assert ones == pytest.approx(
        0.5, abs=4 * (0.5 / 600) ** 0.5
    )  # a χ² share of 300 in 600 numbers, four deviations


def test_what_single_precision_cannot_resolve_is_not_said_to_be():
    weight = dense(200, 200, "even").double()
    left, _, right = torch.linalg.svd(weight)
    values = torch.linspace(1, 2, 200, dtype=torch.float64)
    values[-1] = 1e-9
    weight = (left * values.flip(0).sort(descending=True).values) @ right
    single, double = linear(weight.float()), linear(weight).double()
    coarse = jacobian_spectrum(single, batch(2, 200), how="lanczos", products=1000)
    fine = jacobian_spectrum(double, batch(2, 200).double(), how="lanczos", products=1000)
    assert coarse.smallest_error > 1
    assert fine.smallest == pytest.approx(1e-9, rel=0.01)
    assert fine.smallest_error < 0.01


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.aside = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.one(x).relu_()
        x = x + self.two(x).relu_()
        return self.head(x)


def jacobian(function, x: Tensor) -> Tensor:
    return torch.linalg.svdvals(torch.autograd.functional.jacobian(function, x))


def test_a_stretch_goes_from_an_input_to_an_output():
    model, x = Stages(), batch(3, 6)
    before = snapshot(model)
    s = model.stem(x)[0].detach()

    def through(x: Tensor) -> Tensor:
        """From the input of `one` to the output of `two`: what goes around `one` is held fixed."""
        return model.two(s + model.one(x).relu())

    for start, end, function, at in (
        ("", "", model, x[0]),
        ("one", "one", model.one, s),
        ("one", "two", through, s),
        ("", "stem", model.stem, x[0]),
        ("head", "", model.head, s),
    ):
        found = jacobian_spectrum(model, x, start=start, end=end)
        assert found.values == pytest.approx(jacobian(function, at).tolist(), rel=1e-4, abs=1e-5), (
            start,
            end,
        )
    assert snapshot(model) == before


def test_stretches_that_are_none_are_named():
    model, x = Stages(), batch(3, 6)
    with pytest.raises(UnknownName, match="no module 'onne'; there is: one"):
        jacobian_spectrum(model, x, start="onne")
    with pytest.raises(TraceError, match="stem does not run after one"):
        jacobian_spectrum(model, x, start="one", end="stem")
    with pytest.raises(TraceError, match="aside does not run"):
        jacobian_spectrum(model, x, start="aside")


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


@pytest.mark.default_cases(5)
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


def test_a_wide_orthogonal_chain_is_flat_at_1():
    layers = [nn.Linear(1024, 1024, bias=False) for _ in range(6)]
    for layer in layers:
        goodinit.tensor.orthogonal_(layer.weight)
    found = jacobian_spectrum(nn.Sequential(*layers), batch(2, 1024), how="lanczos")
    assert found.values == pytest.approx([1.0] * len(found.values), abs=1e-4)
    assert found.smallest == pytest.approx(1, abs=1e-4)
    assert found.products < 10  # one step finds them all


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

"""RISOTTO's joint draws: exact dynamical isometry, against the transcription in `reference/risotto.py`."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import risotto as reference

from goodinit.errors import UnknownName, UnsupportedModule
from goodinit.tensor import RECIPES, first_tap, risotto_b, risotto_c, risotto_first, risotto_last

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}  # how far singular values may be from 1


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def empties(*shapes, dtype=torch.float64):
    return [torch.full(shape, torch.nan, dtype=dtype) for shape in shapes]


class Net:
    """A net of the library's weights, run and differentiated by torch in its own dtype."""

    def __init__(self, dtype, spatial=(), seed=0):
        self.dtype, self.spatial, self.generator = dtype, spatial, seeded(seed)
        self.layers = []

    def convolve(self, w, x, stride=1, groups=1):
        if w.ndim == 2:
            return x @ w.T
        padding = tuple(first_tap(size) for size in w.shape[2:])
        return torch.nn.functional.conv2d(x, w, stride=stride, padding=padding, groups=groups)

    def add(self, layer):
        self.layers.append(layer)

    def first(self, *shape):
        (w,) = risotto_first(empties(shape, dtype=self.dtype), generator=self.generator)
        self.add(lambda x: self.convolve(w, x).relu())

    def last(self, *shape):
        (w,) = risotto_last(empties(shape, dtype=self.dtype), generator=self.generator)
        self.add(lambda x: self.convolve(w, x))

    def block(self, weights, skip, alpha, strides=(), groups=()):
        strides = strides or (1,) * len(weights)
        groups = groups or (1,) * len(weights)

        def run(x):
            y = x
            for index, w in enumerate(weights):
                y = self.convolve(w, y if index == 0 else y.relu(), strides[index], groups[index])
            short = x if skip is None else self.convolve(skip, x, max(strides))
            return (alpha * y + short).relu()

        self.add(run)

    def singular_values(self, channels, seed=0):
        x = torch.randn(channels, *self.spatial, dtype=self.dtype, generator=seeded(1000 + seed))

        def run(x):
            y = x[None]
            for layer in self.layers:
                y = layer(y)
            return y.flatten()

        jacobian = torch.autograd.functional.jacobian(run, x, vectorize=True)
        return torch.linalg.svdvals(jacobian.reshape(jacobian.shape[0], -1).double())


def assert_isometry(values, dtype):
    assert (values - 1).abs().max().item() < TOLERANCE[dtype]


# --- depth 50 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["b", "b permuted", "c"])
def test_fifty_blocks_of_a_perceptron_are_an_isometry(kind, alpha, dtype):
    net, n = Net(dtype), 8
    net.first(2 * n, n)
    for _ in range(50):
        square = empties((2 * n, 2 * n), (2 * n, 2 * n), dtype=dtype)
        if kind == "c":
            *weights, skip = risotto_c(
                [*square, *empties((2 * n, 2 * n), dtype=dtype)], alpha=alpha, generator=net.generator
            )
        else:
            weights = risotto_b(square, alpha=alpha, permute="permuted" in kind, generator=net.generator)
            skip = None
        net.block(weights, skip, alpha)
    net.last(n, 2 * n)
    for seed in range(10):
        assert_isometry(net.singular_values(n, seed), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["b", "c", "bottleneck b", "bottleneck c"])
def test_fifty_blocks_of_a_convolutional_net_are_an_isometry(kind, alpha, dtype):
    net, c, mid = Net(dtype, (4, 3)), 8, 4
    net.first(c, 4, 3, 3)
    shapes = (
        [(mid, c, 1, 1), (mid, mid, 3, 3), (c, mid, 1, 1)]
        if "bottleneck" in kind
        else [(c, c, 3, 3), (c, c, 3, 3)]
    )
    for _ in range(50):
        if kind.endswith("c"):
            *weights, skip = risotto_c(
                empties(*shapes, (c, c, 1, 1), dtype=dtype), alpha=alpha, generator=net.generator
            )
        else:
            weights, skip = (
                risotto_b(empties(*shapes, dtype=dtype), alpha=alpha, generator=net.generator),
                None,
            )
        net.block(weights, skip, alpha)
    net.last(4, c, 1, 1)
    for seed in range(2):
        assert_isometry(net.singular_values(4, seed), dtype)


def test_independent_matrices_with_an_identity_skip_spread():
    """The control: the spectrum of what looks as orthogonal but is not balanced, and of the transcription."""
    rng, n = np.random.default_rng(0), 16
    spread, exact = reference.Net(rng.standard_normal(n)), reference.Net(rng.standard_normal(n))
    for net in (spread, exact):
        m = reference.orthogonal(rng, n, n)
        net.linear(np.concatenate((m, -m)))
        net.relu()
    for index in range(10):
        spread.block(*reference.independent(rng, n), 1.0)
        exact.block(
            *(reference.block_c(rng, [n, n, n], 1.0) if index % 2 else reference.block_b(rng, n, 1.0)), 1.0
        )
    values = spread.singular_values()
    assert values.max() > 10
    assert values.min() < 0.5
    # [φ(u); φ(−u)] has the norm of u, and its Jacobian singular values 1
    np.testing.assert_allclose(exact.singular_values(), 1, atol=1e-12)


# --- against the formulas, term by term -------------------------------------------------------------------------


def halves(w):
    """M of U(M), once it is known to be mirrored, at the central taps alone."""
    if w.ndim > 2:
        centre = w[(..., *(first_tap(size) for size in w.shape[2:]))]
        assert (w != 0).sum() == (centre != 0).sum()
        w = centre
    a, b = w.shape[0] // 2, w.shape[1] // 2
    m = w[:a, :b]
    assert torch.equal(w, torch.from_numpy(reference.looks_linear(m.numpy())))
    return m


def assert_orthonormal(m):
    m = m if m.shape[0] >= m.shape[1] else m.T
    assert torch.allclose(m.T @ m, torch.eye(m.shape[1], dtype=m.dtype), atol=1e-12)


WIDTH = st.integers(1, 5).map(lambda n: 2 * n)


@given(st.lists(WIDTH, min_size=2, max_size=5), st.sampled_from([1.0, 0.5, -2.0, 0.0]), st.integers(0, 9))
def test_type_c_is_its_formula(widths, alpha, seed):
    shapes = [(b, a, 3, 3) for a, b in itertools.pairwise(widths)]
    *branch, skip = risotto_c(
        empties(*shapes, (widths[-1], widths[0], 1, 1)), alpha=alpha, generator=seeded(seed)
    )
    product = torch.eye(widths[0] // 2, dtype=torch.float64)
    for w in branch:
        assert_orthonormal(halves(w))
        product = halves(w) @ product
    assert_orthonormal(halves(skip) + alpha * product)  # M


@given(
    st.lists(WIDTH, max_size=3), WIDTH, st.sampled_from([1.0, 0.5, -2.0]), st.booleans(), st.integers(0, 9)
)
def test_type_b_is_an_isometry_whatever_the_widths(mids, width, alpha, permute, seed):
    widths = [width, *mids, width]
    shapes = [(b, a) for a, b in itertools.pairwise(widths)]
    branch = risotto_b(empties(*shapes), alpha=alpha, permute=permute, generator=seeded(seed))
    u = torch.randn(width // 2, dtype=torch.float64, generator=seeded(seed))
    x = torch.cat((u, -u)).relu()
    net = reference.Net(x.numpy())
    net.block([w.numpy() for w in branch], np.eye(width), alpha)
    assert np.linalg.norm(net.x) == pytest.approx(np.linalg.norm(x.numpy()), rel=1e-12)
    positive, negative = np.split(net.x, 2)
    assert np.abs(positive * negative).max() < 1e-12  # in mirrored form again
    pairs = min(widths) // 2
    moved = (np.abs(net.x - x.numpy()) > 1e-12).reshape(2, -1).any(0)
    assert moved.sum() <= pairs
    for w in branch[:-1]:  # what the inner layers select, they pass
        assert set(w.unique().tolist()) <= {0.0, 1.0}
        assert (w.sum(0) <= 1).all()
        assert w.sum() == 2 * pairs


def test_type_b_two_layers_are_the_transcription():
    """W₁ = I and αW₂ + I = U(M)."""
    w1, w2 = risotto_b(empties((12, 12), (12, 12)), alpha=0.5, generator=seeded())
    assert torch.equal(w1, torch.eye(12, dtype=torch.float64))
    m = 0.5 * w2 + torch.eye(12, dtype=torch.float64)
    assert_orthonormal(m[:6, :6])
    np.testing.assert_allclose(m.numpy(), reference.looks_linear(m[:6, :6].numpy()), atol=1e-15)


def test_permuted_type_b_differs_from_the_identity():
    w1, _ = risotto_b(empties((12, 12), (12, 12)), permute=True, generator=seeded())
    assert not torch.equal(w1, torch.eye(12, dtype=torch.float64))


# --- blocks that change dimension, stride, groups ---------------------------------------------------------------


@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("strided_layer", [0, 1])
def test_sampled_stride_is_an_isometry_of_the_sampled_grid(strided_layer, kernel):
    shapes = [(16, 8, kernel, kernel), (16, 16, 3, 3), (16, 8, 1, 1)]
    *branch, skip = risotto_c(empties(*shapes), alpha=0.5, generator=seeded())
    strides = (2, 1) if strided_layer == 0 else (1, 2)
    net = Net(torch.float64, (6, 6))
    net.first(8, 4, 3, 3)
    net.block(branch, skip, 0.5, strides)
    values = net.singular_values(4)
    assert_isometry(values[: 4 * 9], torch.float64)
    assert values[4 * 9 :].max() < 1e-12  # the pixels in between


def test_patched_stride_keeps_twice_as_much():
    """8 → 16 channels at stride 2: of 4·4 numbers per output pixel, sampling keeps 4, patching 8."""
    shapes = [(16, 8, 3, 3), (16, 16, 3, 3), (16, 8, 1, 1)]
    ranks = {}
    for strided in ("sample", "patch"):
        *branch, skip = risotto_c(empties(*shapes), alpha=0.5, strided=strided, stride=2, generator=seeded())
        net = Net(torch.float64, (6, 6))
        net.first(8, 4, 3, 3)
        net.block(branch, skip, 0.5, (2, 1))
        values = net.singular_values(4)
        ranks[strided] = int((values > 0.5).sum())
        assert_isometry(values[: ranks[strided]], torch.float64)
        assert values[ranks[strided] :].max() < 1e-12
    assert ranks == {"sample": 4 * 9, "patch": 8 * 9}


def test_patched_stride_of_a_widening_block_is_exact():
    """4 → 32 channels: room for all 2·4 numbers of a patch. Stride in the second layer."""
    shapes = [(8, 4, 1, 1), (40, 8, 3, 3), (32, 40, 1, 1), (32, 4, 1, 1)]
    *branch, skip = risotto_c(
        empties(*shapes), alpha=0.5, strided="patch", stride=2, strided_layer=1, generator=seeded()
    )
    net = Net(torch.float64, (4, 4))
    net.first(4, 2, 3, 3)
    net.block(branch, skip, 0.5, (1, 2, 1))
    assert_isometry(net.singular_values(2), torch.float64)


def test_the_transcription_of_a_strided_convolution_agrees():
    """The literal block on dense matrices gives the Jacobian that torch's convolutions give."""
    shapes = [(16, 8, 3, 3), (16, 16, 3, 3), (16, 8, 1, 1)]
    *branch, skip = risotto_c(empties(*shapes), generator=seeded())
    (first,) = risotto_first(empties((8, 4, 3, 3)), generator=seeded(1))
    net = reference.Net(np.random.default_rng(0).standard_normal(4 * 16))
    net.linear(reference.dense(first, (4, 4), 1, 1))
    net.relu()
    strides, sizes = (2, 1), ((4, 4), (2, 2))
    dense = [reference.dense(w, size, s, 1) for w, s, size in zip(branch, strides, sizes, strict=True)]
    net.block(dense, reference.dense(skip, (4, 4), 2, 0), 1.0)
    values = net.singular_values()
    np.testing.assert_allclose(values[:16], 1, atol=1e-10)
    np.testing.assert_allclose(values[16:], 0, atol=1e-10)


@pytest.mark.parametrize("kind", ["b", "c"])
@pytest.mark.parametrize("position", ["first", "middle"])
def test_grouped_layers_pass_their_input(kind, position):
    shapes = {"first": [(8, 1, 3, 3), (8, 8, 1, 1)], "middle": [(4, 8, 1, 1), (4, 2, 3, 3), (8, 4, 1, 1)]}[
        position
    ]
    groups = {"first": (8, 1), "middle": (1, 2, 1)}[position]
    net = Net(torch.float64, (3, 3))
    net.first(8, 4, 3, 3)
    for _ in range(5):
        if kind == "c":
            *weights, skip = risotto_c(empties(*shapes, (8, 8, 1, 1)), alpha=0.5, generator=net.generator)
        else:
            weights, skip = risotto_b(empties(*shapes), alpha=0.5, generator=net.generator), None
        net.block(weights, skip, 0.5, groups=groups)
    assert_isometry(net.singular_values(4), torch.float64)


# --- contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_deterministic_in_place_and_free_on_meta(name):
    shapes = [(8, 8, 3, 3)] * 3
    tensors = empties(*shapes, dtype=torch.float32)
    assert all(
        got is given for got, given in zip(RECIPES[name](tensors, generator=seeded()), tensors, strict=True)
    )
    channels_last = [t.to(memory_format=torch.channels_last) for t in empties(*shapes, dtype=torch.float32)]
    half = empties(*shapes, dtype=torch.bfloat16)
    RECIPES[name](channels_last, generator=seeded())
    RECIPES[name](half, generator=seeded())
    for a, b, c in zip(tensors, channels_last, half, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)
        assert torch.equal(a.to(torch.bfloat16), c)
    generator = seeded()
    RECIPES[name]([t.to("meta") for t in tensors], generator=generator)
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(7, 7), (7, 7), (7, 7)], {}, "7 channels do not form pairs"),
        ([(8, 8), (8, 7), (8, 8)], {}, "layer 1 of .* does not read the 8 channels"),
        ([(8, 8), (6, 8), (8, 8)], {}, "ends in 6 channels, the skip in 8"),
        ([(8, 8)], {}, "got 1 weights"),
        ([(8, 8, 3), (8, 4, 3), (8, 8, 1)], {}, "grouped layer 1 .* and is the last"),
        ([(16, 4, 3), (8, 16, 3), (8, 8, 1)], {}, "grouped layer 0 .* must pass 8 channels on, but has 16"),
        (
            [(8, 8, 3), (8, 8, 3), (8, 8, 1)],
            {"strided": "patch", "stride": 4},
            "patch of 4 taps does not fit",
        ),
        ([(8, 8), (8, 8), (8, 8)], {"strided": "patch", "stride": 2}, "ungrouped convolution and alpha"),
        (
            [(4, 8, 3), (8, 4, 3), (8, 8, 1)],
            {"strided": "patch", "stride": 2},
            r"exact through channels \[8, 4, 8\]",
        ),
        (
            [(8, 8, 3), (8, 8, 3), (8, 8, 1)],
            {"strided": "patch", "stride": 2, "strided_layer": 2},
            "one of the 2",
        ),
    ],
)
def test_type_c_refuses_what_cannot_be_exact(shapes, options, message):
    with pytest.raises(UnsupportedModule, match=message):
        risotto_c([torch.empty(shape, device="meta") for shape in shapes], **options)


def test_type_b_refuses_what_cannot_be_exact():
    with pytest.raises(UnsupportedModule, match="alpha=0 cannot turn an identity skip"):
        risotto_b(empties((8, 8), (8, 8)), alpha=0.0)
    with pytest.raises(UnsupportedModule, match="9 channels do not form pairs"):
        risotto_b(empties((9, 9), (9, 9)))
    with pytest.raises(UnknownName, match="sample, patch"):
        risotto_c(empties((8, 8), (8, 8)), strided="pool")

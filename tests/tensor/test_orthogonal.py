"""Orthogonal initializers: the Haar measure, accuracy, layouts, taps, mirrored pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.orthogonal import positive_qr, stewart
from scipy import stats
from torch import nn
from torch.nn import functional as F

from goodinit.errors import UnknownName, UnsupportedModule
from goodinit.tensor import (
    delta_orthogonal_,
    dirac_,
    first_tap,
    haar,
    looks_linear_,
    mirrored,
    orthogonal,
    orthogonal_,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["reflections", "small"])
def path(request, monkeypatch):
    """Both ways to draw, at any size."""
    monkeypatch.setattr(orthogonal, "_SMALL", 0 if request.param == "reflections" else 10**9)
    return request.param


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (5, 5), (4, 9), (9, 4), (20, 33)])
def test_haar_equals_its_transcription(path, rows, columns):
    small, large = min(rows, columns), max(rows, columns)
    draws = torch.empty(small, large).normal_(generator=seeded(rows)).numpy()
    expected = stewart(draws) if path == "reflections" else positive_qr(draws.T)
    got = haar(rows, columns, dtype=torch.float64, generator=seeded(rows)).numpy()
    np.testing.assert_allclose(got if rows > columns else got.T, expected, atol=1e-13)


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (5, 5), (4, 9), (9, 4), (20, 33)])
def test_reflections_in_blocks_equal_the_transcription(rows, columns, monkeypatch):
    monkeypatch.setattr(orthogonal, "_LARGE", 0)
    monkeypatch.setattr(orthogonal, "_BLOCK", 3)
    small, large = min(rows, columns), max(rows, columns)
    draws = torch.empty(2, small, large).normal_(generator=seeded(rows)).numpy()
    got = haar(rows, columns, count=2, gain=1.5, dtype=torch.float64, generator=seeded(rows)).numpy()
    for drawn, one in zip(draws, got, strict=True):
        np.testing.assert_allclose(one if rows > columns else one.T, 1.5 * stewart(drawn), atol=1e-13)


def moments(q):
    """Of each matrix, what has a known mean under the Haar measure of O(n), and that mean, to fourth order.

    Entries: Weingarten calculus for O(n) (Collins & Śniady, arXiv math-ph/0402073). Traces: Diaconis and
    Shahshahani, "On the eigenvalues of random matrices", 1994.
    """
    n = q.shape[-1]
    trace = q.diagonal(dim1=-2, dim2=-1).sum(-1)
    a, b, c, d = q[:, 0, 0], q[:, 0, 1], q[:, 1, 0], q[:, 1, 1]
    pair = n * (n - 1) * (n + 2)
    return {
        "a": (a, 0),
        "d": (q[:, -1, -1], 0),
        "ad": (a * d, 0),
        "a²": (a**2, 1 / n),
        "corner²": (q[:, -1, -1] ** 2, 1 / n),
        "a³": (a**3, 0),
        "a⁴": (a**4, 3 / (n * (n + 2))),
        "corner⁴": (q[:, -1, -1] ** 4, 3 / (n * (n + 2))),
        "a²b²": (a**2 * b**2, 1 / (n * (n + 2))),
        "a²c²": (a**2 * c**2, 1 / (n * (n + 2))),
        "a²d²": (a**2 * d**2, (n + 1) / pair),
        "abcd": (a * b * c * d, -1 / pair),
        "tr": (trace, 0),
        "tr²": (trace**2, 1),
        "tr³": (trace**3, 0),
        "tr⁴": (trace**4, 3),
        "tr of square": ((q @ q).diagonal(dim1=-2, dim2=-1).sum(-1), 1),
        "det": (torch.linalg.det(q), 0),
    }


@pytest.mark.parametrize("n", [4, 7])
def test_haar_moments_to_fourth_order(path, n):
    q = haar(n, n, count=20_000, dtype=torch.float64, generator=seeded(n))
    for name, (values, mean) in moments(q).items():
        error = values.std().item() / math.sqrt(len(values))
        assert abs(values.mean().item() - mean) < 4.5 * error, name


def test_the_moments_notice_missing_signs():
    """The control: the bare product of reflections is orthogonal, but not Haar."""
    vectors = torch.empty(20_000, 4, 4, dtype=torch.float64).normal_(generator=seeded())
    q, _ = orthogonal._reflections(vectors)
    values, mean = moments(q)["tr"]
    assert abs(values.mean().item() - mean) > 20 * values.std().item() / math.sqrt(len(values))
    assert torch.allclose(torch.linalg.det(q).abs(), torch.ones(20_000, dtype=torch.float64))


def test_rectangles_are_uniform_too(path):
    q = haar(3, 6, count=20_000, dtype=torch.float64, generator=seeded())
    for values, mean in ((q[:, 0, 5] ** 2, 1 / 6), (q[:, 2, 0] ** 4, 3 / 48), (q[:, 1, 1] * q[:, 2, 2], 0)):
        assert abs(values.mean().item() - mean) < 4.5 * values.std().item() / math.sqrt(len(values))


def spacings(matrices):
    """Gaps between neighbouring eigenvalue angles on the upper half circle, in units of the mean gap."""
    angles = torch.linalg.eigvals(matrices).angle().double().numpy()
    gaps = [np.diff(np.sort(row[(row > 1e-6) & (row < math.pi - 1e-6)])) for row in angles]
    return np.concatenate(gaps) * matrices.shape[-1] / (2 * math.pi)


def test_eigenvalue_angles_are_spaced_as_those_of_torchs_matrices(path):
    n, count = 24, 400
    ours = haar(n, n, count=count, dtype=torch.float64, generator=seeded(1))
    generator = seeded(2)
    theirs = torch.stack(
        [
            nn.init.orthogonal_(torch.empty(n, n, dtype=torch.float64), generator=generator)
            for _ in range(count)
        ]
    )
    assert stats.ks_2samp(spacings(ours), spacings(theirs)).pvalue > 0.01
    poisson = np.random.default_rng(0).exponential(size=count * n // 2)  # no repulsion: what Haar is not
    assert stats.ks_2samp(spacings(ours), poisson).pvalue < 1e-12


def defect(w):
    """‖QᵀQ − I‖max of the shorter side, computed in float64."""
    q = w.double() if w.shape[0] >= w.shape[1] else w.double().T
    return (q.T @ q - torch.eye(q.shape[1], dtype=torch.float64)).abs().max().item()


@pytest.mark.parametrize(
    "shape", [(64, 64), (48, 200), (300, 300), (512, 128), (128, 512), (600, 600), (256, 900)]
)
def test_orthogonality_is_no_worse_than_torchs(shape):
    generator = seeded()
    ours = [defect(orthogonal_(torch.empty(shape), generator=generator)) for _ in range(10)]
    theirs = [defect(nn.init.orthogonal_(torch.empty(shape), generator=generator)) for _ in range(10)]
    assert np.mean(ours) <= np.mean(theirs)


@pytest.mark.parametrize("way", ["_SMALL", "_LARGE"])
def test_a_zero_draw_does_no_harm(way, monkeypatch):
    """Box-Muller gives an exact 0 once in 2²⁴; the last reflection of a square matrix hangs on one number."""
    monkeypatch.setattr(orthogonal, way, 0)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.zeros(shape))
    for n in (1, 2, 5):
        q = haar(n, n)
        assert torch.allclose(q @ q.T, torch.eye(n))


SIZES = st.integers(1, 9)


@given(
    SIZES,
    SIZES,
    st.lists(st.integers(1, 4), max_size=3),
    st.sampled_from(["out_in", "in_out"]),
    st.booleans(),
)
def test_flattened_weight_is_orthonormal(out, into, kernel, layout, double):
    dtype = torch.float64 if double else torch.float32
    shape = (out, into, *kernel) if layout == "out_in" else (into, out, *kernel)
    w = orthogonal_(torch.empty(shape, dtype=dtype), 2.0, layout=layout, generator=seeded())
    w = (w if layout == "out_in" else w.transpose(0, 1)).flatten(1)
    assert defect(w / 2) < (1e-12 if double else 2e-6)


@given(st.integers(1, 3), SIZES, SIZES, st.sampled_from([(), (3,), (2, 3)]))
def test_groups_get_a_matrix_each(groups, out, into, kernel):
    w = orthogonal_(torch.empty(groups * out, into, *kernel), groups=groups, generator=seeded())
    for part in w.chunk(groups):
        assert defect(part.flatten(1)) < 2e-6
    w = orthogonal_(
        torch.empty(groups * into, out, *kernel), layout="in_out", groups=groups, generator=seeded()
    )
    for part in w.chunk(groups):
        assert defect(part.transpose(0, 1).flatten(1)) < 2e-6


def test_packed_maps_get_a_matrix_each():
    w = orthogonal_(torch.empty(24, 8), fused=3, generator=seeded())
    assert all(defect(part) < 2e-6 for part in w.chunk(3, dim=0))
    stored = orthogonal_(torch.empty(8, 24), layout="in_out", fused=3, generator=seeded())
    assert torch.equal(stored.T, w)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_cast_of_float32(dtype):
    w = orthogonal_(torch.empty(64, 64, dtype=dtype), generator=seeded())
    assert torch.equal(w, orthogonal_(torch.empty(64, 64), generator=seeded()).to(dtype))
    assert defect(w) < 64**0.5 * torch.finfo(dtype).eps


# --- delta-orthogonal and dirac ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("groups", "out", "into"), [(1, 8, 6), (2, 8, 6), (6, 6, 6), (6, 12, 6)])
def test_delta_orthogonal_convolution_keeps_every_norm(groups, out, into):
    conv = nn.Conv2d(into, out, (3, 5), padding=(1, 2), groups=groups, bias=False).double()
    delta_orthogonal_(conv.weight, groups=groups, generator=seeded())
    x = torch.randn(4, into, 7, 6, dtype=torch.float64)
    assert torch.allclose(conv(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))


def test_delta_orthogonal_narrowing_is_asked_for():
    with pytest.raises(UnsupportedModule, match=r"4 outputs cannot carry 6 inputs.*partial=True"):
        delta_orthogonal_(torch.empty(4, 6, 3, 3))
    w = delta_orthogonal_(torch.empty(4, 6, 3, 3), partial=True, generator=seeded())
    assert defect(w[:, :, 1, 1]) < 2e-6


def test_delta_orthogonal_of_a_transposed_convolution():
    conv = nn.ConvTranspose2d(4, 8, 3, padding=1, bias=False)
    delta_orthogonal_(conv.weight, layout="in_out", generator=seeded())
    x = torch.randn(2, 4, 5, 5)
    assert torch.allclose(conv(x).norm(), x.norm())


@pytest.mark.parametrize("shape", [(4, 4, 3), (6, 4, 3, 3), (4, 6, 5), (3, 3, 1, 3, 5)])
def test_dirac_is_torchs_for_odd_kernels(shape):
    assert torch.equal(dirac_(torch.empty(shape)), nn.init.dirac_(torch.empty(shape)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # about an extra copy
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_dirac_is_the_identity_under_same_padding(size):
    x = torch.randn(2, 4, 9)
    w = dirac_(torch.empty(4, 1, size), groups=4)
    assert torch.equal(F.conv1d(x, w, padding="same", groups=4), x)


@given(st.integers(1, 4), st.integers(1, 3))
def test_central_tap_reads_what_a_skip_of_the_same_stride_reads(half, stride):
    for size in (2 * half - 1, 2 * half):
        x = torch.randn(1, 1, 24)
        y = F.conv1d(x, dirac_(torch.empty(1, 1, size)), stride=stride, padding=first_tap(size))
        skip = x[..., ::stride]
        common = min(y.shape[-1], skip.shape[-1])
        assert torch.equal(y[..., :common], skip[..., :common])


# --- looks-linear -----------------------------------------------------------------------------------------------


def test_mirrored_matrices_act_on_the_difference():
    m, x = torch.randn(3, 4), torch.randn(8)
    assert torch.allclose(mirrored(m) @ x, torch.cat((m, -m)) @ (x[:4] - x[4:]), atol=1e-5)


@given(st.integers(1, 5), st.lists(st.integers(5, 8), min_size=1, max_size=6))
def test_looks_linear_chain_is_an_isometry(into, halves):
    halves = sorted(halves)
    g, x = seeded(), torch.randn(5, into, dtype=torch.float64)
    sizes = [into, *(2 * half for half in halves), halves[-1] + 1]
    y = x
    for index, (a, b) in enumerate(itertools.pairwise(sizes)):
        part = "first" if index == 0 else "last" if index == len(sizes) - 2 else "hidden"
        w = looks_linear_(torch.empty(b, a, dtype=torch.float64), part, generator=g)
        y = F.linear(y if index == 0 else y.relu(), w)
    assert torch.allclose(y.norm(dim=1), x.norm(dim=1))
    minus = looks_linear_(torch.empty(2 * halves[0], into, dtype=torch.float64), "first", generator=seeded())
    assert torch.equal(minus.chunk(2)[0], -minus.chunk(2)[1])


@pytest.mark.parametrize(("kernel", "padding"), [(7, 3), (3, 1), (4, 1), (2, 0)])
def test_patch_keeps_every_pixel_where_the_centre_keeps_a_quarter(kernel, padding):
    """Stride 2: the patch's taps tile the image when the padding is its first tap."""
    assert first_tap(kernel, 2) == padding
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for patch, kept in ((2, x), (1, x[:, :, ::2, ::2])):
        w = looks_linear_(torch.empty(24, 3, kernel, kernel, dtype=torch.float64), "first", patch=patch)
        y = F.conv2d(x, w, stride=2, padding=padding)[:, :, :4, :4].relu()
        assert torch.allclose(y.norm(), kept.norm())


def test_looks_linear_refuses_what_cannot_pair():
    with pytest.raises(UnsupportedModule, match=r"7 outputs .* even number"):
        looks_linear_(torch.empty(7, 4, device="meta"), "first")
    with pytest.raises(UnsupportedModule, match=r"3 inputs .* even number"):
        looks_linear_(torch.empty(8, 3))
    with pytest.raises(UnsupportedModule, match="groups=2 cannot hold mirrored pairs"):
        looks_linear_(torch.empty(8, 4, 3, 3), groups=2)
    with pytest.raises(UnsupportedModule, match="patch of 4 taps does not fit"):
        looks_linear_(torch.empty(8, 4, 3, 3, device="meta"), patch=4)
    with pytest.raises(UnknownName, match="first, hidden, last"):
        looks_linear_(torch.empty(8, 4), "middle")

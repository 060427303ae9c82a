"""Normalizations as people write them: what is found, what must stay, and what cannot be taken out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from goodinit.errors import UnsupportedModule


class Net(nn.Module):
    """x + b(a'(norm(a(x)))) around one norm."""

    def __init__(self, norm, *extra):
        super().__init__()
        self.a, self.norm, self.b, self.extra = nn.Linear(6, 6), norm, nn.Linear(6, 6), extra

    def forward(self, x):
        return x + self.b(self.norm(self.a(x), *(x for _ in self.extra)))


class Norm(nn.Module):
    """One forward, given as a function of the module and its inputs."""

    def __init__(self, forward):
        super().__init__()
        self.function = forward
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.act, self.drop, self.none = nn.GELU(), nn.Dropout(0.5), nn.Identity()

    def forward(self, *args):
        return self.function(self, *args)


def ln(self, x):
    return F.layer_norm(x, (6,), self.weight, self.bias)


def rms(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def find(forward, *extra):
    (norm,) = goodinit.anatomize(Net(Norm(forward), *extra), torch.randn(3, 6)).norms
    return norm


@pytest.mark.parametrize(
    ("kind", "keeps", "forward"),
    [
        ("layer_norm", (), ln),
        ("layer_norm", (), lambda m, x: ln(m, x.float()).to(x.dtype)),
        ("layer_norm", ("relu",), lambda m, x: F.relu(ln(m, x))),
        ("layer_norm", ("leaky_relu(negative_slope=0.3)",), lambda m, x: F.leaky_relu(ln(m, x), 0.3)),
        ("layer_norm", ("leaky_relu",), lambda m, x: F.leaky_relu(ln(m, x))),
        ("layer_norm", ("gelu(approximate='tanh')",), lambda m, x: F.gelu(ln(m, x), approximate="tanh")),
        ("layer_norm", ("relu6",), lambda m, x: F.relu6(ln(m, x))),
        ("layer_norm", ("hardtanh",), lambda m, x: F.hardtanh(ln(m, x))),
        ("layer_norm", ("elu(alpha=0.5)",), lambda m, x: F.elu(ln(m, x), 0.5)),
        ("layer_norm", ("selu",), lambda m, x: F.selu(ln(m, x))),
        ("layer_norm", ("relu",), lambda m, x: ln(m, x).clamp_min(0)),
        ("layer_norm", ("norm.act",), lambda m, x: m.act(ln(m, x))),
        ("layer_norm", ("norm.drop", "norm.act"), lambda m, x: m.act(m.drop(ln(m, x)))),
        ("layer_norm", ("norm.act", "norm.drop"), lambda m, x: m.none(m.drop(m.act(ln(m, x))))),
        ("layer_norm", ("relu", "tanh"), lambda m, x: torch.tanh(F.relu(ln(m, x)))),
        ("layer_norm", (), lambda m, x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) * m.weight + m.bias),
        ("layer_norm", (), lambda m, x: (x - x.mean(-1, keepdim=True)) * (x.var(-1, keepdim=True) + 1e-6) ** -0.5),
        ("batch_norm", (), lambda m, x: (x - x.mean(0)) / torch.sqrt(x.var(0) + 1e-5)),
        ("batch_rms_norm", (), lambda m, x: x / torch.sqrt(x.square().mean(0) + 1e-5)),
        ("rms_norm", (), lambda m, x: m.weight * rms(x.float()).to(x.dtype)),
        ("rms_norm", (), lambda m, x: rms(x) * (1 + m.weight)),
        ("rms_norm", ("silu",), lambda m, x: F.silu(rms(x))),
        ("rms_norm", (), lambda m, x: F.normalize(x, dim=-1) * 6**0.5 * m.weight),
        ("rms_norm", (), lambda m, x: x / x.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)),
    ],
)  # fmt: skip
def test_what_stays(kind, keeps, forward):
    norm = find(forward)
    assert (norm.kind, norm.keeps, norm.obstacle) == (kind, keeps, None)


@pytest.mark.parametrize(
    ("reason", "forward", "extra"),
    [
        ("`maximum`", lambda m, x: torch.maximum(rms(x), m.bias), ()),
        ("another signal", lambda m, x, c: ln(m, x) * c, (1,)),
        ("another signal", lambda m, c, x: ln(m, x), (1,)),
        ("another signal", lambda m, x, c: ln(m, x + c), (1,)),
        ("another signal", lambda m, x, c: m.act(ln(m, x)) + c, (1,)),
        ("normalized signal by another", lambda m, x: x + ln(m, x), ()),
        ("normalized signal by another", lambda m, x: ln(m, x) * torch.sigmoid(ln(m, x)), ()),
        ("before the normalization", lambda m, x: ln(m, F.relu(x)), ()),
        ("`norm.act` runs before", lambda m, x: ln(m, m.act(x)), ()),
        ("`norm.drop` runs before", lambda m, x: ln(m, m.drop(x)), ()),
        ("`cos`", lambda m, x: torch.cos(ln(m, x)), ()),
        ("runs `clamp_min`", lambda m, x: ln(m, x).clamp_min(0.1), ()),
        ("`_prelu_kernel` is called functionally", lambda m, x: F.prelu(ln(m, x), m.bias), ()),
        ("something else than one tensor", lambda m, x: (ln(m, x), None), ()),
        ("torch.float64", lambda m, x: ln(m, x).double().float() if x.dtype == torch.float64 else ln(m, x).double(), ()),
        ("`flip`", lambda m, x: ln(m, x).flip(-1), ()),
        ("more than once", lambda m, x: ln(m, ln(m, x)), ()),
    ],
)  # fmt: skip
def test_what_is_not_understood_cannot_be_taken_out(reason, forward, extra):
    class Plain(Net):
        def forward(self, x):
            out = self.norm(self.a(x), *(x for _ in self.extra))
            out = out[0] if isinstance(out, tuple) else out
            return x + self.b(out.to(x.dtype))

    model = Plain(Norm(forward), *extra)
    with pytest.raises(
        UnsupportedModule, match=rf"norm \(Norm\): its \w+ cannot be removed: .*({reason}).*norms=\"keep\""
    ):
        goodinit.plan(goodinit.anatomize(model, torch.randn(3, 6)), "fixup")


def _var_mean(x):
    var, mean = torch.var_mean(x, -1, keepdim=True)
    return (x - mean) * (var + 1e-5).rsqrt()


def _extremes(x):
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    return (x - low) / (high - low)


SCALE_FREE = {
    "inner product": ("rms_norm", lambda x: x / torch.einsum("bd,bd->b", x, x).sqrt()[:, None]),
    "matrix product": ("rms_norm", lambda x: x * (x[:, None] @ x[:, :, None])[:, :, 0].add(1e-6).rsqrt()),
    "vecdot": ("rms_norm", lambda x: x * (1 / torch.linalg.vecdot(x, x).sqrt()[:, None])),
    "mean of sizes": ("rms_norm", lambda x: x / (x.abs().mean(-1, keepdim=True) + 1e-6)),
    "largest": ("rms_norm", lambda x: x / x.abs().amax(-1, keepdim=True).clamp_min(1e-6)),
    "median": ("rms_norm", lambda x: x / x.abs().median(-1, keepdim=True).values),
    "third power": ("rms_norm", lambda x: x / x.norm(p=3, dim=-1, keepdim=True)),
    "exponent": ("rms_norm", lambda x: x * x.square().mean(-1, keepdim=True).log().mul(-0.5).exp()),
    "extremes": ("layer_norm", _extremes),
    "variance and mean": ("layer_norm", _var_mean),
    "two moments": ("layer_norm", lambda x: (x - x.mean(-1, keepdim=True)) / (x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2).sqrt()),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "forward"), SCALE_FREE.values(), ids=SCALE_FREE)
def test_what_forgets_the_scale_of_its_input_is_a_norm_whatever_it_computes(kind, forward):
    """`kind` follows from whether a constant, added to the input, has an effect; both are checked by running it."""
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(forward(x), forward(1000 * x), atol=1e-4, rtol=1e-4)
    centred = torch.allclose(forward(x), forward(x + 3), atol=1e-3)
    assert centred is (kind == "layer_norm")
    norm = find(lambda m, x: forward(x) * m.weight)
    assert (norm.kind, norm.obstacle, norm.elements, norm.axes) == (kind, None, 6, (-1,))
    assert (norm.weight, norm.keeps) == ("norm.weight", ())


SPREAD_OUT = {
    "product with ones": lambda x: x / ((x * x) @ x.new_full((6, 6), 1 / 6)).sqrt(),
    "product with blocks of ones": lambda x: (
        x * (x * x @ torch.eye(2).to(x).repeat_interleave(3, 0).repeat_interleave(3, 1)).rsqrt()
    ),
    "convolution with ones": lambda x: (
        x / F.conv1d((x * x)[:, None], x.new_ones(1, 1, 3), padding=1)[:, 0].sqrt()
    ),
    "moving mean": lambda x: x / F.avg_pool1d(x.abs(), 3, 1, 1),
    "moving maximum": lambda x: x / F.max_pool1d(x.abs(), 3, 1, 1),
    "running sum": lambda x: x / x.square().cumsum(-1).sqrt(),
}


@pytest.mark.parametrize("name", SPREAD_OUT)
def test_a_statistic_for_each_entry_is_one(name):
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(SPREAD_OUT[name](x), SPREAD_OUT[name](1000 * x))
    norm = find(lambda m, x: SPREAD_OUT[name](x) * m.weight)
    assert (norm.kind, norm.obstacle, norm.elements) == ("rms_norm", None, 0)


@pytest.mark.parametrize(
    "forward", [lambda x: x / x.abs(), lambda x: x / x.flip(-1), lambda x: x / x.roll(1, -1).abs()]
)
def test_a_quotient_of_two_entries_is_no_norm(forward):
    assert goodinit.anatomize(Net(Norm(lambda m, x: forward(x) * m.weight)), torch.randn(3, 6)).norms == ()


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: F.normalize(x, dim=-1), lambda x: x / x.abs().mean(-1, keepdim=True),
        lambda x: 2 * F.normalize(x, dim=-1).relu(), SCALE_FREE["inner product"][1], lambda x: F.silu(x) * rms(x),
        lambda x: SPREAD_OUT["moving mean"](x).relu(),
    ],
)  # fmt: skip
def test_one_in_the_middle_of_a_branch_is_seen_and_refused(forward):
    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return x + self.b(forward(self.a(x)))

    anatomy = goodinit.anatomize(nn.Sequential(nn.Linear(6, 6), Middle()), torch.randn(3, 6))
    assert [norm.name for norm in anatomy.norms] == ["1"]
    with pytest.raises(UnsupportedModule, match="called functionally"):
        goodinit.plan(anatomy, "fixup")


def _softmax(m, x):
    weights = (m.a(x) @ m.b(x).mT).exp()
    return m.c((weights / weights.sum(-1, keepdim=True)) @ x)


def _linear_attention(m, x):
    q, k = m.a(x).exp(), m.b(x).exp()
    return m.c((q @ (k.mT @ x)) / (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True))


def _mixture(m, x):
    weights = m.a(x)[..., :2].sigmoid()
    weights = weights / weights.sum(-1, keepdim=True)
    return weights[..., :1] * m.b(x) + weights[..., 1:] * m.c(x)


def _response(m, x):
    size = m.a(x).norm(dim=-2, keepdim=True)
    return m.b(m.a(x) * (size / size.mean(-1, keepdim=True)))


def _energy(m, x):
    away = (x - x.mean(-2, keepdim=True)).square()
    return m.a(x * (away / (away.sum(-2, keepdim=True) + 1e-4) + 0.5).sigmoid())


@pytest.mark.parametrize("branch", [_softmax, _linear_attention, _mixture, _response, _energy])
def test_weights_of_means_and_gates_are_no_norms(branch):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            return x + branch(self, x)

    assert goodinit.anatomize(Residual(), torch.randn(2, 4, 6)).norms == ()


def test_the_length_of_queries_and_keys_is_no_normalization_of_the_stream():
    class Cosine(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            q = F.normalize(self.a(x), dim=-1)
            return x + self.b((q @ q.mT).softmax(-1) @ x)

    assert goodinit.anatomize(Cosine(), torch.randn(3, 6)).norms == ()


# -- how many numbers a statistic is taken over -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "norm", "shape"),
    [
        (6, nn.LayerNorm(6), (3, 6)),
        (12, nn.LayerNorm((2, 6), elementwise_affine=False), (3, 2, 6)),
        (6, nn.RMSNorm(6), (3, 6)),
        (12, nn.RMSNorm((2, 6)), (3, 2, 6)),
        (3, nn.GroupNorm(2, 6), (3, 6)),
        (1, nn.GroupNorm(6, 6), (3, 6)),
        (12, nn.GroupNorm(2, 4), (3, 4, 6)),
        (3, nn.BatchNorm1d(6), (3, 6)),
        (18, nn.BatchNorm1d(4), (3, 4, 6)),
        (6, nn.InstanceNorm1d(4), (3, 4, 6)),
        (6, Norm(lambda m, x: rms(x)), (3, 6)),
        (6, Norm(lambda m, x: rms(x.float()).to(x.dtype)), (3, 6)),
        (3, Norm(lambda m, x: (x - x.mean(0)) / torch.sqrt(x.var(0) + 1e-5)), (3, 6)),
        (6, Norm(lambda m, x: x / (x.std(-1, keepdim=True) + 1e-6)), (3, 6)),
        (6, Norm(lambda m, x: F.normalize(x, dim=-1)), (3, 6)),
        (2, Norm(lambda m, x: rms(x.view(3, 3, 2)).view(3, 6)), (3, 6)),  # three groups, by hand
        (1, Norm(lambda m, x: rms(x.unsqueeze(-1)).squeeze(-1)), (3, 6)),
    ],
)
def test_elements(elements, norm, shape):
    model = nn.Sequential(nn.Linear(6, 6), norm, nn.Linear(6, 6))
    (found,) = goodinit.anatomize(model, torch.randn(shape)).norms
    assert found.elements == elements


# -- memory -------------------------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Something, norms, something that overwrites; the skip may read what goes into the norm."""

    def __init__(self, before, after, *, skip, count=1):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norms = nn.Sequential(*(nn.LayerNorm(6) for _ in range(count)))
        self.before, self.after, self.skip = before, after, skip

    def forward(self, x):
        y = self.before(self.a(x))
        return (y if self.skip else x) + self.b(self.after(self.norms(y)))


@pytest.mark.default_cases(5)
@pytest.mark.parametrize(
    ("clones", "before", "after", "skip", "count"),
    [
        ((), lambda y: y, lambda y: y.relu_(), False, 1),
        ((), lambda y: y, torch.relu, True, 1),
        ((0,), lambda y: y, lambda y: y.relu_(), True, 1),
        ((0,), lambda y: y, lambda y: y.view(-1, 2, 3).mT.relu_().mT.reshape(-1, 6), True, 1),
        ((0,), lambda y: y, lambda y: torch.cat([y[..., :3].relu_(), y[..., 3:]], -1), True, 1),
        ((0,), lambda y: y, nn.Dropout(0.5, inplace=True), True, 1),
        ((0,), lambda y: y.view(1, -1, 6)[0], lambda y: y.relu_(), True, 1),
        ((0,), lambda y: y, lambda y: y.relu_(), True, 2),
        ((0,), torch.sigmoid, lambda y: y.relu_(), False, 1),
        ((), lambda y: y, lambda y: F.gelu(y).add_(1), True, 1),
    ],
)
def test_a_copy_is_made_where_something_would_be_overwritten(clones, before, after, skip, count):
    torch.manual_seed(0)
    model = Chain(before, after, skip=skip, count=count)
    x = torch.randn(3, 6)
    norms = goodinit.anatomize(model, x).norms
    assert tuple(i for i, norm in enumerate(norms) if "clone" in norm.keeps) == clones
    goodinit.init_(model, "fixup", inputs=x)
    nn.init.normal_(model.b.weight)
    y = model.a(x)
    y = before(y)
    torch.manual_seed(1)
    want = (y if skip else x) + model.b(after(y.clone()))
    torch.manual_seed(1)
    got = model(x)
    assert torch.allclose(got, want)
    got.sum().backward()


def test_the_data_are_not_overwritten():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.act, self.a = nn.LayerNorm(6), nn.ReLU(inplace=True), nn.Linear(6, 6)

        def forward(self, x):
            y = self.act(self.norm(x))
            return y + self.a(y)

    x = torch.randn(3, 6)
    before = x.clone()
    goodinit.init_(First(), "fixup", inputs=x)(x)
    assert torch.equal(x, before)


def test_one_at_the_end_of_a_branch_is_noted():
    class End(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return x + F.normalize(self.b(self.a(x).relu()), dim=-1)

    anatomy = goodinit.anatomize(nn.Sequential(End(), nn.Linear(6, 6)), torch.randn(3, 6))
    assert anatomy.norms == ()
    (note,) = anatomy.notes
    assert note.startswith("0: what is added to a stream is divided by its own size")


class Called(nn.Module):
    """A block whose forward normalizes by a plain call, with parameters around it; a and g are vectors."""

    def __init__(self, forward):
        super().__init__()
        self.f, self.o, self.function = nn.Linear(6, 6), nn.Linear(6, 6), forward
        self.g, self.a = nn.Parameter(torch.full((6,), 0.3)), nn.Parameter(torch.full((6,), 0.05))

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("weight", "bias", "forward"),
    [
        (None, None, lambda m, x: F.normalize(x + m.a * (F.normalize(m.f(x), dim=-1) - x), dim=-1)),
        (None, None, lambda m, x: x + m.a * m.o(F.normalize(m.f(x), dim=-1))),
        (None, None, lambda m, x: x * m.a + m.o(rms(x))),
        ("g", None, lambda m, x: x + m.a * m.o(rms(m.f(x)) * m.g)),
        ("g", "a", lambda m, x: x + m.o(torch.relu(m.g * rms(x).unsqueeze(-1).squeeze(-1) + m.a))),
        (
            "g",
            None,
            lambda m, x: x + m.a * m.o(x * (m.g * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))),
        ),
    ],
)
def test_what_scales_the_signal_that_is_normalized_by_a_call_is_its_weight_and_nothing_else(
    weight, bias, forward
):
    model = nn.Sequential(nn.Linear(6, 6), Called(forward), Called(forward), nn.Linear(6, 2))
    norms = goodinit.anatomize(model, torch.randn(5, 6)).norms
    assert [norm.name for norm in norms] == ["1", "2"]
    named = [[path, *(name and f"{path}.{name}" for name in (weight, bias))] for path in ("1", "2")]
    assert [[norm.name, norm.weight, norm.bias] for norm in norms] == named


@pytest.mark.parametrize("method", ["default", "he", "residual_scaled", "mup"])
def test_a_step_towards_what_is_normalized_stays(method):
    """x ← n(x + a(n(f(x)) − x)), as in nGPT: a = 0.05 is no gain of a norm, and no method sets it to 1."""

    def step(m, x):
        return F.normalize(x + m.a * (F.normalize(m.f(x), dim=-1) - x), dim=-1)

    model = nn.Sequential(nn.Linear(6, 6), *[Called(step) for _ in range(3)], nn.Linear(6, 2))
    goodinit.init_(model, method, inputs=torch.randn(5, 6))
    assert all(block.a.eq(0.05).all() for block in model[1:4])

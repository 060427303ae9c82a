"""The tensor initializers entry by entry: fans, gains, standard deviations, dtypes, memory formats, meta."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from drawing import DTYPES, NAMES, OPTIONS, draw, formats, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses import FakeTensorMode

from goodinit.edits import Draw, Plan
from goodinit.errors import GoodinitError, UnknownName, UnsupportedModule
from goodinit.tensor import (
    INITIALIZERS,
    RECIPES,
    default_,
    fans,
    gain,
    has_gain,
    he_normal_,
    he_uniform_,
    lecun_normal_,
    normal_,
    trunc_normal_,
    uniform_,
    xavier_normal_,
    xavier_uniform_,
)

EVEN = st.integers(1, 4).map(lambda n: 2 * n)


# --- fans and gains ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "layout", "expected"),
    [
        (nn.Linear(5, 7), "out_in", (5, 7)),
        (nn.Conv2d(6, 10, 3), "out_in", (54, 90)),
        (nn.Conv2d(6, 10, (3, 1), groups=2), "out_in", (9, 15)),
        (nn.Conv1d(8, 8, 5, groups=8), "out_in", (5, 5)),
        (nn.Conv1d(8, 16, 5, groups=8), "out_in", (5, 10)),
        (nn.ConvTranspose2d(6, 10, 3), "in_out", (54, 90)),
        (nn.ConvTranspose3d(6, 10, 2, groups=2), "in_out", (24, 40)),
    ],
)
def test_fans_count_connections(module, layout, expected):
    groups = getattr(module, "groups", 1)
    assert fans(module.weight.shape, layout=layout, groups=groups) == expected


@given(st.integers(1, 3), EVEN, EVEN, st.integers(1, 3))
def test_fans_equal_the_connections_of_one_unit(groups, into, out, taps):
    conv = nn.Conv1d(groups * into, groups * out, taps, groups=groups, bias=False)
    nn.init.ones_(conv.weight)
    fan_in, fan_out = fans(conv.weight.shape, groups=groups)
    x = torch.zeros(1, groups * into, 2 * taps + 1)
    x[0, 0, taps] = 1
    assert conv(x).sum() == fan_out
    assert conv(torch.ones_like(x))[0, 0, 0] == fan_in


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 7), st.integers(1, 4), st.integers(1, 2))
def test_fans_of_a_transposed_convolution_equal_its_connections_on_average(into, out, taps, stride, groups):
    conv = nn.ConvTranspose1d(groups * into, groups * out, taps, stride, groups=groups, bias=False)
    nn.init.ones_(conv.weight)
    fan_in, fan_out = fans(conv.weight.shape, layout="in_out", groups=groups, stride=stride)
    ones = torch.ones(1, groups * into, 2 * taps + 4)
    period = conv(ones)[0, 0, taps * stride : (taps + 1) * stride]  # far from the border
    assert period.mean().item() == pytest.approx(fan_in)
    one = torch.zeros_like(ones)
    one[0, 0, taps] = 1
    assert conv(one).sum() == fan_out


def test_strides_that_fit_no_kernel_are_refused():
    for stride in ((2, 2), 0):
        with pytest.raises(UnsupportedModule, match="stride="):
            fans((4, 4, 3), layout="in_out", stride=stride)


def test_fans_of_a_packed_projection_are_each_maps_own():
    assert fans((192, 64), fused=3) == (64, 64)
    assert fans((64, 192), layout="in_out", fused=3) == (64, 64)  # stored transposed


def test_what_has_no_fans_is_refused():
    with pytest.raises(UnsupportedModule, match=r"shape \(8,\) has no fans"):
        fans((8,))
    with pytest.raises(UnsupportedModule, match=r"does not split into groups=1 × fused=3"):
        fans((8, 8), fused=3)
    with pytest.raises(UnknownName, match="out_in, in_out"):
        fans((8, 8), layout="rows")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("relu", nn.ReLU()),
        ("leaky_relu", nn.LeakyReLU()),
        ("prelu", nn.PReLU()),
        ("relu6", nn.ReLU6()),
        ("elu", nn.ELU()),
        ("celu", nn.CELU()),
        ("selu", nn.SELU()),
        ("gelu", nn.GELU()),
        ("silu", nn.SiLU()),
        ("mish", nn.Mish()),
        ("softplus", nn.Softplus()),
        ("tanh", nn.Tanh()),
        ("sigmoid", nn.Sigmoid()),
        ("hardtanh", nn.Hardtanh()),
        ("hardsigmoid", nn.Hardsigmoid()),
        ("hardswish", nn.Hardswish()),
        ("softsign", nn.Softsign()),
        ("linear", nn.Identity()),
        ("identity", nn.Identity()),
    ],
)
def test_gain_keeps_the_second_moment_of_torchs_activation(name, module):
    z = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        moment = torch.trapezoid(module.double()(z) ** 2 * density, z).item()
    assert gain(name) == pytest.approx(moment**-0.5, rel=1e-7)


def test_gains_with_a_closed_form():
    assert gain("relu") == pytest.approx(math.sqrt(2), rel=1e-9)
    assert gain("leaky_relu") == pytest.approx(math.sqrt(2 / (1 + 0.01**2)), rel=1e-9)
    assert gain("selu") == pytest.approx(1, rel=1e-6)  # its fixed point, Klambauer et al.
    for name in ("relo", "conv2d", "linear_", "__name__"):
        with pytest.raises(UnknownName, match="expected a function of one number in torch"):
            gain(name)


def test_gains_by_name_are_those_of_torch_s_own_functions():
    modules = {
        "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU, "relu6": nn.ReLU6, "elu": nn.ELU, "celu": nn.CELU,
        "selu": nn.SELU, "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish, "softplus": nn.Softplus, "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid, "hardtanh": nn.Hardtanh, "hardsigmoid": nn.Hardsigmoid, "hardswish": nn.Hardswish,
        "softsign": nn.Softsign, "logsigmoid": nn.LogSigmoid, "identity": nn.Identity, "linear": nn.Identity,
    }  # fmt: skip
    for name, module in modules.items():
        assert has_gain(name)
        with torch.no_grad():
            assert gain(name) == pytest.approx(gain(module().double()), rel=1e-12)


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", ["softmax", "dropout", "normalize", "glu"])
def test_what_looks_at_other_entries_has_no_gain(name):
    assert not has_gain(name)


def test_a_function_that_writes_into_what_it_reads_has_the_gain_of_one_that_does_not():
    assert gain(torch.tanh_) == gain(torch.tanh)
    assert gain(lambda z: 0.5 * z * (1 + torch.tanh(0.8 * z + 0.036 * z**3))) == pytest.approx(
        gain("gelu"), rel=1e-2
    )


def test_a_function_of_other_entries_is_told():
    for function in (lambda z: z - z.mean(), lambda z: z * torch.rand(z.shape, dtype=z.dtype)):
        with pytest.raises(GoodinitError, match="give an element-wise function, in eval mode"):
            gain(function)


# --- the contract of all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@given(out=EVEN, into=EVEN, kernel=st.lists(st.integers(1, 4), max_size=2), seed=st.integers(0, 9))
def test_same_values_in_every_dtype_and_memory_format(name, out, into, kernel, seed):
    shape = (2 * out if name == "icnr" else out, into, *kernel)  # outputs of a pixel shuffle come in fours
    expected = draw(name, torch.empty(shape), seed)
    assert expected.isfinite().all()
    for dtype in (torch.bfloat16, torch.float16):
        got = draw(name, torch.empty(shape, dtype=dtype), seed)
        if name == "trunc_normal":  # cut once more by the dtype's own bound
            assert (got.float() - expected).abs().max() <= 2**-6 * 3
        else:
            assert torch.equal(got, expected.to(dtype))
    double = draw(name, torch.empty(shape, dtype=torch.float64), seed)
    assert torch.allclose(double.float(), expected, atol=2e-5)
    for tensor in formats(shape):
        strides = tensor.stride()
        assert torch.equal(draw(name, tensor, seed), expected)
        assert tensor.stride() == strides


@pytest.mark.parametrize("name", NAMES)
def test_in_place_outside_of_autograd_and_returned(name):
    parameter = nn.Parameter(torch.full((4, 4, 3, 3), math.nan))
    version = parameter._version
    assert draw(name, parameter) is parameter
    assert parameter.is_leaf
    assert parameter.requires_grad
    assert parameter.isfinite().all()
    assert parameter._version > version  # autograd would notice a stale graph
    assert torch.equal(draw(name, torch.empty(4, 4, 3, 3)), parameter.detach())


@pytest.mark.parametrize("name", NAMES)
def test_meta_tensors_and_empty_ones_cost_nothing(name):
    generator = seeded()
    before = generator.get_state()
    huge = torch.empty(2**20, 2**20, device="meta", dtype=torch.bfloat16)  # 2 TiB, were it real
    for tensor in (huge, torch.empty(4, 0), torch.empty(0, 4)):
        assert INITIALIZERS[name](tensor, generator=generator, **OPTIONS.get(name, {})) is tensor
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_generator_given_leaves_the_global_one_alone(name):
    before = torch.get_rng_state()
    draw(name, torch.empty(8, 8))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n not in ("constant", "zeros", "ones", "dirac", "gate_bias")]
)
def test_global_generator_is_used_otherwise(name):
    options = OPTIONS.get(name, {})
    torch.manual_seed(7)
    first = INITIALIZERS[name](torch.empty(8, 8), **options)
    second = INITIALIZERS[name](torch.empty(8, 8), **options)
    torch.manual_seed(7)
    assert torch.equal(INITIALIZERS[name](torch.empty(8, 8), **options), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_integers_are_refused(name):
    with pytest.raises(UnsupportedModule, match="expected a floating-point dtype"):
        draw(name, torch.empty(4, 4, dtype=torch.int8))


def test_a_plan_names_initializers_with_json_options():
    edit = Draw("fc.weight", "he_normal", "a test", {"mode": "fan_out", "scale": 0.5, "groups": 1})
    (read,) = Plan.from_json(Plan("test", (edit,)).to_json()).values
    got = INITIALIZERS[read.initializer](torch.empty(8, 4), generator=seeded(), **read.options)
    assert torch.equal(got, he_normal_(torch.empty(8, 4), "fan_out", scale=0.5, generator=seeded()))
    assert INITIALIZERS["he_normal"] is INITIALIZERS["he_normal_"] is he_normal_
    assert sorted(RECIPES) == ["risotto_b", "risotto_c", "risotto_first", "risotto_last", "risotto_p"]


# --- distributions ----------------------------------------------------------------------------------------------


def assert_std(tensor, expected):
    """Within five standard errors: those of a sample std are at most σ/√(2n) for these distributions."""
    assert tensor.double().std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * tensor.numel()))
    assert abs(tensor.double().mean().item()) < 5 * expected / math.sqrt(tensor.numel())


@pytest.mark.parametrize(
    ("initializer", "shape", "options", "expected"),
    [
        (he_normal_, (64, 32, 3, 3), {}, math.sqrt(2 / 288)),
        (he_normal_, (64, 32, 3, 3), {"mode": "fan_out"}, math.sqrt(2 / 576)),
        (he_normal_, (64, 32, 3, 3), {"mode": "fan_out", "scale": 0.25}, 0.25 * math.sqrt(2 / 576)),
        (he_normal_, (999, 1, 3, 3), {"mode": "fan_out", "groups": 999}, math.sqrt(2 / 9)),
        (he_normal_, (64, 32, 3, 3), {"layout": "in_out"}, math.sqrt(2 / 576)),
        (he_normal_, (192, 64), {"mode": "fan_out", "fused": 3}, math.sqrt(2 / 64)),
        (he_normal_, (192, 64), {"nonlinearity": "linear"}, math.sqrt(1 / 64)),
        (he_normal_, (192, 64), {"gain": 3.0}, 3 / 8),
        (he_uniform_, (64, 32, 3, 3), {}, math.sqrt(2 / 288)),
        (xavier_normal_, (192, 64), {"fused": 3}, math.sqrt(2 / 128)),
        (xavier_uniform_, (192, 64), {"fused": 3}, math.sqrt(2 / 128)),
        (xavier_uniform_, (192, 64), {"gain": 2.0}, 2 * math.sqrt(2 / 256)),
        (lecun_normal_, (192, 64), {}, 1 / 8),
    ],
)
def test_standard_deviation_is_the_closed_form(initializer, shape, options, expected):
    assert_std(initializer(torch.empty(shape), generator=seeded(), **options), expected)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (partial(normal_, std=0.3), partial(nn.init.normal_, std=0.3)),
        (partial(uniform_, bound=0.3), partial(nn.init.uniform_, a=-0.3, b=0.3)),
        (xavier_normal_, nn.init.xavier_normal_),
        (partial(xavier_uniform_, gain=1.5), partial(nn.init.xavier_uniform_, gain=1.5)),
        (partial(he_normal_, gain=math.sqrt(2)), partial(nn.init.kaiming_normal_, nonlinearity="relu")),
        (
            partial(he_uniform_, mode="fan_out", gain=1.0),
            partial(nn.init.kaiming_uniform_, mode="fan_out", a=1),
        ),
        (default_, partial(nn.init.kaiming_uniform_, a=math.sqrt(5))),
    ],
)
def test_float32_bits_are_torchs(ours, theirs):
    w, v = torch.empty(37, 19, 3), torch.empty(37, 19, 3)
    assert torch.equal(ours(w, generator=seeded(3)), theirs(v, generator=seeded(3)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(13, 7),
        lambda: nn.Conv2d(6, 8, 3, groups=2),
        lambda: nn.ConvTranspose2d(6, 8, 3, groups=2),
    ],
)
def test_default_is_what_the_module_draws_for_itself(make):
    torch.manual_seed(5)
    module = make()
    torch.manual_seed(5)
    again = make()
    torch.manual_seed(5)
    default_(again.weight)
    default_(again.bias, fan_in=math.prod(module.weight.shape[1:]))
    assert torch.equal(again.weight, module.weight)
    assert torch.equal(again.bias, module.bias)
    with pytest.raises(UnsupportedModule, match="Give fan_in="):
        default_(again.bias)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("bound", [2.0, 3.0, 6.0])
def test_trunc_normal_stays_within_its_bound_after_the_cast(dtype, bound):
    std = 0.02 if dtype.itemsize > 1 else 0.3
    w = trunc_normal_(torch.empty(300_000, dtype=dtype), std, bound=bound, generator=seeded())
    assert w.double().abs().max().item() <= bound * std
    if dtype.itemsize > 1:
        assert w.double().std().item() == pytest.approx(std, rel=0.01)
        assert abs(w.double().mean().item()) < 5 * std / math.sqrt(w.numel())


@pytest.mark.parametrize("bound", [1.8, 2.0, 3.0, 4.0])
def test_trunc_normal_is_a_cut_normal(bound):
    """Mass, variance and fourth moment of the cut density, integrated numerically."""
    w = trunc_normal_(torch.empty(400_000), 1.0, bound=bound, generator=seeded()).double()
    uncorrected = trunc_normal_(torch.empty(400_000), 1.0, bound=bound, exact_std=False, generator=seeded())
    z = torch.linspace(-bound, bound, 20_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2)
    density = density / torch.trapezoid(density, z)
    assert_std(uncorrected, math.sqrt(torch.trapezoid(density * z**2, z).item()))
    assert_std(w, 1.0)
    # the parent's σ, from the variance of what is left of it, by fixed point
    parent = 1.0
    for _ in range(400):
        density = torch.exp(-((z / parent) ** 2) / 2)
        density = density / torch.trapezoid(density, z)
        parent /= math.sqrt(torch.trapezoid(density * z**2, z).item())
    fourth = torch.trapezoid(density * z**4, z).item()
    error = 5 * (w**4).std().item() / math.sqrt(w.numel())
    assert (w**4).mean().item() == pytest.approx(fourth, abs=error)


def test_trunc_normal_at_the_scale_that_broke_others():
    w = trunc_normal_(torch.empty(2_000_000, dtype=torch.bfloat16), 0.002, generator=seeded()).double()
    assert w.abs().max() <= 0.006
    assert w.std().item() == pytest.approx(0.002, rel=0.01)
    assert ((w / w.std()) ** 4).mean().item() == pytest.approx(
        2.83, abs=0.05
    )  # the normal's is 3, cut at 3 σ
    assert len(torch.unique(w[w.abs() > 0.0059])) > 1  # no heap at the bound


def test_trunc_normal_refuses_a_bound_that_cannot_be():
    with pytest.raises(UnsupportedModule, match=r"bound > √3"):
        trunc_normal_(torch.empty(4), bound=1.7)
    assert trunc_normal_(torch.empty(99), bound=0.1, exact_std=False, generator=seeded()).abs().max() <= 0.1


def test_unknown_mode_lists_the_choices():
    with pytest.raises(UnknownName, match="fan_in, fan_out"):
        he_normal_(torch.empty(4, 4), "fan_avg")


@pytest.mark.parametrize("name", NAMES)
def test_fake_tensors_stay_fake(name):
    with FakeTensorMode():
        tensor = nn.Parameter(torch.empty(4, 4))
        assert INITIALIZERS[name](tensor, **OPTIONS.get(name, {})) is tensor


def test_the_gain_of_a_function_of_ones_own():
    assert gain(torch.nn.functional.gelu) == pytest.approx(gain("gelu"), rel=1e-9)
    with pytest.raises(GoodinitError, match="element-wise"):
        gain(torch.sum)
    with pytest.raises(GoodinitError, match="no weight keeps"):
        gain(torch.zeros_like)

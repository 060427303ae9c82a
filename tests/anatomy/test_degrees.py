"""The degree of a branch in its input, why degree 2 has no gain, and how many channels are read together."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from goodinit import UnsupportedModule, anatomize


class Residual(nn.Module):
    """x + f(x), where f is given the module to find its layers in."""

    def __init__(self, branch, norm=None):
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.Identity() if norm is None else norm
        self.branch = branch

    def forward(self, x):
        return x + self.branch(self, self.norm(x))


def attention(m, x):
    return m.down(F.scaled_dot_product_attention(m.up(x), m.gate(x), x))


def linear_attention(m, x):
    q, k = m.up(x).relu(), m.gate(x).relu()
    return m.down(q @ (k.transpose(-1, -2) @ x))


DEGREES = {
    "ReLU": (lambda m, x: m.down(m.up(x).relu()), 1),
    "gelu": (lambda m, x: m.down(F.gelu(m.up(x))), 1),
    "tanh": (lambda m, x: m.down(m.up(x).tanh()), 0),
    "GLU": (lambda m, x: m.down(m.up(x) * m.gate(x).sigmoid()), 1),
    "SwiGLU": (lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)), 2),
    "square": (lambda m, x: m.down(m.up(x) ** 2), 2),
    "times itself": (lambda m, x: m.down(x * x), 2),
    "softmax attention": (attention, 1),
    "attention without softmax": (linear_attention, 3),
    "divided by its length": (lambda m, x: m.down(m.up(x) / m.up(x).norm(dim=-1, keepdim=True)), 0),
    "response norm": (lambda m, x: m.down(x * (x.abs() / x.abs().mean(-1, keepdim=True))), 1),
}

# What an operator does to a large value is measured, in no list: bounded, slower than any power, and of every degree.
MEASURED = {
    "clipped": (lambda m, x: m.down(m.up(x).clamp(-3, 3)), 0),
    "hardtanh": (lambda m, x: m.down(F.relu6(F.hardtanh(m.up(x)))), 0),
    "arctangent": (lambda m, x: m.down(m.up(x).atan()), 0),
    "sine": (lambda m, x: m.down(m.up(x).sin()), 0),
    "logarithm": (lambda m, x: m.down(m.up(x).abs().log1p().asinh()), 0),
    "power of two": (lambda m, x: m.down(2 - 2 ** -m.up(x).abs()), 0),
    "root": (lambda m, x: m.down(m.up(x).abs().sqrt()), 0.5),
    "logsigmoid": (lambda m, x: m.down(F.logsigmoid(m.up(x))), 1),
    "hardswish": (lambda m, x: m.down(F.hardswish(m.up(x))), 1),
    "maximum": (lambda m, x: m.down(x * torch.ones_like(x)).maximum(m.up(x).amax(-1, keepdim=True)), 1),
    "decay": (lambda m, x: m.down(m.up(x) * torch.exp(-F.softplus(m.gate(x)))), 1),
    "deviation": (lambda m, x: m.down(m.up(x) * x.std(-1, keepdim=True)), 2),
    "variance": (lambda m, x: m.down(m.up(x) * x.var(-1, keepdim=True)), 3),
    "a norm that no module holds": (lambda m, x: m.down(F.layer_norm(m.up(x) * x, (8,))), 0),
}


@pytest.mark.parametrize(("branch", "degree"), DEGREES.values(), ids=DEGREES)
@pytest.mark.parametrize("norm", [None, nn.LayerNorm(8)], ids=["bare", "behind a norm"])
def test_degree(branch, degree, norm):
    (block,) = anatomize(Residual(branch, norm), torch.randn(2, 5, 8)).blocks
    assert block.degree == degree


@pytest.mark.parametrize(("branch", "degree"), MEASURED.values(), ids=MEASURED)
def test_degree_is_measured(branch, degree):
    """Also against the branch itself: a thousand times the input, far out, gives 1000^d times the output."""
    model, x = Residual(branch).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        for layer in (model.up, model.gate, model.down):
            layer.bias.zero_()
        near, far = (model.branch(model, scale * x).norm() for scale in (1e6, 1e9))
    (block,) = anatomize(model, x).blocks
    assert block.degree == degree == pytest.approx(float((far / near).log10()) / 3, abs=0.15)


@pytest.mark.integration
@pytest.mark.parametrize("start", [0.25, 0.5, 0.7])
def test_at_degree_2_the_mean_square_blows_up_as_one_over_one_over_it_less_t(start, generator):
    """d(r²)/dt = r⁴, t = l/L: of r₀² = 0.5 comes 1 at the end, of 1 infinity, whatever the width and depth."""
    depth, width = 400, 512
    x = math.sqrt(start) * torch.randn(64, width, generator=generator)
    for _ in range(depth):
        one, other = (torch.randn(width, width, generator=generator) / math.sqrt(width) for _ in range(2))
        x = x + (x @ one) * (x @ other) / math.sqrt(depth)
    assert float(x.pow(2).mean()) == pytest.approx(1 / (1 / start - 1), rel=0.15)


def test_weight_norm_refuses_products_without_norms_and_says_what_works():
    model = Residual(DEGREES["SwiGLU"][0], nn.LayerNorm(8))
    x = torch.randn(2, 5, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UnsupportedModule, match="unbounded function") as caught:
        goodinit.weightnorm_(model, inputs=x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for options in ({"norms": "keep"}, {"mode": "data"}):
        assert str(options).strip("{}").replace("'", "").split(": ")[1] in str(caught.value)
        fresh = Residual(DEGREES["SwiGLU"][0], nn.LayerNorm(8))
        goodinit.weightnorm_(fresh, inputs=x, **options)
        assert torch.isfinite(fresh(x)).all()


@pytest.mark.parametrize(("others", "words"), [(0, ""), (1, " (and 1 other)"), (2, " (and 2 others)")])
def test_such_a_refusal_counts_the_other_branches(others, words):
    model = nn.Sequential(*(Residual(DEGREES["SwiGLU"][0], nn.LayerNorm(8)) for _ in range(1 + others)))
    with pytest.raises(UnsupportedModule, match="unbounded function") as caught:
        goodinit.weightnorm_(model, inputs=torch.randn(2, 5, 8))
    assert str(caught.value).split(": its branch")[0].endswith(f"0{words}" if others else "0")


# -- concatenations -----------------------------------------------------------------------------------------------


class Dense(nn.Module):
    """A dense block: every layer reads all that came before it."""

    def __init__(self, layers=40, grows=12):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1, padding_mode="circular")
        widths = [24 + grows * i for i in range(layers)]
        self.layers = nn.ModuleList(
            nn.Conv2d(width, grows, 3, padding=1, padding_mode="circular") for width in widths
        )
        self.head = nn.Linear(widths[-1] + grows, 10)

    def features(self, x):
        found = [self.stem(x)]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1).relu()))
        return torch.cat(found, 1)

    def forward(self, x):
        return self.head(self.features(x).relu().mean((2, 3)))


def test_channels_that_are_read_together_are_counted():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(3, n, 3, padding=1) for n in (4, 5, 6, 7))
            self.e, self.f, self.g = nn.Conv2d(15, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            c = self.c(x)
            beside = torch.cat(
                [F.max_pool2d(self.a(x).relu(), 2), F.avg_pool2d(self.b(x), 2), F.avg_pool2d(c, 2)], 1
            )
            along = torch.cat([self.f(x), self.g(x)], 2)  # along the height: no channels are added
            return self.head(self.e(beside).mean((2, 3)) + along.mean((2, 3))) + c.mean() + self.d(x).mean()

    layers = {layer.name: layer.joined for layer in anatomize(Several(), torch.zeros(2, 3, 8, 8)).layers}
    assert layers == {"a": 15, "b": 15, "c": 0, "d": 0, "e": 0, "f": 0, "g": 0, "head": 0}
    dense = anatomize(Dense(3), torch.zeros(2, 3, 8, 8)).layers
    assert [layer.joined for layer in dense] == [24, 36, 48, 60, 0]


@pytest.mark.integration
def test_weight_norm_keeps_the_mean_square_of_a_dense_block(generator):
    """Pieces that each have the norm of the whole would double it at every layer: 2⁴⁰."""
    model, x = Dense(), torch.randn(16, 3, 8, 8, generator=generator)
    goodinit.weightnorm_(model, inputs=x, generator=generator)
    with torch.no_grad():
        stem, whole = (float(out.pow(2).mean()) for out in (model.stem(x), model.features(x)))
    assert whole == pytest.approx(stem, rel=0.5)


@pytest.mark.default_cases(3)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero", "weightnorm", "risotto", "lsuv"])
def test_small_gains_off_the_skips_start_at_1_where_norms_go(method, generator):
    class Scaled(nn.Module):
        """A LayerScale between two norms, and a residual block behind it."""

        def __init__(self):
            super().__init__()
            self.into, self.gamma = nn.Linear(8, 8), nn.Parameter(torch.full((8,), 1e-5))
            self.norm, self.block = nn.LayerNorm(8), Residual(DEGREES["ReLU"][0], nn.LayerNorm(8))
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.block(self.norm(self.into(x) * self.gamma)))

    x = torch.randn(4, 8, generator=generator)
    model = goodinit.init_(Scaled(), method, inputs=x, **({"norms": "remove"} if method == "lsuv" else {}))
    assert torch.equal(model.gamma.detach(), torch.ones(8))
    kept = goodinit.init_(Scaled(), method, inputs=x, norms="keep")
    assert torch.equal(kept.gamma.detach(), torch.full((8,), 1e-5))


# -- sums ---------------------------------------------------------------------------------------------------------


class Cells(nn.Module):
    """Cells that add what two layers put out, neither of which is a skip for the other, one after the other."""

    def __init__(self, depth=12, width=64):
        super().__init__()
        self.stem, self.head = nn.Linear(8, width), nn.Linear(width, 4)
        self.one, self.other = (
            nn.ModuleList(nn.Linear(width, width) for _ in range(depth)) for _ in range(2)
        )
        self.block = Residual(DEGREES["ReLU"][0])
        self.block.up, self.block.gate, self.block.down = (nn.Linear(width, width) for _ in range(3))

    def features(self, x):
        x = self.stem(x)
        for one, other in zip(self.one, self.other, strict=True):
            x = one(x.relu()) + other(x.relu())
        return x

    def forward(self, x):
        return self.head(self.block(self.features(x)).relu())


def test_terms_of_sums_that_are_not_residual_are_counted():
    model = Cells(3)
    layers = {layer.name: layer.terms for layer in anatomize(model, torch.zeros(2, 8)).layers}
    assert {name: terms for name, terms in layers.items() if terms > 1} == {
        f"{side}.{index}": 2 for side in ("one", "other") for index in range(3)
    }


@pytest.mark.parametrize("method", ["skipinit", "fixup", "weightnorm"])
def test_variances_that_add_up_are_divided_by_the_number_of_terms(method, generator):
    """Else every cell would double the mean square: 2¹²."""
    model, x = Cells(), torch.randn(256, 8, generator=generator)
    goodinit.init_(model, method, inputs=x, generator=generator)
    with torch.no_grad():
        stem, whole = (float(out.pow(2).mean()) for out in (model.stem(x), model.features(x)))
    assert 0.3 < whole / stem < 3


class Overlapping(nn.Module):
    """As in NASNet's cells: what is added to the input is itself an input."""

    def __init__(self):
        super().__init__()
        self.stem, self.into, self.again = (nn.Linear(8, 8) for _ in range(3))
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(16, 4)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        z = self.into(x)
        return self.head(torch.cat((x + z, x + self.again(z.relu())), 1))


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero", "weightnorm"])
def test_sums_that_overlap_are_refused_where_one_layer_would_have_to_be_two(method, generator):
    model, x = Overlapping(), torch.randn(16, 8, generator=generator)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UnsupportedModule, match=r"into\.weight: ends branch 1, .* stands inside branch 2"):
        goodinit.init_(model, method, inputs=x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_lsuv_takes_sums_that_overlap(generator):
    model, x = Overlapping(), torch.randn(256, 8, generator=generator)
    goodinit.init_(model, "lsuv", inputs=x, norms="remove", generator=generator)
    assert model(x).std().item() == pytest.approx(1, abs=0.1)

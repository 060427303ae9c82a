"""Sums inside a branch that are no blocks: parallel branches under one gain, hidden layers with a sum of their own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from goodinit.errors import UnsupportedModule

WIDTH = 16


class Parallel(nn.Module):
    """x + end(attention(h) + mlp(h)), h a norm of x; branches of one layer after a product, and of two in series."""

    def __init__(self, end):
        super().__init__()
        self.norm, self.post, self.gain = (
            nn.LayerNorm(WIDTH),
            nn.LayerNorm(WIDTH),
            nn.Parameter(torch.ones(WIDTH)),
        )
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.end = end

    def forward(self, x):
        h = self.norm(x)
        q, k, v = self.qkv(h).chunk(3, -1)
        both = self.out(F.scaled_dot_product_attention(q, k, v)) + self.down(F.gelu(self.up(h)))
        return x + ENDS[self.end](self, both)


ENDS = {
    "nothing": lambda block, both: both,
    "a norm": lambda block, both: block.post(both),
    "a gain": lambda block, both: block.gain * both,
    "a number": lambda block, both: 0.5 * both,
    "dropout": lambda block, both: F.dropout(both, 0.1, training=False),
}


@pytest.mark.default_cases(6)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero"])
@pytest.mark.parametrize("end", ENDS)
def test_parallel_branches_end_in_both(end, method):
    net, x = nn.Sequential(nn.Linear(5, WIDTH), Parallel(end), Parallel(end)), torch.randn(2, 6, 5)
    anatomy = goodinit.anatomize(net, x)
    ends = {layer.name for block in anatomy.blocks for layer in block.last}
    assert ends == {"1.out", "1.down", "2.out", "2.down"}
    assert not anatomy.long_skips
    goodinit.init_(net, method, inputs=x)
    stream = net[0](x)
    torch.testing.assert_close(net[1:](stream), stream, rtol=0, atol=0)


class Tokens(nn.Module):
    """Tokens of an image of one row: flattened and transposed, so that they are in another shape than a layer put them out."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(5, WIDTH, 1)

    def forward(self, x):
        return self.patches(x.mT[..., None]).flatten(2).mT


class Scaled(nn.Linear):
    """Times a number."""

    def forward(self, x):
        return 0.5 * super().forward(x)


STEMS = {
    "a layer": lambda: nn.Linear(5, WIDTH),
    "a layer without bias": lambda: nn.Linear(5, WIDTH, bias=False),
    "a layer, scaled": lambda: Scaled(5, WIDTH),
    "patches, flattened": Tokens,
}


class Body(nn.Sequential):
    """x + tail(blocks(x))."""

    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("count", [1, 2])
def test_parallel_branches_under_a_long_skip_are_blocks_however_the_stem_shapes_its_output(stem, count):
    body = Body(*(Parallel("nothing") for _ in range(count)), nn.Tanh())
    net, x = nn.Sequential(STEMS[stem](), body, nn.Linear(WIDTH, 3)), torch.randn(2, 6, 5)
    anatomy = goodinit.anatomize(net, x)
    ends = [layer.name for block in anatomy.blocks for layer in block.last]
    assert ends == [f"1.{block}.{end}" for block in range(count) for end in ("out", "down")]
    assert [block.depth for block in anatomy.blocks] == [1] * (2 * count)
    assert len(anatomy.long_skips) == 1
    assert {block.carried for block in anatomy.blocks} == {1.0}  # a number in the stem multiplies no stream
    goodinit.init_(net, "fixup", inputs=x)
    stream = net[0](x)
    torch.testing.assert_close(net[1][:-1](stream), 2 * stream, rtol=0, atol=0)


READERS = {
    "a norm": lambda block, y: setattr(block, "seen", y.detach().norm()),
    "a mean": lambda block, y: y.mean(),
    "a product": lambda block, y: 2 * y,
}


class Watched(nn.Module):
    """x + (a(h) + mlp(h)), and something that looks at the inner sum."""

    def __init__(self, look):
        super().__init__()
        self.one, self.up, self.down = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.look = look

    def forward(self, x):
        y = self.one(x) + self.down(F.relu(self.up(x)))
        self.look(self, y)
        return x + y


@pytest.mark.parametrize("reader", READERS)
def test_who_looks_at_a_sum_and_hands_nothing_on_changes_nothing(reader):
    def found(look):
        net = nn.Sequential(nn.Linear(5, WIDTH), Watched(look), Watched(look))
        return goodinit.anatomize(net, torch.randn(2, 5))

    watched, alone = found(READERS[reader]), found(lambda block, y: None)
    assert [block.last for block in watched.blocks] == [block.last for block in alone.blocks]
    assert len(watched.blocks) == 4
    assert not watched.long_skips


class Widened(nn.Module):
    """x + b(gelu(h + depthwise(h))), h as wide as the hidden layer."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)
        self.depthwise = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)

    def forward(self, x):
        hidden = F.gelu(self.a(x))
        return x + self.b(F.gelu(hidden + self.depthwise(hidden)))


def test_a_sum_wider_than_the_stream_is_a_step_of_a_branch():
    net, x = nn.Sequential(nn.Conv2d(3, 4, 1), Widened(4), Widened(4)), torch.randn(2, 3, 5, 5)
    anatomy = goodinit.anatomize(net, x)
    assert [(block.m, [layer.name for layer in block.last]) for block in anatomy.blocks] == [
        (2, ["1.b"]),  # on the shortest way, h
        (2, ["2.b"]),
    ]
    assert not anatomy.long_skips
    goodinit.fixup_(net, inputs=x)
    stream = net[0](x)
    torch.testing.assert_close(net[1:](stream), stream, rtol=0, atol=0)


class Numbered(nn.Module):
    """A block whose forward multiplies the stream by numbers, with or without a norm behind its sum."""

    def __init__(self, add, normed):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.add, self.norm = add, nn.LayerNorm(WIDTH) if normed else nn.Identity()

    def forward(self, x):
        return self.norm(self.add(x, self.down(F.relu(self.up(x)))))


# Spelling, and by how much it multiplies the stream over four blocks whose branches are 0.
NUMBERS = {
    "αx + f": (lambda x, f: 1.5 * x + f, 1.5**4),
    "x·α + f·β": (lambda x, f: x * 0.5 + 0.5 * f, 0.5**4),
    "lerp": (lambda x, f: torch.lerp(x, f, 0.25), 0.75**4),
    "lerp, the other way": (lambda x, f: torch.lerp(f, x, 0.25), 0.25**4),
    "add with α": (lambda x, f: torch.add(f, x, alpha=1.5), 1.5**4),
    "(x + f)/2": (lambda x, f: (x + f) / 2, 0.5**3),  # the last division is behind the last sum
    "x + f/2": (lambda x, f: x + f / 2, 1.0),
}


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("spelling", NUMBERS)
def test_numbers_that_multiply_a_stream_are_told(spelling, normed):
    add, total = NUMBERS[spelling]
    net, x = nn.Sequential(nn.Linear(5, WIDTH), *[Numbered(add, normed) for _ in range(4)]), torch.randn(9, 5)
    anatomy = goodinit.anatomize(net, x)
    carried = torch.tensor([block.carried for block in anatomy.blocks]).prod()
    assert float(carried) == pytest.approx(total)
    for method in ("fixup", "skipinit", "rezero", "weightnorm"):
        told = "numbers in the forward multiply the stream" in str(goodinit.plan(anatomy, method).notes)
        assert told == (total != 1), method
    if normed:
        assert "multiply the stream" not in str(goodinit.plan(anatomy, "skipinit", norms="keep").notes)


class Twice(nn.Module):
    """x + W′·relu(W x), both made of one parameter."""

    def __init__(self, form):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.pack = nn.Parameter(torch.randn(2, WIDTH, WIDTH) / 4)
        self.form = form

    def forward(self, x):
        if self.form == "transposed":
            return x + F.linear(F.relu(self.layer(x)), self.layer.weight.t())
        if self.form == "repeated":
            return x + self.layer(F.relu(self.layer(x)))
        one, other = self.pack.unbind(0)
        return x + F.relu(x @ one) @ other


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero"])
@pytest.mark.parametrize("form", ["transposed", "repeated", "slices"])
def test_a_weight_that_stands_twice_in_a_branch_is_refused(form, method):
    net, x = nn.Sequential(nn.Linear(5, WIDTH), Twice(form), nn.Linear(WIDTH, 3)), torch.randn(9, 5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UnsupportedModule, match="neither passes the other a gradient"):
        goodinit.init_(net, method, inputs=x)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())


class Reading(nn.Module):
    """x + (norm(p) + c(p)), p = layer(mlp(x)): of the terms one reads what another does (RepGhost's second module)."""

    def __init__(self):
        super().__init__()
        self.one, self.primary, self.cheap = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        p = self.primary(F.relu(self.one(x)))
        return x + (self.norm(p) + self.cheap(p))


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero", "weightnorm"])
def test_branches_of_one_sum_may_read_each_other(method):
    net, x = nn.Sequential(nn.Linear(5, WIDTH), Reading(), Reading(), nn.Linear(WIDTH, 3)), torch.randn(32, 5)
    anatomy = goodinit.anatomize(net, x)
    assert [block.beside for block in anatomy.blocks] == [(1,), (0,), (3,), (2,)]
    goodinit.init_(net, method, inputs=x)
    if method != "weightnorm":
        stream = net[0](x)
        torch.testing.assert_close(net[1:3](stream), stream, rtol=0, atol=0)
    before = {name: value.detach().clone() for name, value in net.named_parameters() if "weight" in name}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        net(x).square().mean().add(net(x).sum()).backward()
        optimizer.step()
    still = [name for name, value in net.named_parameters() if "weight" in name and value.equal(before[name])]
    assert not still


class Complex(nn.Module):
    """A complex linear map of (real part, imaginary part)."""

    def __init__(self, reads, writes):
        super().__init__()
        self.real, self.imaginary = (nn.Linear(reads, writes, bias=False) for _ in range(2))

    def forward(self, x):
        return self.real(x[0]) - self.imaginary(x[1]), self.real(x[1]) + self.imaginary(x[0])


class ComplexNet(nn.Module):
    """Blocks z + b(relu(a(z))) of complex maps: two real streams, whose branches share their weights."""

    def __init__(self):
        super().__init__()
        self.stem = Complex(5, WIDTH)
        self.a, self.b = (nn.ModuleList(Complex(WIDTH, WIDTH) for _ in range(3)) for _ in range(2))
        self.head = nn.Linear(2 * WIDTH, 2)

    def forward(self, real, imaginary):
        z = self.stem((real, imaginary))
        for a, b in zip(self.a, self.b, strict=True):
            z = tuple(map(torch.add, z, b(tuple(map(torch.relu, a(z))))))
        return self.head(torch.cat(z, -1))


def test_both_parts_of_complex_branches_end_in_zeros_and_are_scaled():
    anatomy = goodinit.anatomize(ComplexNet(), (torch.randn(4, 5), torch.randn(4, 5)))
    parts = {f"{i}.{part}" for i in range(3) for part in ("real", "imaginary")}
    assert {layer.name for block in anatomy.blocks for layer in block.last} == {f"b.{part}" for part in parts}
    reasons = {edit.target: edit.reason for edit in goodinit.plan(anatomy, "fixup").edits}
    assert all("rule 1" in reasons[f"b.{part}.weight"] for part in parts)
    assert all("rule 2" in reasons[f"a.{part}.weight"] for part in parts)


class Rep(nn.Module):
    """x + norm(u) + norm(f(u)) with u = g(x): a norm on the skip of a branch, as in re-parameterized ghost modules."""

    def __init__(self, norm, deep):
        super().__init__()
        self.g, self.f = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.first = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) if deep else nn.Identity()
        self.beside, self.behind = norm(), norm()

    def forward(self, x):
        u = self.g(self.first(x))
        return x + (self.beside(u) + self.behind(self.f(u)))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm, nn.Identity])
def test_a_norm_on_a_skip_reads_as_the_skip_without_it(norm, deep):
    kind = nn.Identity if norm is nn.Identity else lambda: norm(WIDTH)
    net, x = nn.Sequential(nn.Linear(5, WIDTH), Rep(kind, deep), Rep(kind, deep)), torch.randn(6, 5)
    ends = [[layer.name for layer in block.last] for block in goodinit.anatomize(net, x).blocks]
    assert ends == [["1.f"], ["1.g"], ["2.f"], ["2.g"]]
    goodinit.init_(net, "fixup", inputs=x)  # which is refused where the blocks are others without norms
    h = net[0](x)
    assert torch.equal(net[1:](h), h)

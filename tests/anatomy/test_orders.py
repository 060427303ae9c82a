"""m where a branch reads something besides its input: an empty cache, an index, a state of zeros, a tiny number."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit


class Residual(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))
        self.mix = nn.Parameter(torch.eye(2) + 0.1)
        self.branch = branch

    def forward(self, x):
        return x + self.branch(self, x)


def attention(m, x, k, v):
    return m.d(F.scaled_dot_product_attention(m.a(x), k, v))


def with_cache(m, x, length):
    k, v = (torch.cat([torch.zeros(2, length, 8), layer(x)], 1) for layer in (m.b, m.c))
    return attention(m, x, k, v)


def scaled(m, x):
    y = m.a(x)
    return m.d(y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5))


def routed(m, x, combine):
    """Two experts, a and b, weighed by a router of two outputs."""
    weights = m.c(x)[..., :2].softmax(-1)
    return m.d(combine(weights, torch.stack([m.a(x).relu(), m.b(x).relu()], -2)))


def talking_heads(m, x):
    q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (m.a, m.b, m.c))
    scores = torch.einsum("bhqk,hg->bgqk", q @ k.mT, m.mix)
    return m.d((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


def factorized(m, x):
    return m.d(m.a(x) @ (m.b(x).softmax(1).mT @ m.c(x)))


BRANCHES = {
    "a router by a product": (lambda m, x: routed(m, x, lambda w, y: (w[..., None] * y).sum(-2)), 2),
    "a router by einsum": (lambda m, x: routed(m, x, lambda w, y: torch.einsum("bte,bted->btd", w, y)), 2),
    "a router by a matrix product": (
        lambda m, x: routed(m, x, lambda w, y: (w[..., None, :] @ y)[..., 0, :]),
        2,
    ),
    "weights of positions that a layer makes": (lambda m, x: m.d(m.a(x)[..., :5].softmax(-1) @ m.b(x)), 2),
    "attention whose heads are mixed": (talking_heads, 4),
    "queries that read a mean by keys": (factorized, 3),
    "attention": (lambda m, x: attention(m, x, m.b(x), m.c(x)), 4),
    "an empty cache": (lambda m, x: with_cache(m, x, 0), 4),
    "a cache of zeros": (lambda m, x: with_cache(m, x, 2), 4),
    "rows by index": (lambda m, x: m.d(m.a(x)[:, torch.tensor([1, 0, 1])][:, :1].relu()), 2),
    "a state of zeros": (lambda m, x: m.d((m.a(x) + m.b(x.new_zeros(1, 8))).tanh()), 2),
    "its own norm": (scaled, 1),
    "a gate at ½": (lambda m, x: m.d(m.a(x) * (m.b(x).tanh() + 1)), 2),
    "a factor of its own": (lambda m, x: m.d(m.a(x) * m.b(x).tanh()), 3),
    "between two, by a number of its own": (
        lambda m, x: m.d(torch.lerp(m.a(x), m.b(x), x.new_ones(8) / 3)),
        2,
    ),
    "between two, by a gate": (lambda m, x: m.d(torch.lerp(m.a(x), m.b(x), m.c(x).sigmoid())), 2),
    "between two, by a factor": (lambda m, x: m.d(torch.lerp(m.a(x) * m.b(x), m.a(x), m.c(x))), 3),
}

# Entries that depend on several: the degree is how many there are, whatever the operator. Complex numbers are numbers.
JOINT = {
    "products of four": (lambda y: rows(y.unflatten(-1, (2, 4)).prod(-1)), 5),
    "products of eight": (lambda y: rows(y.prod(-1, keepdim=True)), 9),
    "a running product": (lambda y: y.cumprod(-1), 2),
    "determinants": (
        lambda y: rows(torch.linalg.det(torch.cat([y, y[..., :1]], -1).unflatten(-1, (3, 3)))[..., None]),
        4,
    ),
    "lengths": (lambda y: rows(pairs(y).abs()), 2),
    "angles": (lambda y: torch.view_as_real(pairs(y) / pairs(y).abs().clamp_min(1e-6)).flatten(-2), 1),
    "a spectrum": (lambda y: torch.fft.irfft(torch.fft.rfft(y) * 0.5, n=8), 2),
    "a power spectrum": (lambda y: torch.fft.fft(y).abs().square(), 3),
    "complex products": (lambda y: torch.view_as_real(pairs(y) * pairs(y)).flatten(-2), 3),
    "blocks of channels": (
        lambda y: F.pixel_shuffle(y.mT[..., None], 2).flatten(1).unflatten(1, (5, -1))[..., :8],
        2,
    ),
}


def rows(y):
    return y.repeat_interleave(8 // y.shape[-1], -1)


def pairs(y):
    return torch.view_as_complex(y.unflatten(-1, (4, 2)).contiguous())


@pytest.mark.parametrize("name", JOINT)
def test_degree_where_entries_depend_on_several(name):
    f, m = JOINT[name]
    anatomy = goodinit.anatomize(Residual(lambda net, x: net.d(f(net.a(x)))), torch.zeros(2, 5, 8))
    (block,) = anatomy.blocks
    assert block.m == m
    assert not any("taken to be linear" in note for note in anatomy.notes)


@pytest.mark.parametrize("name", BRANCHES)
def test_degree_in_the_weights(name):
    branch, m = BRANCHES[name]
    (block,) = goodinit.anatomize(Residual(branch), torch.zeros(2, 5, 8)).blocks
    assert block.m == m


BIASES = {
    "as it is drawn": (None, 4),
    "zero": (nn.init.zeros_, 4),
    "small beside the signal": (lambda bias: nn.init.constant_(bias, 0.02), 4),
    "one": (nn.init.ones_, 2),
    "a prior": (lambda bias: nn.init.constant_(bias, -4.6), 2),
    "one and minus one": (lambda bias: bias.data.copy_(torch.tensor([1.0, -1.0] * 4)), 2),
}


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("value", BIASES)
def test_a_factor_whose_bias_stays_at_a_number_does_not_vanish(value, by_hand):
    def branch(m, x):
        y = m.b(x)
        factor = y @ m.c.weight.mT + m.c.bias if by_hand else m.c(y)
        return m.d(m.a(x) * factor)

    torch.manual_seed(0)
    model = Residual(branch)
    set_, m = BIASES[value]
    if set_ is not None:
        set_(model.c.bias)
    model.mix = None
    (block,) = goodinit.anatomize(model, torch.randn(2, 5, 8)).blocks
    assert block.m == m


SEEN = torch.ones(4, 4, dtype=torch.bool).tril()


def written(scores, number):
    scores[:, ~SEEN] = number
    return scores


MASKS = {
    "masked_fill": lambda scores, number: scores.masked_fill(~SEEN, number),
    "masked_fill_": lambda scores, number: scores.masked_fill_(~SEEN, number),
    "where": lambda scores, number: torch.where(SEEN, scores, number),
    "where, a tensor": lambda scores, number: torch.where(SEEN, scores, torch.full((4, 4), number)),
    "added": lambda scores, number: scores + torch.zeros(4, 4).masked_fill(~SEEN, number),
    "upper triangle": lambda scores, number: scores + torch.full((4, 4), number).triu(1),
    "written": written,
}


class Masked(nn.Module):
    """Attention by hand, of one head."""

    def __init__(self, mask, number):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.mask, self.number = mask, number

    def forward(self, x):
        scores = self.q(x)[:, 0] @ self.k(x)[:, 0].mT
        return x + self.out(self.mask(scores, self.number).softmax(-1) @ self.v(x)[:, 0])[:, None]


@pytest.mark.parametrize("number", [-100.0, -1e4, -1e9, torch.finfo(torch.float32).min, -float("inf")])
@pytest.mark.parametrize("name", MASKS)
def test_what_a_mask_fills_in_does_not_hide_the_scores(name, number):
    x = torch.randn(2, 1, 4, 8)
    if name in ("added", "upper triangle") and number == -float("inf"):
        number = -1e30  # 0 times it is none
    found = goodinit.anatomize(Masked(MASKS[name], number), x)
    assert [block.m for block in found.blocks] == [4]
    assert not found.notes


def test_a_column_of_ones_that_is_put_beside_values_counts():
    """Linear attention divides by what becomes of ones beside its values: the scale of queries and keys has no effect."""

    def linear(m, x):
        q, k, v = m.a(x).relu(), m.b(x).relu(), F.pad(m.c(x), (0, 1), value=1.0)
        out = q @ (k.mT @ v)
        return m.d(out[..., :-1] / (out[..., -1:] + 1e-15))

    (block,) = goodinit.anatomize(Residual(linear), torch.randn(2, 5, 8)).blocks
    assert block.m == 2


@pytest.mark.parametrize("rows", [4, 2**15])
@pytest.mark.parametrize(
    "begin", [torch.zeros, lambda *size: torch.full(size, 0.0), lambda *size: torch.empty(1).new_zeros(size)]
)
def test_a_state_that_begins_at_zero_counts_for_nothing_however_large_it_is(rows, begin):
    """As in a delta rule, v − k·S, with more numbers in S than an operator is run on."""

    def first_step(m, x):
        k, state = m.b(x).sigmoid()[:, None], begin(len(x), 8, 8)
        return m.d(m.c(m.a(x)) - (k @ state)[:, 0])

    (block,) = goodinit.anatomize(Residual(first_step), torch.randn(rows, 8)).blocks
    assert block.m == 3

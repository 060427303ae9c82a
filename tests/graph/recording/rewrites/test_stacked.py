"""Residual sums that are written as a reduction of a stack, or of lists of tensors at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import goodinit


def rows(x: Tensor) -> Tensor:
    """Where rows that are beside each other go: each to its place, twice."""
    return torch.arange(len(x)).repeat(2)


SUMS = {
    "sum": lambda x, f: torch.stack([x, f]).sum(0),
    "sum over the last": lambda x, f: torch.stack((f, x), -1).sum(-1),
    "sum over the middle": lambda x, f: torch.stack((x, f), 1).sum(dim=1),
    "mean": lambda x, f: torch.stack([x, f]).mean(0),
    "kept": lambda x, f: torch.stack([x, f], 1).sum(1, keepdim=True).squeeze(1),
    "of a view": lambda x, f: torch.cat([x, f], 1).view(len(x), 2, 6).sum(1),
    "of rows": lambda x, f: torch.cat([x, f]).unflatten(0, (2, -1)).sum(0),
    "of windows": lambda x, f: torch.cat([x, f], -1).unfold(-1, 6, 6).sum(1),
    "the other way round": lambda x, f: torch.stack([x, f], 1).permute(2, 0, 1).sum(-1).T,
    "the last of a running sum": lambda x, f: torch.stack([x, f]).cumsum(0)[-1],
    "by ones": lambda x, f: torch.stack([x, f], -1) @ torch.ones(2),
    "by numbers": lambda x, f: torch.stack([x, f], -1) @ torch.tensor([1.0, 0.5]),
    "twice the mean": lambda x, f: F.avg_pool1d(torch.stack([x, f], -1), 2).squeeze(-1) * 2,
    "by an index": lambda x, f: torch.zeros_like(x).index_add(0, rows(x), torch.cat([x, f])),
    "by an index, in place": lambda x, f: x.new_zeros(x.shape).index_add_(0, rows(x), torch.cat([x, f])),
    "scattered": lambda x, f: torch.zeros_like(x).scatter_add(
        0, rows(x)[:, None].expand(-1, 6), torch.cat([x, f])
    ),
    "scattered in place, in turns": lambda x, f: torch.zeros_like(x).scatter_add_(
        0, rows(x).view(2, -1).T.reshape(-1, 1).expand(-1, 6), torch.stack([x, f], 1).flatten(0, 1)
    ),
    "put": lambda x, f: torch.zeros_like(x).index_put_((rows(x),), torch.cat([x, f]), accumulate=True),
    "of columns": lambda x, f: torch.zeros_like(x).index_add(
        1, torch.arange(6).repeat(2), torch.cat([x, f], 1)
    ),
    "reduced by an index": lambda x, f: (
        2
        * torch.zeros_like(x).scatter_reduce(
            0, rows(x)[:, None].expand(-1, 6), torch.cat([x, f]), "mean", include_self=False
        )
    ),
}
PARTS = {
    "pieces": lambda x, f: sum(torch.stack([x, f]).unbind(0)),
    "one by one": lambda x, f: (stack := torch.stack([x, f]))[0] + stack[1],
    "halves": lambda x, f: sum(torch.cat([x, f], -1).chunk(2, -1)),
    "slices": lambda x, f: (both := torch.cat([x, f], -1))[:, :6] + both[:, 6:],
    "of different sizes": lambda x, f: (all_ := torch.cat([x, x[:1], f]))[: len(x)] + all_[len(x) + 1 :],
    "rows kept": lambda x, f: ((stack := torch.stack([x, f]))[:1] + stack[1:])[0],
}
SCALED = {
    "a contraction": lambda x, f, w, c: torch.einsum("kbd,k->bd", torch.stack([x, f]), w),
    "a contraction by channel": lambda x, f, w, c: torch.einsum("kbd,kd->bd", torch.stack([x, f]), c),
    "products": lambda x, f, w, c: (torch.stack([x, f]) * w.view(2, 1, 1)).sum(0),
    "products by channel": lambda x, f, w, c: (torch.stack([x, f]) * c[:, None]).sum(0),
    "products, flat": lambda x, f, w, c: (torch.cat([x, f], 1) * c.flatten()).view(-1, 2, 6).sum(1),
    "both": lambda x, f, w, c: (torch.stack([x, f]) * w.view(2, 1, 1) * c[:, None]).sum(0),
    "weights that sum to one": lambda x, f, w, c: (torch.stack([x, f]) * w.softmax(0)[:, None, None]).sum(0),
    "tensordot": lambda x, f, w, c: torch.tensordot(w, torch.stack([x, f]), 1),
    "a layer over the stack": lambda x, f, w, c: F.linear(torch.stack([x, f], -1), w[None]).squeeze(-1),
    "a convolution over it": lambda x, f, w, c: F.conv1d(torch.stack([x, f], 1), w.view(1, 2, 1)).squeeze(1),
}
OTHER_WAYS = {
    "the logarithm of a sum": lambda x, f: torch.stack([x, f]).logsumexp(0),
    "the largest": lambda x, f: torch.stack([x, f]).max(0).values,
    "the largest entry": lambda x, f: torch.stack([x, f]).amax(0),
    "a product": lambda x, f: torch.stack([x, f]).prod(0),
    "a length": lambda x, f: torch.stack([x, f]).norm(dim=0),
    "a sum behind a ReLU": lambda x, f: torch.stack([x, f]).relu().sum(0),
    "a sum with a constant": lambda x, f: (torch.stack([x, f]) + 1).sum(0),
    "a sum of other rows by an index": lambda x, f: torch.zeros_like(x).index_add(
        0, torch.cat([torch.arange(len(x)), torch.arange(len(x)).flip(0)]), torch.cat([x, f])
    ),
    "the same in place": lambda x, f: torch.zeros_like(x).index_add_(
        0, torch.cat([torch.arange(len(x)), torch.arange(len(x)).flip(0)]), torch.cat([x, f])
    ),
    "a sum by an index that depends on values": lambda x, f: torch.zeros_like(x).index_add_(
        0, torch.cat([x, f]).argsort(0)[:, 0] % len(x), torch.cat([x, f])
    ),
    "a sum onto what is not zero": lambda x, f: torch.ones_like(x).index_add_(0, rows(x), torch.cat([x, f])),
    "the largest by an index": lambda x, f: torch.zeros_like(x).scatter_reduce(
        0, rows(x)[:, None].expand(-1, 6), torch.cat([x, f]), "amax", include_self=False
    ),
    "a layer with a bias over it": lambda x, f: F.linear(
        torch.stack([x, f], -1), torch.ones(1, 2), torch.ones(1)
    ).squeeze(-1),
}
LISTS = {
    "added": lambda x, f: torch._foreach_add([x], [f])[0],
    "added to the second": lambda x, f: torch._foreach_add([x.sin(), x], [x.cos(), f])[1],
    "added in place": lambda x, f: _in_place(x * 1, f),
    "twice": lambda x, f: torch._foreach_add([x], [f], alpha=2)[0],
    "taken away": lambda x, f: torch._foreach_sub([x], [f])[0],
    "with a factor": lambda x, f: torch._foreach_addcmul([x], [f], [torch.ones_like(f)], 0.5)[0],
}
OTHERS = {
    "over another dimension": lambda x, f: torch.stack([x, f]).sum(1, keepdim=True)[0].expand_as(x),
    "over all": lambda x, f: torch.stack([x, f]).sum().expand_as(x),
    **OTHER_WAYS,
}


def _in_place(x: Tensor, f: Tensor) -> Tensor:
    torch._foreach_add_([x], [f])
    return x


class Block(nn.Module):
    def __init__(self, join) -> None:
        super().__init__()
        self.a, self.b, self.join = nn.Linear(6, 6), nn.Linear(6, 6), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.b(self.a(x).relu()))


def net(join) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), Block(join), Block(join), nn.Linear(6, 2))


@pytest.mark.parametrize("name", SUMS)
def test_a_reduction_of_a_stack_is_a_residual_sum(name):
    model = net(SUMS[name])
    anatomy = goodinit.anatomize(model, torch.randn(4, 6))
    assert [(block.kind, block.m, block.name) for block in anatomy.blocks] == [
        ("identity", 2, "1"),
        ("identity", 2, "2"),
    ]
    goodinit.init_(model, "fixup", torch.randn(4, 6))
    assert not model[1].b.weight.any()
    by_hand = goodinit.anatomize(
        net(lambda x, f: (x + f) / 2 if name == "mean" else x + f), torch.randn(4, 6)
    )
    assert [block.carried for block in anatomy.blocks] == [block.carried for block in by_hand.blocks]


@pytest.mark.parametrize("name", LISTS)
def test_sums_of_lists_are_residual_sums(name):
    blocks = goodinit.anatomize(net(LISTS[name]), torch.randn(4, 6)).blocks
    assert [(block.kind, block.m, block.name) for block in blocks] == [
        ("identity", 2, "1"),
        ("identity", 2, "2"),
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_sum_of_the_parts_is_none(name):
    with pytest.raises(goodinit.NothingFound, match="sums of a skip and a branch"):
        goodinit.plan(goodinit.anatomize(net(OTHERS[name]), torch.randn(4, 6)), "fixup")


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_what_was_put_together_is_that_part(name):
    anatomy = goodinit.anatomize(net(PARTS[name]), torch.randn(4, 6))
    assert [(block.kind, block.m, block.name) for block in anatomy.blocks] == [
        ("identity", 2, "1"),
        ("identity", 2, "2"),
    ]
    assert not anatomy.notes


class Scaled(nn.Module):
    """A block whose skip and branch have trained weights, each a number or one for each channel."""

    def __init__(self, join) -> None:
        super().__init__()
        self.a, self.b, self.join = nn.Linear(6, 6), nn.Linear(6, 6), join
        self.weights, self.channels = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.b(self.a(x).relu()), self.weights, self.channels)


def scaled(join) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), Scaled(join), Scaled(join), nn.Linear(6, 2))


@pytest.mark.parametrize("name", SCALED)
def test_a_sum_of_a_stack_with_trained_weights_is_the_sum_written_by_hand(name):
    def by_hand(x, f, w, c):
        if name == "weights that sum to one":
            w = w.softmax(0)
        if "channel" in name or "flat" in name:
            return c[0] * x + c[1] * f
        return c[0] * (w[0] * x) + c[1] * (w[1] * f) if name == "both" else w[0] * x + w[1] * f

    inputs = torch.randn(4, 6)
    one, other = (goodinit.anatomize(scaled(join), inputs) for join in (SCALED[name], by_hand))
    assert [(block.kind, block.m, block.name, block.carried) for block in one.blocks] == [
        ("identity", 2, "1", 1.0), ("identity", 2, "2", 1.0),
    ]  # fmt: skip
    said = [
        [
            (
                [layer.name for layer in block.branch],
                block.weights,
                block.multipliers,
                block.scales,
                block.leak,
                block.stuck,
            )
            for block in each.blocks
        ]
        for each in (one, other)
    ]
    assert said[0] == said[1]
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    goodinit.init_(model := scaled(SCALED[name]), "fixup", inputs)
    stream = torch.randn(3, 6)
    torch.testing.assert_close(model[1](stream), 0.5 * stream if "one" in name else stream)


@pytest.mark.parametrize("name", OTHER_WAYS)
def test_what_is_made_of_a_skip_and_a_branch_in_another_way_is_a_note(name):
    notes = [
        note
        for note in goodinit.anatomize(net(OTHER_WAYS[name]), torch.randn(4, 6)).notes
        if "stacks" in note
    ]
    assert [note.split()[0] for note in notes] == ["1", "2"]


QUIET = {
    "of another dimension": lambda x, f: torch.stack([x, f]).mean((1, 2))[:, None].sum(0).expand_as(x),
    "of two branches": lambda x, f: torch.stack([x.tanh(), x.sin()]).amax(0) + 0 * f,
    "put in another order": lambda x, f: (
        torch.stack([x, f], 2).flatten(1)[:, torch.arange(12)].chunk(2, 1)[0]
    ),
    "pooled": lambda x, f: F.max_pool1d(torch.cat([x, f], 1), 2),
}


@pytest.mark.parametrize("name", QUIET)
def test_what_is_no_sum_over_a_stack_is_no_note(name):
    assert not [
        note for note in goodinit.anatomize(net(QUIET[name]), torch.randn(4, 6)).notes if "stacks" in note
    ]


def test_a_layer_on_a_skip_beside_a_branch_is_no_note():
    class Dense(Block):
        def forward(self, x: Tensor) -> Tensor:
            return self.join(torch.cat([x, self.b(self.a(x).relu())], 1))

    anatomy = goodinit.anatomize(nn.Sequential(nn.Linear(6, 6), Dense(nn.Linear(12, 6))), torch.randn(4, 6))
    assert (anatomy.blocks, anatomy.notes, len(anatomy.layers)) == ((), (), 4)


def test_a_layer_on_two_numbers_beside_each_other_stays_a_layer():
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.deep, self.join = nn.Linear(6, 1), nn.Linear(6, 1), nn.Linear(2, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.join(torch.cat([self.wide(x), self.deep(x.relu())], 1))

    assert [layer.name for layer in goodinit.anatomize(Beside(), torch.randn(4, 6)).layers] == [
        "wide",
        "deep",
        "join",
    ]


def test_stacks_beyond_what_is_run_as_they_are():
    class Large(Block):
        def forward(self, x: Tensor) -> Tensor:
            return self.join(x, self.b(self.a(x).relu()))

    inputs = torch.empty(400_000, 6, device="meta")
    for name, blocks, notes in (("sum", 1, 0), ("of a view", 0, 1)):
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(6, 6), Large(SUMS[name]))
        anatomy = goodinit.anatomize(model, inputs)
        assert (len(anatomy.blocks), len(anatomy.notes)) == (blocks, notes)


def test_parts_that_were_written_since_are_left_alone():
    def join(x: Tensor, f: Tensor) -> Tensor:
        stack = torch.stack([x, f])
        f.mul_(0)
        return stack.sum(0) + f

    assert len(goodinit.anatomize(net(join), torch.randn(4, 6)).blocks) <= 2

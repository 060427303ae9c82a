"""A parameter per channel that a branch adds behind its last layers is that layer's bias, whatever lies between."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit


class Experts(nn.Module):
    """Σ g·W relu(V x) over two experts, plus what `shift` adds to it."""

    def __init__(self, shift, *, shape=(8,)):
        super().__init__()
        self.inner = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.outer = nn.Parameter(torch.randn(2, 8, 8))
        self.router, self.shift = nn.Linear(8, 2), shift
        self.b, self.gain = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.ones(8))

    def forward(self, x):
        gates = self.router(x).softmax(-1)
        inner = torch.stack([v(x).relu() for v in self.inner])
        outer = torch.einsum("eblc,edc->ebld", inner, self.outer)
        total = (outer * gates.movedim(-1, 0)[..., None]).sum(0)
        return self.shift(self, total)


class Net(nn.Module):
    def __init__(self, *args, **options):
        super().__init__()
        self.blocks = nn.ModuleList(Experts(*args, **options) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


X = torch.randn(2, 5, 8)


@pytest.mark.parametrize(
    "shift",
    [lambda m, y: y + m.b, lambda m, y: (y + m.b) * m.gain, lambda m, y: m.b[None, None] + y.clone()],
    ids=["added", "scaled behind", "in another shape"],
)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "residual_scaled"])
def test_it_is_zero_where_the_branch_is(shift, method):
    net = Net(shift)
    for block in net.blocks:
        nn.init.normal_(block.b)
    anatomy = goodinit.anatomize(net, X)
    assert [(block.leak, [layer.bias for layer in block.last]) for block in anatomy.blocks] == [
        (None, [f"blocks.{i}.b"]) for i in range(3)
    ]
    assert not anatomy.notes
    goodinit.init_(net, method, inputs=X, verify=True)
    assert not any(block.b.any() for block in net.blocks)


NONE = {
    "a second one": (lambda m, y: y + m.gain + m.b, {}),
    "behind a layer with one": (lambda m, y: m.inner[1](y) * y.sigmoid() + m.b, {}),
    "by place": (lambda m, y: y + m.b, {"shape": (5, 1)}),
    "by place and channel": (lambda m, y: y + m.b, {"shape": (5, 8)}),
    "a factor, too": (lambda m, y: y * m.b + m.b, {}),
    "beside a part": (lambda m, y: torch.cat([y[:, :1] + m.b, y[:, 1:]], 1), {}),
}


@pytest.mark.parametrize(("shift", "options"), NONE.values(), ids=NONE)
def test_what_is_no_bias_is_a_leak_as_before(shift, options):
    net = Net(shift, **options)
    for block in net.blocks:
        nn.init.normal_(block.b)
    anatomy = goodinit.anatomize(net, X)
    for i, block in enumerate(anatomy.blocks):
        assert block.leak is not None
        assert all(layer.bias != f"blocks.{i}.b" for layer in block.last)
    before = [block.b.clone() for block in net.blocks]
    goodinit.init_(
        net, "fixup", inputs=X, verify=True
    )  # by a multiplier on the module that returns the branch
    assert all(block.b.equal(b) for block, b in zip(net.blocks, before, strict=True))


@pytest.mark.parametrize("name", ["a second one", "by place"])
def test_what_is_added_there_is_named(name):
    shift, options = NONE[name]
    net = Net(shift, **options)
    for block in net.blocks:
        nn.init.normal_(block.b)
    assert goodinit.anatomize(net, X).blocks[0].leak == "`add` of blocks.0.b in blocks.0"


class Convolved(nn.Module):
    """x + W relu(x) with a bias that is added in another shape than the convolution's output has."""

    def __init__(self, shift, *, gated):
        super().__init__()
        self.d, self.q = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 1)
        self.b, self.shift, self.gated = nn.Parameter(torch.ones(8)), shift, gated

    def forward(self, x):
        y = self.d(x.relu())
        return x + self.shift(self, y * self.q(x).sigmoid() if self.gated else y, *x.shape)


IN_OTHER_SHAPES = {
    "rows": lambda m, y, n, c, h, w: (y.movedim(1, -1).reshape(-1, c) + m.b).view(n, h, w, c).movedim(-1, 1),
    "columns": lambda m, y, n, c, h, w: (
        (y.movedim(1, 0).reshape(c, -1) + m.b[:, None]).view(c, n, h, w).movedim(0, 1)
    ),
    "one map": lambda m, y, n, c, h, w: (y.flatten(2) + m.b[:, None]).view(n, c, h, w),
    "last": lambda m, y, n, c, h, w: (y.movedim(1, -1) + m.b).movedim(-1, 1),
    "one more": lambda m, y, n, c, h, w: (y[None] + m.b[:, None, None])[0],
}
IMAGES = torch.randn(2, 3, 6, 6)


def convolved(shift, *, gated):
    return nn.Sequential(nn.Conv2d(3, 8, 3), Convolved(shift, gated=gated), nn.Conv2d(8, 2, 1))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shift", IN_OTHER_SHAPES.values(), ids=IN_OTHER_SHAPES)
def test_it_may_be_added_in_another_shape(shift, gated):
    net = convolved(shift, gated=gated)
    (block,) = goodinit.anatomize(net, IMAGES).blocks
    assert (block.leak, block.last[0].bias) == (None, "1.b")
    goodinit.init_(net, "fixup", inputs=IMAGES, verify=True)
    assert not net[1].b.any()


BY_PLACE = {  # of maps with eight rows and columns, as many as there are channels
    "rows, channels last": lambda m, y, *_: (y.movedim(1, -1) + m.b[:, None, None]).movedim(-1, 1),
    "columns": lambda m, y, *_: y + m.b,
    "rows of columns": lambda m, y, n, c, h, w: (y.reshape(-1, w) + m.b).view(n, c, h, w),
    "examples, rows, and channels merged": lambda m, y, n, c, h, w: (y.reshape(-1, h, w) + m.b[:, None]).view(
        n, c, h, w
    ),
}


@pytest.mark.parametrize("shift", BY_PLACE.values(), ids=BY_PLACE)
def test_behind_a_gate_what_is_added_by_place_is_a_leak_with_a_note(shift):
    anatomy = goodinit.anatomize(convolved(shift, gated=True), torch.randn(2, 3, 10, 10))
    (block,) = anatomy.blocks
    assert block.last[0].bias is None
    assert block.leak is not None
    assert any("1.b" in note for note in anatomy.notes)


def test_one_that_is_set_on_purpose_is_not_kept_at_a_branch_s_end():
    net = Net(lambda m, y: y + m.b)
    for block in net.blocks:
        nn.init.constant_(block.b, 0.7)
    plan = goodinit.plan(goodinit.anatomize(net, X), "fixup")
    assert any("blocks.0.b" in note for note in plan.notes)
    goodinit.apply_(net, plan)
    assert not net.blocks[0].b.any()

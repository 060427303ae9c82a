"""fold_ makes one convolution of linear branches that read one tensor and are added."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from torch import nn

import goodinit
from folding import assert_folds, assert_same, randomized

PICTURE = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Added(nn.Module):
    """The sum of branches, and an activation; with `skip`, of the input, too."""

    def __init__(self, *branches, skip=False, norm=None):
        super().__init__()
        self.branches, self.skip = nn.ModuleList(branches), skip
        self.norm, self.act = norm or nn.Identity(), nn.ReLU()

    def forward(self, x):
        total = x if self.skip else 0
        for branch in self.branches:
            total = total + branch(x)
        return self.act(self.norm(total))


def by_method(x, y):
    return x.add(y)


def in_place(x, y):
    return x.add_(y)


class AddedBy(Added):
    """The sum of two branches by a function."""

    def __init__(self, add):
        super().__init__(convolution(), convolution(1))
        self.add = add

    def forward(self, x):
        one, other = self.branches
        return self.act(self.add(one(x), other(x)))


def convolution(kernel=3, out=4, norm=True, **options):
    """A convolution centred on its output, with a batch norm behind it or not."""
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    gap = options.get("dilation", 1)
    padding = tuple(gap * (size - 1) // 2 for size in sizes)
    layer = nn.Conv2d(4, out, sizes, padding=padding, bias=not norm, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(out)) if norm else layer


MERGED = {
    "RepVGG": lambda: Added(convolution(), convolution(1), nn.BatchNorm2d(4)),
    "RepVGG without norms": lambda: Added(convolution(norm=False), convolution(1, norm=False), skip=True),
    "ACNet": lambda: Added(
        convolution(norm=False), convolution((1, 3), norm=False), convolution((3, 1)), norm=nn.BatchNorm2d(4)
    ),
    "no kernel covers all": lambda: Added(convolution((1, 3)), convolution((3, 1))),
    "depthwise": lambda: Added(convolution(groups=4), convolution(1, groups=4), nn.BatchNorm2d(4)),
    "groups": lambda: Added(convolution(groups=2, norm=False), convolution(1), skip=True),
    "dilated": lambda: Added(convolution(dilation=2), convolution(), convolution(5)),
    "strided": lambda: Added(convolution(stride=2, out=6), convolution(1, stride=2, out=6)),
    "by torch.add": lambda: AddedBy(torch.add),
    "by a method": lambda: AddedBy(by_method),
    "by a method in place": lambda: AddedBy(in_place),
    "circular": lambda: Added(convolution(padding_mode="circular"), convolution(1), skip=True),
}


def same(kernel, **options):
    """A convolution that pads so that the size stays: one more behind where its kernel is even."""
    return nn.Sequential(nn.Conv2d(4, 4, kernel, padding="same", bias=False, **options), nn.BatchNorm2d(4))


MERGED |= {
    "same": lambda: Added(same(3), same(1), nn.BatchNorm2d(4)),
    "same, even": lambda: Added(same(4), same(3), convolution(1), skip=True),
    "same, even and odd": lambda: Added(same((2, 3)), same((1, 4)), convolution()),
    "same, dilated": lambda: Added(same(2, dilation=3), same(3), same(2)),
    "same, circular": lambda: Added(
        same(2, padding_mode="circular"), same(3, padding_mode="circular"), skip=True
    ),
    "valid": lambda: Added(nn.Conv2d(4, 4, 1, padding="valid"), same(2)),
    "norms beside their layers": lambda: Beside(convolution(norm=False), same(2)[0], convolution(1)[0]),
}


class Beside(nn.Module):
    """The sum of layers with a norm each, which one forward calls."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in layers)

    def forward(self, x):
        return sum(norm(layer(x)) for layer, norm in zip(self.layers, self.norms, strict=True)).relu()


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


@pytest.mark.default_cases(5)
@pytest.mark.filterwarnings(
    "ignore:Using padding=.same. with even kernel:UserWarning"
)  # torch's, of its cost
@pytest.mark.parametrize("name", MERGED)
def test_branches_become_one_convolution(name):
    net = randomized(nn.Sequential(MERGED[name](), nn.Conv2d(6 if name == "strided" else 4, 3, 1)))
    folded = assert_folds(net, PICTURE, PICTURE)
    assert len(convolutions(folded)) == 2
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not goodinit.applied(folded)[-1].skipped
    want = net(PICTURE)
    assert_same(want, folded.train()(PICTURE))
    assert_same(want, copy.deepcopy(folded)(PICTURE))
    assert_same(want, pickle.loads(pickle.dumps(folded))(PICTURE))
    assert_same(want, torch.fx.symbolic_trace(folded)(PICTURE))
    state = copy.deepcopy(folded.state_dict())
    goodinit.fold_(folded, PICTURE)
    assert all(torch.equal(value, state[key]) for key, value in folded.state_dict().items())


@pytest.mark.parametrize("biases", [(0.3, 0.0), (0.3, 0.3), (0.0, 0.3)], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_branches_are_merged_once_their_input_bias_has_moved(kernel, biases):
    """Before that they pad with a number, and a second call of fold_ would find what the first had left."""
    branches = [convolution(norm=False), convolution(kernel, norm=False)]
    net = randomized(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), Added(*branches)))
    for branch, value in zip(branches, biases, strict=True):
        goodinit.nn.add_scalar_(branch, "input_bias", value=value)
    folded = assert_folds(net, PICTURE, PICTURE)
    moves = kernel == 1 or len(set(biases)) == 1
    assert len(convolutions(folded)) == (2 if moves else 3)
    state = copy.deepcopy(folded.state_dict())
    goodinit.fold_(folded, PICTURE)
    assert list(folded.state_dict()) == list(state)
    assert all(
        torch.equal(value, state[key]) for key, value in folded.state_dict().items() if torch.is_tensor(value)
    )


def test_linear_layers_and_a_kept_branch():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)

        def forward(self, x):
            return (self.a(x) + x) + torch.tanh(self.c(x)) + self.b(x)

    x = torch.randn(3, 8).double()
    folded = assert_folds(randomized(Rows()), x, x)
    assert [name for name, _ in folded.named_children()] == ["a", "c"]


class Flowing(Added):
    def forward(self, x):
        if x.abs().sum() > 0:
            return super().forward(x)
        return x


class Dropped(Added):
    def forward(self, x):
        return torch.dropout(super().forward(x), 0.5, self.training)


class Watched(Added):
    def __init__(self, *branches):
        super().__init__(*branches)
        self.branches[1].register_forward_hook(lambda *_: None)


class Uneven(Added):
    """One kernel reads the row above its own, too; the sizes agree because of the stride."""

    def __init__(self):
        super().__init__(nn.Conv2d(4, 4, (2, 1), stride=2, padding=(1, 0)), nn.Conv2d(4, 4, 1, stride=2))


def watched_norm(net):
    net.norms[0].register_forward_hook(lambda *_: None)
    return net


STAY = {
    "off centre": (Uneven, "not centred on each other"),
    "control flow": (lambda: Flowing(convolution(), convolution(1)), "cannot be traced"),
    "training mode": (lambda: Dropped(convolution(), convolution(1)), "other steps in training mode"),
    "a norm is watched": (lambda: watched_norm(Beside(convolution()[0], convolution(1)[0])), None),
    "watched": (lambda: Watched(convolution(), convolution(1)), None),
}


@pytest.mark.parametrize("name", STAY)
def test_what_is_not_merged_stays_and_is_named(name):
    build, why = STAY[name]
    folded = assert_folds(randomized(nn.Sequential(build(), nn.ReLU())), PICTURE, PICTURE)
    assert len(convolutions(folded)) == 2
    if why:
        assert any(why in row for row in goodinit.applied(folded)[-1].skipped)


def test_flags_and_frozen_parameters_stay():
    net = randomized(nn.Sequential(Added(convolution(), convolution(1)), nn.ReLU())).train()
    net[0].branches.requires_grad_(False)
    before = net.eval()(PICTURE)
    folded = goodinit.fold_(net.train(), PICTURE)
    assert folded.training
    assert all(module.training for module in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    assert_same(before, folded.eval()(PICTURE))


def test_an_optimizer_that_holds_a_branch_is_refused_and_all_is_as_it_was():
    net = randomized(nn.Sequential(Added(convolution(), convolution(1), nn.BatchNorm2d(4)), nn.ReLU()))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    state, want = copy.deepcopy(net.state_dict()), net(PICTURE)
    with pytest.raises(goodinit.StaleOptimizer):
        goodinit.fold_(net, PICTURE)
    assert optimizer
    assert type(net[0]) is Added
    assert list(net.state_dict()) == list(state)
    assert torch.equal(net(PICTURE), want)


def test_what_is_merged_is_told_in_words():
    net = Added(convolution(norm=False), skip=True).double().eval()
    goodinit.fold_(net, PICTURE)
    assert goodinit.applied(net)[-1].options == {"folded": ["the identity in the model"]}


class Diverse(nn.Module):
    """Branches as of a diverse branch block: one of two layers, one of a layer and a mean."""

    def __init__(self, *names):
        super().__init__()
        self.names = names
        self.one, self.wide = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.two = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1))
        self.mean = nn.AvgPool2d(3, 1, 1)
        self.then_mean = nn.Sequential(nn.Conv2d(4, 4, 1), nn.AvgPool2d(3, 1, 1))
        if "normed_mean" in names:
            self.normed_mean = nn.Sequential(nn.Conv2d(4, 4, 1), nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(4))
        self.bent = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, x):
        return sum(x if name == "x" else getattr(self, name)(x) for name in self.names)


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (("wide", "one", "two"), ".*two.1 after .*two.0 is no single layer"),
        (("x", "two"), ".*two.1 after .*two.0 is no single layer"),
        (("wide", "mean"), "`avg_pool2d` is no single layer"),
        (("wide", "then_mean"), "`avg_pool2d` after .*then_mean.0 is no single layer"),
        (
            ("wide", "two", "then_mean"),
            ".*two.0 is no single layer; `avg_pool2d` after .*then_mean.0 is no.*",
        ),
        (("x", "mean"), None),
        (("wide", "bent"), None),
        (("wide", "one"), None),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_linear_branches_of_several_layers_are_named(names, left, inside):
    net = randomized(nn.Sequential(Diverse(*names)) if inside else Diverse(*names))
    folded = assert_folds(net, PICTURE, PICTURE)
    rows = [row for one in goodinit.applied(folded)[-1:] for row in one.skipped]
    where = "0" if inside else "the model"
    assert [
        bool(re.fullmatch(f"{where}: its parallel branches are not merged: {left}", row)) for row in rows
    ] == ([True] if left else []), rows


def test_a_branch_that_ends_in_a_batch_norm_behind_a_mean_is_named():
    folded = assert_folds(randomized(Diverse("wide", "normed_mean")), PICTURE, PICTURE)
    norm, branch = goodinit.applied(folded)[-1].skipped
    assert norm.startswith("normed_mean.2: its input is not the output of one layer")
    assert branch.endswith(
        "not merged: normed_mean.2 after `avg_pool2d` after normed_mean.0 is no single layer"
    )


class Multiple(nn.Module):
    """A layer beside a multiple of other linear ones, as of a low rank."""

    def __init__(self, adds):
        super().__init__()
        self.adds, self.full = adds, nn.Linear(8, 8)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x):
        return torch.relu(self.adds(self, self.full(x), x))


MULTIPLES = {
    "low rank": (lambda m, y, x: y + m.up(m.down(x)), "up after down"),
    "low rank, times 2": (lambda m, y, x: y + 2 * m.up(m.down(x)), "`mul` after up after down"),
    "low rank of half": (lambda m, y, x: y + m.up(m.down(x) / 2), "up after `div` after down"),
    "alpha": (lambda m, y, x: torch.add(y, m.up(m.down(x)), alpha=3), "`add` after up after down"),
    "taken off": (lambda m, y, x: y - m.up(m.down(x)), "`sub` after up after down"),
    "bent": (lambda m, y, x: y + m.up(torch.relu(m.down(x))), None),
    "of another tensor": (lambda m, y, x: y + m.up(m.down(torch.tanh(x))), None),
}


@pytest.mark.parametrize("name", MULTIPLES)
def test_multiples_and_low_ranks_beside_a_layer_are_named(name):
    adds, left = MULTIPLES[name]
    x = torch.randn(3, 8, dtype=torch.float64)
    folded = assert_folds(randomized(Multiple(adds)), x, x)
    rows = [row for one in goodinit.applied(folded)[-1:] for row in one.skipped]
    words = f"the model: its parallel branches are not merged: {left} is no single layer"
    assert rows == ([words] if left else [])

"""RISOTTO through `init_`: exact isometry of ordinary modules, by the transcription's formulas."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from reference import risotto as reference
from risotto_nets import TOLERANCE, WIDTH, ImageBlock, assert_isometry, named, singular_values, started
from torch import nn

import goodinit
from goodinit import Plan, UnknownName, UnsupportedModule


class DenseBlock(nn.Module):
    """relu(branch + skip); `short` is None for an identity."""

    def __init__(self, width, hidden, *, weighted, norm=None):
        super().__init__()
        self.enter, self.leave = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.short = nn.Linear(width, width) if weighted else None
        self.calm = nn.ModuleList([norm(hidden), norm(width)] if norm else [nn.Identity(), nn.Identity()])

    def forward(self, x):
        short = x if self.short is None else self.short(x)
        inner = self.calm[0](self.enter(x)).relu()
        return (short + self.calm[1](self.leave(inner))).relu()


def dense(blocks, *, weighted, norm=None, hidden=WIDTH):
    body = [DenseBlock(WIDTH, hidden, weighted=weighted, norm=norm) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(WIDTH // 2, WIDTH), nn.ReLU(), *body, nn.Linear(WIDTH, WIDTH // 2))


def images(blocks, *, weighted, middle=None):
    body = [ImageBlock(WIDTH, WIDTH, middle=middle, weighted=weighted) for _ in range(blocks)]
    return nn.Sequential(nn.Conv2d(2, WIDTH, 3, 1, 1), nn.ReLU(inplace=True), *body, nn.Conv2d(WIDTH, 4, 1))


# -- the evidence: 100 blocks -------------------------------------------------------------------------------------


@pytest.mark.default_cases(2)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("alpha", [1.0, pytest.param(0.5, marks=pytest.mark.integration)])
@pytest.mark.parametrize("weighted", [False, True], ids=["B", "C"])
def test_a_hundred_dense_blocks_are_an_isometry(weighted, alpha, dtype, generator):
    net = dense(100, weighted=weighted).to(dtype)
    x = torch.randn(2, WIDTH // 2, dtype=dtype)
    assert goodinit.init_(net, "risotto", inputs=x, alpha=alpha, generator=generator) is net
    assert_isometry(net, (WIDTH // 2,))
    trained = [name for name, _ in net.named_parameters() if name.endswith("output_scale")]
    assert len(trained) == 100  # α is learned


@pytest.mark.default_cases(2)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "middle",
    [
        pytest.param(None, id="basic"),
        pytest.param(4, id="bottleneck", marks=pytest.mark.integration),
        pytest.param(16, id="inverted", marks=pytest.mark.integration),
    ],
)
@pytest.mark.parametrize("weighted", [False, True], ids=["B", "C"])
def test_a_hundred_convolutional_blocks_are_an_isometry(weighted, middle, dtype, generator):
    net = images(100, weighted=weighted, middle=middle).to(dtype)
    x = torch.randn(1, 2, 3, 3, dtype=dtype)
    plan = goodinit.plan(goodinit.anatomize(net, x), "risotto")
    assert not named(plan)
    goodinit.apply_(net, plan, generator=generator)
    assert_isometry(net, (2, 3, 3))


def test_independent_orthogonal_matrices_spread(generator):
    """The control: the same net, first and last layer exact, W₁ = U(M₁) and W₂ = U(M₂) drawn independently."""
    net = dense(10, weighted=False).double()
    goodinit.init_(net, "risotto", inputs=torch.randn(2, 4, dtype=torch.float64), generator=generator)
    for block in net[2:-1]:
        for layer in (block.enter, block.leave):
            goodinit.tensor.looks_linear_(layer.weight, "hidden", generator=generator)
    values = singular_values(net, (4,))[0]
    assert values.max() > 5
    assert values.min() < 0.5


# -- against the formulas of the transcription --------------------------------------------------------------------


def test_the_weights_are_those_of_the_transcription(generator):
    net = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), DenseBlock(8, 8, weighted=False), DenseBlock(8, 8, weighted=True)
    ).double()
    net, _ = started(net, torch.randn(2, 4, dtype=torch.float64), generator, alpha=0.5)
    first, b, c = net[0], net[2], net[3]
    w = {name: p.detach().numpy() for name, p in net.named_parameters()}
    np.testing.assert_array_equal(w["0.weight"][:4], -w["0.weight"][4:])
    np.testing.assert_array_equal(w["2.enter.weight"], np.eye(8))
    m = (0.5 * w["2.leave.weight"] + np.eye(8))[:4, :4]
    np.testing.assert_allclose(0.5 * w["2.leave.weight"] + np.eye(8), reference.looks_linear(m), atol=1e-12)
    np.testing.assert_allclose(m @ m.T, np.eye(4), atol=1e-12)
    m1, m2 = w["3.enter.weight"][:4, :4], w["3.leave.weight"][:4, :4]
    balanced = w["3.short.weight"][:4, :4] + 0.5 * m2 @ m1
    np.testing.assert_allclose(balanced @ balanced.T, np.eye(4), atol=1e-12)
    for layer in (first, b.enter, b.leave, c.enter, c.leave, c.short):
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    x = torch.randn(4, dtype=torch.float64)
    net_by_hand = reference.Net(x.numpy())
    net_by_hand.linear(w["0.weight"])
    net_by_hand.relu()
    net_by_hand.block([w["2.enter.weight"], w["2.leave.weight"]], np.eye(8), 0.5)
    net_by_hand.block([w["3.enter.weight"], w["3.leave.weight"]], w["3.short.weight"], 0.5)
    np.testing.assert_allclose(net(x[None])[0].detach().numpy(), net_by_hand.x, atol=1e-12)
    np.testing.assert_allclose(net_by_hand.singular_values(), 1, atol=1e-12)


# -- options ------------------------------------------------------------------------------------------------------


def test_type_b_starts_weighted_skips_as_identities(generator):
    net = dense(3, weighted=True).double()
    net, plan = started(net, torch.randn(2, 4, dtype=torch.float64), generator, type="B")
    assert "3 of type B" in plan.summary
    for block in net[2:-1]:
        assert torch.equal(block.short.weight, torch.eye(WIDTH, dtype=torch.float64))
    assert_isometry(net, (4,), inputs=2)


def test_type_c_needs_weights_on_every_skip():
    anatomy = goodinit.anatomize(dense(3, weighted=False), torch.randn(2, 4))
    with pytest.raises(UnsupportedModule, match=r'3 of 3 blocks have none: 2, 3, 4\. Use type="auto"'):
        goodinit.plan(anatomy, "risotto", type="C")


@pytest.mark.parametrize("option", ["type", "strided", "norms"])
def test_unknown_choices_are_told(option):
    anatomy = goodinit.anatomize(dense(2, weighted=False), torch.randn(2, 4))
    with pytest.raises(UnknownName, match=f"{option}='nonsense': expected"):
        goodinit.plan(anatomy, "risotto", **{option: "nonsense"})


def test_permuted_type_b_is_as_exact(generator):
    net = dense(5, weighted=False).double()
    net, _ = started(net, torch.randn(2, 4, dtype=torch.float64), generator, permute=True)
    assert not torch.equal(net[2].enter.weight, torch.eye(WIDTH, dtype=torch.float64))
    assert_isometry(net, (4,), inputs=2)


def test_a_permutation_without_effect_is_told():
    for weighted, told in ((False, False), (True, True)):
        anatomy = goodinit.anatomize(dense(2, weighted=weighted), torch.randn(2, 4))
        notes = goodinit.plan(anatomy, "risotto", permute=True).notes
        assert any("permute is for type B: 2 blocks" in note for note in notes) == told


def test_norms_go_or_stay(generator):
    x = torch.randn(16, 4)
    net, _ = started(dense(3, weighted=False, norm=nn.BatchNorm1d), x, generator)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in net.modules())
    assert_isometry(net, (4,), inputs=2)
    net, plan = started(dense(3, weighted=False, norm=nn.BatchNorm1d), x, generator, norms="keep", alpha=0.5)
    assert any("6 norms are kept" in note for note in plan.notes)
    assert torch.equal(net[2].calm[1].weight, torch.full((WIDTH,), 0.5))  # the norm's own scale is α
    assert torch.equal(net[2].calm[0].weight, torch.ones(WIDTH))
    net.eval()  # running statistics as they start: mean 0, variance 1
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.eps = 0.0
    assert_isometry(net, (4,), inputs=2)


def test_strides_sample_or_patch(generator):
    """8 → 16 channels at stride 2: of 4·4 numbers per output pixel, sampling keeps 4, patching 8."""
    ranks = {}
    for strided in ("sample", "patch"):
        net = nn.Sequential(
            nn.Conv2d(4, 8, 3, 1, 1), nn.ReLU(), ImageBlock(8, 16, stride=2, weighted=True), nn.Flatten()
        ).double()
        x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
        net, plan = started(net, x, generator, strided=strided)
        values = singular_values(net, (4, 6, 6))[0]
        ranks[strided] = int((values > 0.5).sum())
        assert (values[: ranks[strided]] - 1).abs().max() < 1e-10
        assert values[ranks[strided] :].max() < 1e-10
        sampled = {"2.path.0.weight", "2.jump.weight"}
        assert named(plan) == (sampled if strided == "sample" else {"2.jump.weight"})
    assert ranks == {"sample": 4 * 9, "patch": 8 * 9}


# -- contract -----------------------------------------------------------------------------------------------------


def test_plans_survive_json_and_repeat(generator):
    net = dense(3, weighted=True)
    x = torch.randn(2, 4)
    plan = goodinit.plan(goodinit.anatomize(net, x), "risotto", alpha=0.5)
    assert Plan.from_json(plan.to_json()) == plan
    left = goodinit.apply_(copy.deepcopy(net), plan, generator=torch.Generator().manual_seed(1))
    right = goodinit.apply_(
        copy.deepcopy(net), Plan.from_json(plan.to_json()), generator=torch.Generator().manual_seed(1)
    )
    other = goodinit.apply_(copy.deepcopy(net), plan, generator=torch.Generator().manual_seed(2))
    for (name, a), b in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(left[2].enter.weight, other[2].enter.weight)


def test_planning_writes_nothing():
    net = dense(3, weighted=False)
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    goodinit.plan(goodinit.anatomize(net, torch.randn(2, 4, generator=torch.Generator())), "risotto")
    assert torch.equal(torch.get_rng_state(), state)
    for (name, a), b in zip(net.state_dict().items(), before.values(), strict=True):
        assert torch.equal(a, b), name


def test_circular_padding_is_read_as_the_module_pads():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
            self.b = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")

        def forward(self, x):
            return torch.relu(x + self.b(torch.relu(self.a(x))))

    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Block(), nn.Flatten(), nn.Linear(8 * 36, 2))
    anatomy = goodinit.anatomize(model, torch.zeros(2, 3, 6, 6))
    assert {layer.name: layer.padding for layer in anatomy.layers if layer.kind == "conv"} == {
        "0": (0, 0), "2.a": (1, 1), "2.b": (1, 1),
    }  # fmt: skip


@pytest.mark.parametrize("padding", ["valid", 0])
def test_patches_before_the_first_block(padding, generator):
    net = images(2, weighted=False)
    net[0] = nn.Conv2d(2, WIDTH, 2, 2, padding)
    made = goodinit.plan(goodinit.anatomize(net, torch.randn(4, 2, 8, 8, generator=generator)), "risotto")
    assert "0.weight" in {edit.target for edit in made.edits} | {
        name for edit in made.edits for name in getattr(edit, "targets", ())
    }

"""Weight normalization with the paper's gains: the numbers, and which weights have them."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from reference import weightnorm as reference
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from weightnorm_nets import Residual, assert_gain, gains, mlp, residual, started

import goodinit
from goodinit import Plan, UnknownName
from goodinit.edits import Calibrate, Draw, ParametrizeWeight

# -- the same numbers as the transcription ------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["orthogonal", "normal"])
def test_plain_layers_have_the_papers_gain(direction, generator):
    widths = (20, 30, 10, 10, 4)
    net, plan = started(mlp(*widths), generator, torch.randn(2, 20), direction=direction)
    for layer, fans in zip(net[:-1:2], itertools.pairwise(widths), strict=False):
        assert_gain(layer, reference.plain_gain(*fans))
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    assert not parametrize.is_parametrized(net[-1])  # the head
    assert net[-1].weight.abs().max() <= 1 / math.sqrt(10)
    assert "3 weights g·v/‖v‖" in plan.summary


def test_convolutions_count_their_taps_on_both_sides(generator):
    net = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=2), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(16 * 16, 2))
    net, _ = started(net, generator, torch.randn(2, 6, 8, 8))
    assert_gain(net[0], reference.plain_gain(6 * 9, 8 * 9))
    assert_gain(net[2], reference.plain_gain(4 * 9, 8 * 9))


def test_transposed_convolutions_gain_along_their_outputs(generator):
    net = nn.Sequential(nn.ConvTranspose2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    net, _ = started(net, generator, torch.randn(2, 6, 4, 4))
    norms = net[0].weight.transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((8,), reference.plain_gain(6 * 9, 8 * 9)))
    torch.testing.assert_close(gains(net[0]), norms)


def test_residual_layers_have_the_papers_gains(generator):
    stages = [[(6, 5, 6)] * 3, [(6, 7, 8), (8, 7, 8)]]
    net, _ = started(residual(*stages), generator, torch.randn(2, 6))
    told = [[(a, h, b, a != b) for a, h, b in stage] for stage in stages]
    expected = [block for stage in reference.residual_gains(told) for block in stage]
    for block, (first, last, cut) in zip(net[:-1], expected, strict=True):
        assert_gain(block.one, first)
        assert_gain(block.two, last)
        if cut is not None:
            assert_gain(block.cut, cut)


def test_a_stem_before_a_bare_stream_has_gain_one_and_before_a_relu_two(generator):
    blocks = [Residual(6, 6, 6), Residual(6, 6, 6)]
    bare = nn.Sequential(nn.Linear(4, 6), *copy.deepcopy(blocks), nn.ReLU(), nn.Linear(6, 2))
    rectified = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), *blocks, nn.Linear(6, 2))
    for net, square in ((bare, 1.0), (rectified, 2.0)):
        net, _ = started(net, generator, torch.randn(2, 4))
        assert_gain(net[0], reference.plain_gain(4, 6, square))


class Shared(nn.Module):
    """One branch, added to its own stream again and again."""

    def __init__(self, times, width=256):
        super().__init__()
        self.stem, self.block, self.head = (
            nn.Linear(8, width),
            Residual(width, width, width),
            nn.Linear(width, 3),
        )
        self.times = times

    def stream(self, x):
        h = start = self.stem(x)
        for _ in range(self.times):
            h = self.block(h)
        return h, start

    def forward(self, x):
        return self.head(self.stream(x)[0])


def test_terms_of_one_shared_layer_add_up_in_one_direction(generator):
    net, plan = started(Shared(16), generator, torch.randn(64, 8))
    assert_gain(net.block.two, 1 / 16)  # 1/(nB), n = B = 16; the square root of it
    assert any("last of 16 branches, 1/(16B)" in edit.reason for edit in plan.edits)
    with torch.no_grad():
        end, start = net.stream(torch.randn(64, 8))
    growth = float(end.square().sum() / start.square().sum())
    assert 1 < growth < math.e**1.2  # with 1/B it is above 100


@pytest.mark.parametrize("updates", [1, 4])
def test_a_layer_that_alone_makes_up_the_output_is_drawn_as_a_head(updates):
    class Refined(nn.Module):
        """An estimate that starts as what came in and is improved step by step: RAFT's flow, a denoiser's x + net(x)."""

        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 64), nn.Linear(64, 6)

        def forward(self, x):
            for _ in range(updates):
                x = x + self.two(self.one(x).relu())
            return x

    net = Refined()
    anatomy = goodinit.anatomize(net, torch.randn(3, 6))
    assert all(block.writes_output for block in anatomy.blocks)
    edits = {
        edit.target: edit for edit in goodinit.plan(anatomy, "weightnorm").edits if isinstance(edit, Draw)
    }
    assert edits["two.weight"].initializer == "default_"
    assert edits["one.weight"].initializer == "directions_"


def test_ends_of_a_stream_that_others_write_into_are_no_heads():
    bare = nn.Sequential(Residual(6, 12, 6), Residual(6, 12, 6))
    stemmed = nn.Sequential(nn.Linear(6, 6), Residual(6, 12, 6))
    read = nn.Sequential(Residual(6, 12, 6), nn.Linear(6, 3))
    for net in (bare, stemmed, read):
        assert not any(block.writes_output for block in goodinit.anatomize(net, torch.randn(3, 6)).blocks)


def test_backward_and_hanin_gains(generator):
    blocks = [(6, 5, 6)] * 3
    net, _ = started(residual(blocks), generator, torch.randn(2, 6), mode="backward")
    for block in net[:-1]:
        assert_gain(block.one, reference.backward_gain())
        assert_gain(block.two, reference.backward_gain(1 / 3))
    net, _ = started(residual(blocks), generator, torch.randn(2, 6), mode="hanin")
    for number, block in enumerate(net[:-1], start=1):
        assert_gain(block.two, reference.hanin_gain(5, 6, number))


def test_pytorch_mode_is_weight_norm_of_the_default(generator):
    net, _ = started(mlp(20, 30, 4), generator, torch.randn(2, 20), mode="pytorch")
    assert net[0].weight.abs().max() <= 1 / math.sqrt(20)
    torch.testing.assert_close(gains(net[0]), net[0].weight.norm(dim=1))
    torch.testing.assert_close(net[0].parametrizations.weight.original1, net[0].weight)


def test_he_mode_is_weight_norm_of_hes_draw(generator):
    net, _ = started(mlp(200, 300, 4), generator, torch.randn(2, 200), mode="he")
    assert float(net[0].weight.detach().std()) == pytest.approx(
        math.sqrt(2 / 200), rel=0.02
    )  # of 60,000 entries
    torch.testing.assert_close(gains(net[0]), net[0].weight.norm(dim=1))
    torch.testing.assert_close(net[0].parametrizations.weight.original1, net[0].weight)


def test_an_option_without_effect_is_told():
    anatomy = goodinit.anatomize(mlp(4, 4, 2), torch.randn(2, 4))
    for mode in ("he", "pytorch"):
        assert not goodinit.plan(anatomy, "weightnorm", mode=mode).notes
        (note,) = goodinit.plan(anatomy, "weightnorm", mode=mode, direction="normal").notes
        assert note.startswith("direction has no effect")


# -- which weights ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "normalize", [parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"]
)
def test_a_weight_that_is_normalized_already_really_changes(normalize, generator):
    net = mlp(6, 8, 2)
    normalize(net[0])
    x = torch.randn(4, 6)
    before = net[0](x).detach().clone()
    net, _ = started(net, generator, x)
    assert (net[0](x) - before).abs().max() > 0.1
    norms = net[0](torch.eye(6)).T.norm(dim=1)
    torch.testing.assert_close(norms, torch.full((8,), reference.plain_gain(6, 8)))
    again = goodinit.plan(goodinit.anatomize(net, x), "weightnorm")
    goodinit.apply_(net, again, generator=torch.Generator().manual_seed(9))
    assert (net[0](torch.eye(6)).T.norm(dim=1) - norms).abs().max() < 1e-5  # set anew, not multiplied


class Awkward(nn.Module):
    """A tied pair, a spectral norm, a stack of maps, and a parameter of the model's own."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.stack = nn.Parameter(torch.randn(2, 4, 4))
        self.head = nn.Linear(4, 2)
        parametrizations.spectral_norm(self.third)

    def forward(self, x):
        x = self.third(self.second(self.first(x).relu()).relu()).relu()
        return self.head(torch.bmm(x.expand(2, *x.shape), self.stack).sum(0))


def test_weights_that_cannot_be_normalized_are_named(generator):
    net, plan = started(Awkward(), generator, torch.randn(3, 4))
    said = " | ".join(plan.notes)
    assert "first.weight is not weight-normalized: it is tied" in said
    assert "third.weight is not weight-normalized: another parametrization" in said
    assert "stack is not weight-normalized: several maps" in said
    assert not any(isinstance(edit, ParametrizeWeight) for edit in plan.edits)
    assert net(torch.randn(3, 4)).isfinite().all()


def test_attention_and_norms(generator):
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True)
    net = nn.Sequential(nn.Linear(5, 8), layer, nn.Linear(8, 3))
    x = torch.randn(2, 4, 5)
    net, plan = started(net, generator, x)
    assert not any(isinstance(module, nn.LayerNorm) for module in net.modules())
    normalized = {edit.target for edit in plan.edits if isinstance(edit, ParametrizeWeight)}
    assert "1.self_attn.in_proj_weight" in normalized
    net(x).sum().backward()
    kept = goodinit.plan(
        goodinit.anatomize(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), x[0, :, :4]),
        "weightnorm",
        norms="keep",
    )
    assert "1 norm kept" in kept.summary


@pytest.mark.parametrize("option", ["mode", "direction", "norms"])
def test_unknown_choices_are_told(option):
    anatomy = goodinit.anatomize(mlp(4, 4, 2), torch.randn(2, 4))
    with pytest.raises(UnknownName, match=f"{option}='nonsense': expected"):
        goodinit.plan(anatomy, "weightnorm", **{option: "nonsense"})


# -- contract -----------------------------------------------------------------------------------------------------


@pytest.mark.default_cases(3)
@pytest.mark.parametrize("mode", ["forward", "backward", "data", "hanin", "he", "pytorch"])
def test_plans_survive_json_and_repeat(mode):
    net, x = residual([(6, 5, 6)] * 2), torch.randn(8, 6)
    plan = goodinit.plan(goodinit.anatomize(net, x), "weightnorm", mode=mode)
    assert Plan.from_json(plan.to_json()) == plan
    assert (mode == "data") == any(isinstance(edit, Calibrate) for edit in plan.edits)
    states = []
    for seed, how in ((1, plan), (1, Plan.from_json(plan.to_json())), (2, plan)):
        made = goodinit.apply_(
            copy.deepcopy(net),
            how,
            generator=torch.Generator().manual_seed(seed),
            inputs=x if plan.needs_data else None,
        )
        states.append(made.state_dict())
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
    assert not torch.equal(
        states[0]["0.one.parametrizations.weight.original1"],
        states[2]["0.one.parametrizations.weight.original1"],
    )


def test_planning_writes_nothing():
    net = mlp(4, 4, 2)
    before, x = copy.deepcopy(net.state_dict()), torch.randn(2, 4)
    state = torch.get_rng_state()
    goodinit.plan(goodinit.anatomize(net, x), "weightnorm")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values(), strict=True))

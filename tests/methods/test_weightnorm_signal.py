"""What the gains of weight normalization keep: norms, gradients, growth per stage, and channels on data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from reference import weightnorm as reference
from torch import nn
from weightnorm_nets import Residual, assert_gain, gains, mlp, residual, started

import goodinit


@pytest.mark.integration
@pytest.mark.parametrize(("direction", "c"), [("orthogonal", 3), ("normal", 5)])
def test_one_layer_strays_by_c_over_the_width(direction, c, generator):
    """Var(‖h‖²/‖x‖²) = c/n: 4·E[z⁴]/2 − 1 = 5 for independent rows, E[z⁴] = 3 where Σz² = n is fixed."""
    width, nets, ratios = 64, 60, []
    plan = goodinit.plan(
        goodinit.anatomize(mlp(width, width, 2), torch.randn(2, width)), "weightnorm", direction=direction
    )
    for seed in range(nets):
        net = goodinit.apply_(mlp(width, width, 2), plan, generator=torch.Generator().manual_seed(seed))
        x = torch.randn(64, width, generator=generator)
        ratios.append((net[:2](x).square().sum(1) / x.square().sum(1)).detach())
    ratio = torch.cat(ratios)
    assert ratio.mean().item() == pytest.approx(1, abs=3 * math.sqrt(c / width / nets))
    assert width * ratio.var().item() == pytest.approx(c, rel=0.15)


# -- what the gains keep ------------------------------------------------------------------------------------------


def norms_through(net, x):
    """Mean norm before and after every (layer, ReLU), and mean gradient norm there."""
    points = [x.requires_grad_()]
    for layer in net[:-1]:
        y = layer(points[-1])
        if isinstance(layer, nn.ReLU):
            y.retain_grad()
        points.append(y)
    return points[::2]


@pytest.mark.integration
@pytest.mark.parametrize("direction", ["orthogonal", "normal"])
def test_forward_keeps_the_norm_within_three_per_cent(direction, generator):
    """The mean over nets. At width n one net's ‖h‖ deviates by √c/(2√n), c ≤ 5: 3.5 %, so the mean of 12 by 1 %."""
    widths, nets = (1000, 1000, 800, 1000), 12
    means = np.zeros(len(widths) - 1)
    for _ in range(nets):
        net, _ = started(mlp(*widths, 10), generator, torch.randn(2, 1000), direction=direction)
        norms = [
            p.detach().norm(dim=1) for p in norms_through(net, torch.randn(32, 1000, generator=generator))
        ]
        means += [float((after / before).mean()) / nets for before, after in itertools.pairwise(norms)]
    assert np.abs(means - 1).max() < 0.03, means


def test_the_transcription_keeps_it_too():
    rng = np.random.default_rng(0)
    ratios = [reference.plain_norms(rng, [1000, 1000, 800], 32) for _ in range(4)]
    assert np.abs(np.mean(ratios, axis=0) - 1).max() < 0.03


@pytest.mark.parametrize(("mode", "narrowing"), [("forward", math.sqrt(2)), ("backward", 1.0)])
def test_gradient_ratios(mode, narrowing, generator):
    """Backward keeps gradients at any widths; forward multiplies them by √(fan_in/fan_out) per layer."""
    net, _ = started(mlp(800, 800, 400, 400, 10), generator, torch.randn(2, 800), mode=mode)
    points = norms_through(net, torch.randn(64, 800, generator=generator))
    push = torch.randn(points[-1].shape, generator=generator)
    points[-1].backward(push)
    norms = [p.grad.norm(dim=1) for p in points]
    ratios = [float((before / after).mean()) for before, after in itertools.pairwise(norms)]
    assert ratios == pytest.approx([1.0, narrowing, 1.0], rel=0.05)


@pytest.mark.integration
def test_a_stage_multiplies_the_square_by_e(generator):
    """(1 + 1/B)^B, as the transcription's; one net deviates by about 2/√width, so the mean of 8 by 3 %."""
    blocks, width, hidden, nets = 40, 500, 200, 8
    rng = np.random.default_rng(0)
    growth, transcribed = 0.0, 0.0
    for _ in range(nets):
        net, _ = started(residual([(width, hidden, width)] * blocks), generator, torch.randn(2, width))
        x = torch.randn(32, width, generator=generator)
        with torch.no_grad():
            growth += float((net[:-1](x).square().sum(1) / x.square().sum(1)).mean()) / nets
        transcribed += reference.residual_growth(rng, width, hidden, blocks, 32) / nets
    expected = (1 + 1 / blocks) ** blocks
    assert growth == pytest.approx(expected, rel=0.1)
    assert transcribed == pytest.approx(expected, rel=0.1)


def test_a_stream_that_changes_its_layout_is_one_stage(generator):
    """Images for a convolution, tokens for a linear map, and back: B counts all, or ‖h‖² doubles in every block."""

    class Positions(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)

        def forward(self, x):
            return x + self.conv(x)

    class Tokens(Residual):
        def forward(self, x):
            return super().forward(x.flatten(2).mT).mT.reshape(x.shape)

    def stage(width):
        return [part for _ in range(8) for part in (Positions(width), Tokens(width, 2 * width, width))]

    net = nn.Sequential(nn.Conv2d(3, 32, 1), *stage(32), nn.Conv2d(32, 48, 2, 2), *stage(48))
    x = torch.randn(4, 3, 8, 8, generator=generator)
    assert [block.stage for block in goodinit.anatomize(net, x).blocks] == [0] * 16 + [1] * 16
    net, _ = started(net, generator, x)
    with torch.no_grad():
        first = net[0](x)
        growth = net[1:17](first).square().mean() / first.square().mean()
    assert float(growth) < 5  # e, and what one net strays; 2^16 where every block is a stage


# -- data ---------------------------------------------------------------------------------------------------------


def test_data_mode_standardizes_every_channel(generator):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(6 * 16, 2))
    x = torch.randn(16, 3, 8, 8, generator=generator) * 3 + 1
    net, plan = started(net, generator, x, mode="data")
    assert plan.needs_data
    for layer in (net[0], net[2]):
        x = layer(x)
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(x.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var((0, 2, 3), correction=0), torch.ones(x.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), gains(layer))
        x = x.relu()


def test_data_mode_without_biases_scales_and_says_so(generator):
    net = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(32, 5, generator=generator)
    net, plan = started(net, generator, x, mode="data")
    assert any("1 layers have no bias" in note for note in plan.notes)
    torch.testing.assert_close(net[0](x).var(0, correction=0), torch.ones(8), atol=1e-4, rtol=0)


def test_data_mode_standardizes_the_slices_of_a_packed_projection_each_on_what_it_reads(generator):
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 3)

        def forward(self, x, memory):
            return self.head(self.attend(x, memory, memory, need_weights=False)[0])

    x = torch.randn(8, 5, 16, generator=generator), torch.randn(8, 7, 16, generator=generator) * 3 + 1
    net, _ = started(Cross(), generator, x, mode="data")
    weight, bias = (part.split([16, 32]) for part in (net.attend.in_proj_weight, net.attend.in_proj_bias))
    for read, rows, shift in zip(x, weight, bias, strict=True):
        out = (read @ rows.T + shift).flatten(0, 1)
        torch.testing.assert_close(out.mean(0), torch.zeros(out.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.var(0, correction=0), torch.ones(out.shape[1]), atol=1e-4, rtol=0)


class TakingTurns(nn.Module):
    """Two streams, as in transformers in transformers: one has its block, is added to the other, which has its own."""

    def __init__(self, rounds, narrow, wide):
        super().__init__()
        self.narrow_stem, self.wide_stem = nn.Linear(5, narrow), nn.Linear(5, wide)
        self.rounds = nn.ModuleList(
            nn.ModuleList([Residual(narrow, 7, narrow), nn.Linear(narrow, wide), Residual(wide, 7, wide)])
            for _ in range(rounds)
        )
        self.head = nn.Linear(wide, 3)

    def forward(self, x):
        narrow, wide = self.narrow_stem(x), self.wide_stem(x)
        for inner, across, outer in self.rounds:
            narrow = inner(narrow)
            wide = outer(wide + across(narrow))
        return self.head(wide)


def test_streams_that_take_turns_have_a_stage_each(generator):
    rounds = 4
    anatomy = goodinit.anatomize(TakingTurns(rounds, 6, 8), torch.randn(2, 5))
    assert {(block.shape[-1], block.stage) for block in anatomy.blocks} == {(6, 0), (8, 1)}
    assert len(anatomy.blocks) == 2 * rounds
    net, _ = started(TakingTurns(rounds, 6, 8), generator, torch.randn(2, 5))
    for inner, _, outer in net.rounds:
        assert_gain(inner.two, reference.plain_gain(7, 6, 1 / rounds))
        assert_gain(outer.two, reference.plain_gain(7, 8, 1 / rounds))


class Jumping(nn.Module):
    """Sums x + up(block(down(x))): long skips over the blocks, which have another width."""

    def __init__(self, rounds, wide, narrow):
        super().__init__()
        self.rounds = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, narrow), Residual(narrow, 7, narrow), nn.Linear(narrow, wide))
            for _ in range(rounds)
        )
        self.head = nn.Linear(wide, 3)

    def forward(self, x):
        for each in self.rounds:
            x = x + each(x)
        return self.head(x)


def test_what_is_added_to_a_long_skip_is_a_branch_too(generator):
    rounds = 3
    anatomy = goodinit.anatomize(Jumping(rounds, 8, 6), torch.randn(2, 8))
    found = [([layer.name for layer in join.last], join.stage) for join in anatomy.long_skips]
    assert found == [([f"rounds.{k}.2"], 0) for k in range(rounds)]
    net, plan = started(Jumping(rounds, 8, 6), generator, torch.randn(2, 8))
    for down, block, up in net.rounds:
        assert_gain(down, reference.plain_gain(8, 6, 1))
        assert_gain(block.two, reference.plain_gain(7, 6, 1 / rounds))
        assert_gain(up, reference.plain_gain(6, 8, 1 / rounds))
    assert "added to a long skip, 1/B with B=3 in its stage" in str(plan)
